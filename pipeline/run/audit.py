"""The audit at the end of a run: every id of the input is in the output exactly once, and every prediction is there."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.planning.plan import TaskPlan
from preprocessing.cohort import Cohort
from preprocessing.io.errors import RunError, count, some
from preprocessing.io.outputs import read_table, read_text_table

log = logging.getLogger(__name__)
FAULT = "This is a fault of the program: do not trust this run, and report it with its run.log"


def require_complete(
    folder: Path, cohort: Cohort, *, plans: Sequence[TaskPlan] = (), keeps_earlier: bool = False
) -> None:
    """Check the ledgers and predictions of a run as they were written.

    `slides.csv` must have a row for each slide file that was found, `cases.csv` one for each case of any input, and
    `predictions.csv`, where there is one, one for each of these cases and each task.

    Args:
        folder: the run folder.
        cohort: the input.
        plans: the tasks that were trained: each fold has as many predictions as test cases, and all numbers are finite,
            but for columns that may lack some.
        keeps_earlier: whether `predictions.csv` may keep cases of earlier calls that are no longer in the input.

    Raises:
        RunError: an id is missing, duplicated or unknown, which is a fault of this program.
    """
    slides = read_text_table(folder / "slides.csv", "slide_id", "path")
    found = [(file.slide_id, file.location) for file in cohort.found]
    _compare(folder / "slides.csv", zip(slides["slide_id"], slides["path"], strict=True), found)
    cases = [str(case) for case in read_text_table(folder / "cases.csv", "case_id")["case_id"]]
    _compare(folder / "cases.csv", cases, cohort.named_cases())
    if plans:
        _require_tasks(folder / "predictions.csv", plans)
    if (folder / "predictions.csv").is_file():
        for task, rows in read_text_table(folder / "predictions.csv", "case_id", "task").groupby("task"):
            earlier = set(rows["case_id"]) - set(cases) if keeps_earlier else set[str]()
            if earlier:
                message = "task %s: predictions of %s of earlier calls are kept and not evaluated: %s"
                log.info(message, task, count(len(earlier), "case"), some(sorted(earlier)))
            written = rows.loc[~rows["case_id"].isin(earlier), "case_id"]
            _compare(f"{folder / 'predictions.csv'}, {task}", written, cases)


def _require_tasks(path: Path, plans: Sequence[TaskPlan]) -> None:
    """Raise RunError where a task, a fold or a number is missing among the predictions."""
    table = read_table(path, "case_id", "task", low_memory=False)
    for plan in plans:
        rows = table[table["task"] == plan.name]
        tested = rows.loc[rows["status"] == "tested", "fold"].astype(int).value_counts().to_dict()
        expected = {fold.number: len(fold.test) for fold in plan.folds}
        if tested != expected:
            raise RunError(f"{path}, {plan.name}: predictions by fold {tested}, test cases by fold {expected}. {FAULT}")
        predicted = rows[rows["status"].isin(("tested", "unlabelled"))]
        truth = [name for name in ("label", *plan.task.truth_columns) if name in predicted]
        partial = [name for name in plan.task.partial_columns if name in predicted]
        numbers = (
            predicted.drop(columns=["fold", *truth, *partial]).select_dtypes("number").dropna(axis="columns", how="all")
        )
        if numbers.empty or not np.isfinite(numbers.to_numpy(float)).all():
            bad = [str(name) for name in numbers if not np.isfinite(numbers[name]).all()]
            raise RunError(f"{path}, {plan.name}: numbers are missing in {some(bad) or 'every column'}. {FAULT}")


def _compare(table: object, written: Iterable[object], expected: Iterable[object]) -> None:
    out, ins = Counter(written), Counter(expected)
    if out == ins:
        return
    missing, surplus = sorted(map(str, ins - out)), sorted(map(str, out - ins))
    raise RunError(
        f"{table}: not every id of the input is there exactly once: missing {some(missing) or 'none'}; surplus "
        f"{some(surplus) or 'none'}. {FAULT}"
    )
