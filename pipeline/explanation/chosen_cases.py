"""The cases to explain: requested ones, or those that reveal most about a model."""

from collections.abc import Sequence

import pandas as pd

from pipeline.config.schema import ALL_CASES
from pipeline.tasks import Task
from preprocessing.io.errors import InputError, count, some
from preprocessing.tables.identity import IdentityScheme


def requested_cases(
    which: int | tuple[str, ...], known: Sequence[str], identity: IdentityScheme
) -> int | tuple[str, ...]:
    """Return the requested cases as the run spells them; of samples and slides the case.

    Args:
        which: requested ids; a number, or `ALL_CASES`, requests none by id.
        known: the cases used.
        identity: how ids are spelt.

    Raises:
        InputError: a requested case is not among the cases used.
    """
    if not isinstance(which, tuple) or which == ALL_CASES:
        return which
    named = tuple(dict.fromkeys(identity.case_among(one, frozenset(known)) for one in which))
    unknown = [case for case in named if case not in set(known)]
    if unknown:
        raise InputError(
            f"--explain: {some(unknown)}: not among the {count(len(known), 'case')} used ({some(known)}); --dry-run "
            "lists excluded cases "
            "with the reason"
        )
    return named


def choose_cases(task: Task, predictions: pd.DataFrame, which: int | tuple[str, ...]) -> dict[str, str]:
    """Choose the cases to explain.

    Args:
        task: the task.
        predictions: its rows of `predictions.csv`; of several rows of a case the first counts.
        which: ids; `ALL_CASES`; or the number of cases of each kind that the task distinguishes, see `Task.worth_explaining`.

    Returns:
        By case id, why it was chosen; a case of several kinds has all of them, joined by "; ".
    """
    predicted = predictions[predictions["prediction"].notna()].drop_duplicates("case_id").set_index("case_id")
    if which == ALL_CASES:
        return dict.fromkeys(predicted.index, "all cases")
    if isinstance(which, tuple):
        return {case: "requested" for case in which if case in predicted.index}
    kinds: dict[str, list[str]] = {}
    for kind, cases in task.worth_explaining(predicted.dropna(axis=1, how="all")) if len(predicted) else ():
        for case in cases[:which]:
            kinds.setdefault(case, []).append(kind)
    return {case: "; ".join(found) for case, found in kinds.items()}
