"""Several new cohorts, each predicted in a run folder below one folder, side by side."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pipeline.metrics import Metric
from pipeline.run.finished import FinishedRun, read_run
from preprocessing.io.errors import InputError

TABLE = "cohorts.csv"
COLUMNS = (
    *("cohort", "task", "predicted", "out_of_distribution", "borderline", "shift", "metric", "labelled"),
    *("value", "low", "high"),
)


def require_no_run(folder: Path) -> None:
    """Raise InputError where the folder of several cohorts is the run folder of a single one."""
    if (folder / "identity.json").is_file():
        raise InputError(f"--out {folder} contains the run of one cohort; name another folder for several")


def summarise_cohorts(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Return one row per cohort and task: how far it lies from the training cohort, and how well its labels are predicted.

    Args:
        folders: run folder of each cohort, finished.

    Returns:
        `cohort, task`, `predicted` (cases), `out_of_distribution` and `borderline` (cases), `shift` (what most cases have in
        common that the training cohort has not), then the headline `metric` on the `labelled` cases with its 95 % interval
        `low` to `high`; empty where nothing is known.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    rows = [_row(name, task, run) for name, run in runs.items() for task in run.tasks()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(cohort: str, task: str, run: FinishedRun) -> dict[str, object]:
    predicted = len(run.predicted(task, status="predicted"))
    row: dict[str, object] = {"cohort": cohort, "task": task, "predicted": predicted}
    if shift := run.record.get("cohort_shift", {}).get(task):
        row |= {
            "out_of_distribution": shift["n_out_of_distribution"],
            "borderline": shift["n_borderline"],
            "shift": shift["sentence"],
        }
    if report := run.metrics.get(task):
        metric: Metric = report.model.pooled.scalar(report.headline)
        values = {"value": metric.value, "low": metric.low, "high": metric.high}
        row |= {"metric": report.headline, "labelled": report.n} | values
    return row
