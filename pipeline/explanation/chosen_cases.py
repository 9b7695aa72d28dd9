"""The cases to explain: requested ones, or those that reveal most about a model."""

from collections.abc import Iterator, Sequence

import pandas as pd

from preprocessing.io.errors import InputError, some


def require_cases(which: int | tuple[str, ...], known: Sequence[str]) -> None:
    """Raise InputError if a requested case is not among the cases used.

    Args:
        which: requested ids; a number requests none by id.
        known: the cases used.
    """
    unknown = [case for case in which if case not in set(known)] if isinstance(which, tuple) else []
    if unknown:
        raise InputError(
            f"--explain: {some(unknown)}: not among the {len(known)} cases used ({some(known)}); --dry-run lists excluded cases "
            "with the reason"
        )


def choose_cases(told: pd.DataFrame, which: int | tuple[str, ...]) -> dict[str, str]:
    """The cases to explain, each with the reason why.

    Args:
        told: the predictions of one task, as in `predictions.csv`; a case may be there several times, and its first row counts.
        which: ids; or how many of each kind. Of classes the kinds are the most and the least certain cases among those that
            are right, and likewise among those that are wrong; of survival the highest and the lowest risk, and the cases
            whose risk is too high or too low for their outcome. Where no label is known, rightness and outcome play no part.

    Returns:
        Reasons by case id; a case of several kinds has all of them.
    """
    told = told[told["prediction"].notna()].drop_duplicates("case_id").set_index("case_id").dropna(axis=1, how="all")
    if isinstance(which, tuple):
        return {case: "requested" for case in which if case in told.index}
    reasons: dict[str, list[str]] = {}
    for why, cases in _survival_kinds(told) if "risk" in told else _class_kinds(told):
        for case in cases[:which]:
            reasons.setdefault(case, []).append(why)
    return {case: "; ".join(whys) for case, whys in reasons.items()}


def certainty(told: pd.DataFrame) -> pd.Series:
    """The probability of the likeliest class of each row, 0 to 1; NaN of survival."""
    probabilities = told.filter(like="probability_")
    return probabilities.max(axis=1) if probabilities.shape[1] else pd.Series(float("nan"), told.index)


def _class_kinds(told: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    by_certainty = certainty(told).sort_values(ascending=False, kind="stable").index
    groups = {"": by_certainty}
    if "label" in told:
        labelled = told.loc[by_certainty].dropna(subset=["label"])
        is_right = labelled["label"].astype(str) == labelled["prediction"].astype(str)
        groups = {", right": labelled.index[is_right], ", wrong": labelled.index[~is_right]}
    for verdict, cases in groups.items():
        yield f"most certain{verdict}", list(cases)
        yield f"least certain{verdict}", list(cases[::-1])


def _survival_kinds(told: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    by_risk = told["risk"].sort_values(ascending=False, kind="stable").index
    yield "highest risk", list(by_risk)
    yield "lowest risk", list(by_risk[::-1])
    if not {"survival_months", "event"} <= set(told):
        return
    known = told.dropna(subset=["survival_months", "event"])
    # A case that is right has the place among the risks that its time leaves: the longest time, the lowest risk.
    too_high = known["risk"].rank(pct=True) + known["survival_months"].astype(float).rank(pct=True)
    too_high -= too_high.mean()
    lived_long = too_high[too_high > 0].sort_values(ascending=False, kind="stable")
    yield "risk too high for its outcome", list(lived_long.index)
    died_early = too_high[(too_high < 0) & known["event"].astype(bool)].sort_values(kind="stable")
    yield "risk too low for its outcome", list(died_early.index)
