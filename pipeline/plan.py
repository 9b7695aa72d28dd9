"""What is to be learned: the tasks whose labels are there, each with its cases and folds."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.splits import Fold, make_folds, read_folds
from pipeline.tasks import TASKS
from preprocessing.errors import InputError

FINAL = -1  # number of the fold whose model is handed out: trained on every labelled case, tested on none


@dataclass(frozen=True)
class TaskPlan:
    """One task of a run.

    Attributes:
        name: the task.
        labelled: cases with a label, sorted.
        unlabelled: usable cases without one; the final model predicts them.
        vocabulary: the task's classes.
        folds: each with its training and test cases.
        warnings: what is thin about the labels.
    """

    name: str
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    vocabulary: tuple[str, ...]
    folds: tuple[Fold, ...]
    warnings: tuple[str, ...]

    @property
    def final(self) -> Fold:
        """The division behind the model that the run hands out."""
        return Fold(FINAL, self.labelled, (), self.unlabelled)


def plan_tasks(
    wanted: list[str], labels: pd.DataFrame, *, n_folds: int, splits: Path | None, seed: int
) -> list[TaskPlan]:
    """The tasks asked for, or all whose labels are there.

    Args:
        wanted: names; empty for all.
        labels: of the usable cases, indexed by case id.
        n_folds: how many folds to make, where `splits` is None.
        splits: folder of published folds.
        seed: of the folds.

    Raises:
        InputError: no labels, a label that is missing, constant or too rare, or folds that do not fit.
    """
    known = [name for name, task in TASKS.items() if task.labelled(labels).any()]
    missing = [name for name in wanted if name not in known]
    if missing or not known:
        raise InputError(_no_labels(missing, known))
    return [_plan(name, labels, n_folds, splits, seed) for name in wanted or known]


def _plan(name: str, labels: pd.DataFrame, n_folds: int, splits: Path | None, seed: int) -> TaskPlan:
    task = TASKS[name]
    has_label = task.labelled(labels)
    own = labels[has_label].sort_index()
    warnings = task.check(own, folds=n_folds if splits is None else 2)
    folds = read_folds(splits, list(own.index)) if splits else make_folds(task.strata(own), n_folds=n_folds, seed=seed)
    return TaskPlan(
        name=name,
        labelled=tuple(own.index),
        unlabelled=tuple(sorted(labels.index[~has_label])),
        vocabulary=task.vocabulary(own),
        folds=tuple(folds),
        warnings=tuple(warnings),
    )


def _no_labels(missing: list[str], known: list[str]) -> str:
    what = (
        f"no case that has slides and genes has a label for {', '.join(missing)}"
        if missing
        else "there are no labels to learn from"
    )
    columns = {name: " and ".join(task.label_columns) for name, task in TASKS.items()}
    ways = [
        f"name another task with --task; labels are there for {', '.join(known)}" if known else "",
        "give a table of labels by case with --clinical FILE",
        "add label columns to GENES: " + "; ".join(f"{columns[name]} for {name}" for name in missing or columns),
        "stop before training with --until embed, which needs no labels",
    ]
    return f"{what}. Ways out:\n" + "\n".join(f"  - {way}" for way in ways if way)
