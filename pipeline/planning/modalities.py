"""The modalities that a prediction uses: slides, genes or both."""

PATTERNS = ("slides+genes", "slides", "genes")


def used_modalities(*, slides: bool, genes: bool) -> str:
    """The column `modalities` of a prediction: one of `PATTERNS`; "" where there is neither."""
    return "+".join(name for name, present in (("slides", slides), ("genes", genes)) if present)
