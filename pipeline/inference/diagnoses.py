"""Integrated diagnosis (WHO CNS5, 2021) from known and predicted markers; for research use only."""

from collections.abc import Iterable

import pandas as pd

from pipeline.run.folder import Run
from pipeline.tasks import Task
from preprocessing.cohort import Cohort
from preprocessing.labels.tumour import GLIOMA
from preprocessing.labels.who2021 import who2021

PREDICTED = ("grade", "subtype")  # tasks whose classes are markers
USE = "research use only"
COLUMNS = ("who2021_diagnosis", "who2021_grade", "who2021_rule", "who2021_predicted")


def diagnoses(predictions: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """A row per case: `case_id, diagnosis, who_grade, rule, predicted, modalities, use`; empty where no case has any marker.

    Known markers take precedence. Unknown grade, IDH and 1p/19q are taken from the predicted grade and subtype, and are named in
    `predicted` and in the rule. If the diagnosis remains undetermined, the rule names what is missing.

    Args:
        predictions: rows of `predictions.csv`.
        annotations: clinical columns as in the input table, indexed by case id.
    """
    rows = predictions[predictions["task"].isin(PREDICTED) & predictions["prediction"].fillna("").ne("")]
    markers = rows.drop_duplicates(["case_id", "task"]).pivot(index="case_id", columns="task", values="prediction")
    cases = sorted(set(predictions["case_id"]))
    given = annotations.reindex(cases)
    decided = who2021(given, predicted=markers.reindex(cases))
    if not (decided["who2021_diagnosis"].notna() | decided["who2021_predicted"].ne("")).any():
        decided = decided.iloc[:0]
    modalities = rows.groupby("case_id")["modalities"].first().reindex(decided.index)
    names = ["diagnosis", "who_grade", "rule", "predicted"]
    table = decided[list(COLUMNS)].set_axis(names, axis=1).assign(modalities=modalities, use=USE)
    return table.rename_axis("case_id").reset_index()


def write_diagnoses(run: Run, predictions: pd.DataFrame, cohort: Cohort, tasks: Iterable[Task]) -> None:
    """Write `diagnoses.csv` of a run of gliomas, unless no marker is known or predicted."""
    if cohort.tumour != GLIOMA and not any(task.spec.defined_by for task in tasks):
        return
    table = diagnoses(predictions, cohort.annotations)
    if len(table):
        run.write_table("diagnoses.csv", table)
