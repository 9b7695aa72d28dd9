"""The integrated diagnosis (WHO 2021) of every case, from what is given of it and what was predicted; for research alone."""

import pandas as pd

from pipeline.run.folder import Run
from preprocessing.labels.who2021 import who2021

PREDICTED = ("grade", "subtype")  # tasks whose classes are markers
USE = "research use only"
COLUMNS = ("who2021_diagnosis", "who2021_grade", "who2021_rule", "who2021_predicted")


def diagnoses(predictions: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """A row a case: `case_id, diagnosis, who_grade, rule, predicted, modalities, use`; empty where nothing speaks of markers.

    A marker that is given stands; grade, IDH and 1p/19q that are not given are taken from the predicted grade and subtype,
    and `predicted` and the rule name them. Where a diagnosis stays open, the rule says what is not known.

    Args:
        predictions: rows of `predictions.csv`.
        annotations: the clinical columns of cases, as their file has them, indexed by case id.
    """
    told = predictions[predictions["task"].isin(PREDICTED) & predictions["prediction"].fillna("").ne("")]
    guessed = told.drop_duplicates(["case_id", "task"]).pivot(index="case_id", columns="task", values="prediction")
    cases = sorted(set(predictions["case_id"]))
    given = annotations.reindex(cases)
    decided = who2021(given, predicted=guessed.reindex(cases))
    known = decided["who2021_diagnosis"].notna() | decided["who2021_predicted"].ne("")
    decided = decided[known]
    modalities = told.groupby("case_id")["modalities"].first().reindex(decided.index)
    names = ["diagnosis", "who_grade", "rule", "predicted"]
    table = decided[list(COLUMNS)].set_axis(names, axis=1).assign(modalities=modalities, use=USE)
    return table.rename_axis("case_id").reset_index()


def write_diagnoses(run: Run, predictions: pd.DataFrame, annotations: pd.DataFrame) -> None:
    """`diagnoses.csv` of a run; none where nothing speaks of markers."""
    table = diagnoses(predictions, annotations)
    if len(table):
        run.write_table("diagnoses.csv", table)
