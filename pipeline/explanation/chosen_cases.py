"""Which cases are explained: those asked for, or the ones that teach most about a model."""

from collections.abc import Sequence

import pandas as pd

from pipeline.config.schema import ALL_CASES
from pipeline.tasks import Task
from preprocessing.io.errors import InputError, some


def require_cases(which: int | tuple[str, ...], known: Sequence[str]) -> None:
    """Raise InputError where a case that is asked for is none of those that are used."""
    named = which if isinstance(which, tuple) and which != ALL_CASES else ()
    unknown = [case for case in named if case not in set(known)]
    if unknown:
        raise InputError(
            f"--explain: {some(unknown)}: not among the {len(known)} cases that are used ({some(known)}); --dry-run shows "
            "which cases are left out, and why"
        )


def choose_cases(task: Task, predictions: pd.DataFrame, which: int | tuple[str, ...]) -> dict[str, str]:
    """The cases to explain, each with the reason why.

    Args:
        task: what was predicted.
        predictions: of that task, as in `predictions.csv`; a case may be there several times, and its first row counts.
        which: ids; or how many of each of the task's kinds, see `Task.worth_explaining`.

    Returns:
        Reasons by case id; a case of several kinds has all of them.
    """
    predicted = predictions[predictions["prediction"].notna()].drop_duplicates("case_id").set_index("case_id")
    if which == ALL_CASES:
        return dict.fromkeys(predicted.index, "all cases")
    if isinstance(which, tuple):
        return {case: "asked for" for case in which if case in predicted.index}
    reasons: dict[str, list[str]] = {}
    for why, cases in task.worth_explaining(predicted.dropna(axis=1, how="all")) if len(predicted) else ():
        for case in cases[:which]:
            reasons.setdefault(case, []).append(why)
    return {case: "; ".join(whys) for case, whys in reasons.items()}
