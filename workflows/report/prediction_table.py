"""Table of the predictions of a task by case."""

from collections.abc import Mapping

import pandas as pd

from pipeline.run.finished import FinishedRun
from pipeline.run.formatting import decimal
from workflows.report.kinds import kind_of, truth_of
from workflows.report.plain.phrasing import column_name
from workflows.report.tables import Cell, Table, case_cell, status_cell, value_cell

HIDDEN = (
    "case_id",
    "task",
    "label",
    "input_fingerprint",
    "checksum",
)  # columns of predictions.csv in other columns, or not for readers
NEW_COHORT = ("modalities", "cross_validation", "distribution_shift", "distribution_shift_reason")
NUMERIC = ("fold", "survival_months", "ensemble_sd")


def prediction_table(key: str, run: FinishedRun, task: str, predicted: pd.DataFrame) -> Table:
    """Table of the predictions by case, with the modalities they are based on.

    Args:
        key: HTML id of the table.
        run: the run.
        task: name of the task.
        predicted: rows of predictions.csv of the task.
    """
    kind, columns = kind_of(run, task), list(map(str, predicted.columns))
    outputs, hidden = kind.outputs(columns), {*HIDDEN, *kind.hidden(columns)}
    first = ["fold", "status", *truth_of(run, task), "prediction", *outputs, "set_90", *NEW_COHORT]
    ordered = [*first, *(name for name in columns if name not in {*first, *hidden})]
    visible = [name for name in ordered if name in predicted and (predicted[name].astype(str) != "").any()]
    rows = []
    for case in predicted.to_dict("records"):
        cells = [_cell(name, case[name], outputs) for name in visible]
        if kind.is_decided and case.get("label") and case.get("prediction"):
            is_correct = case["label"] == case["prediction"]
            at = visible.index("prediction")
            cells[at] = Cell(
                str(case["prediction"]), "" if is_correct else "incorrect", mark="" if is_correct else "bad"
            )
        rows.append((case_cell(case["case_id"]), *cells))
    return Table(key, "", ("case", *(_title(name, outputs) for name in visible)), tuple(rows))


def _cell(name: str, value: object, outputs: Mapping[str, str]) -> Cell:
    if name == "status":
        return status_cell(value)
    if isinstance(value, float) and (name in outputs or name == "ensemble_sd") and not pd.isna(value):
        return Cell(decimal(value), sort=value)
    return value_cell(value)


def _title(name: str, outputs: Mapping[str, str]) -> str:
    if name in outputs:
        return f"#{outputs[name]}"
    return f"#{column_name(name)}" if name in NUMERIC else column_name(name)
