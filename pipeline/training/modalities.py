"""What a prediction rests on, slides, genes or both, and what a run has validated of each."""

PATTERNS = ("slides+genes", "slides", "genes")


def rests_on(*, slides: bool, genes: bool) -> str:
    """What a prediction rests on, as `predictions.csv` says it; "" where there is neither."""
    return "+".join(name for name, there in (("slides", slides), ("genes", genes)) if there)
