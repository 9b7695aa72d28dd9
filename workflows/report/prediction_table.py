"""The table of a task's predictions, case by case."""

from collections.abc import Mapping

import pandas as pd

from workflows.report.kinds import kind_of, truth_of
from workflows.report.tables import Cell, Table, status_cell, value_cell
from workflows.report.words import plain

UNSHOWN = (
    "case_id",
    "task",
    "label",
    "input_fingerprint",
)  # of predictions.csv: said elsewhere, or of use to programs alone
NEW_COHORT = ("modalities", "cross_validation", "distribution_shift", "distribution_shift_reason")
NAMES = {"survival_months": "#months", "set_90": "90 % set", "fold": "#fold"}


def prediction_table(key: str, task: str, predicted: pd.DataFrame) -> Table:
    """What was predicted for each case, and on what it rests.

    Args:
        key: id of the table in the page.
        task: its name.
        predicted: its rows of predictions.csv.
    """
    kind, columns = kind_of(task), list(map(str, predicted.columns))
    outputs, hidden = kind.outputs(columns), {*UNSHOWN, *kind.hidden(columns)}
    first = ["fold", "status", *truth_of(task), "prediction", *outputs, "set_90", *NEW_COHORT]
    there = [
        name for name in (*first, *(name for name in columns if name not in {*first, *hidden})) if name in predicted
    ]
    shown = [name for name in there if (predicted[name].astype(str) != "").any()]
    rows = []
    for case in predicted.to_dict("records"):
        cells = [_cell(name, case[name], outputs) for name in shown]
        if kind.is_decided and case.get("label") and case.get("prediction"):
            right = case["label"] == case["prediction"]
            at = shown.index("prediction")
            cells[at] = Cell(str(case["prediction"]), "" if right else "wrong", mark="" if right else "bad")
        rows.append((Cell(str(case["case_id"])), *cells))
    return Table(key, "", ("case", *(_title(name, outputs) for name in shown)), tuple(rows))


def _cell(name: str, value: object, outputs: Mapping[str, str]) -> Cell:
    if name == "status":
        return status_cell(value)
    if isinstance(value, float) and name in outputs and not pd.isna(value):
        return Cell(plain(value), sort=value)
    return value_cell(value)


def _title(name: str, outputs: Mapping[str, str]) -> str:
    return f"#{outputs[name]}" if name in outputs else NAMES.get(name) or name.replace("_", " ")
