"""The tables and metrics of a new cohort."""

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.baselines.clinical import CLINICAL_FOR_SURVIVAL
from pipeline.evaluation.model_evaluation import Evaluation
from pipeline.evaluation.validation import coverage
from pipeline.inference.previous_table import FINGERPRINT, hash_text
from pipeline.inference.trained import Predictor
from pipeline.metrics import Bootstrap, TaskReport
from pipeline.metrics.conformal import COLUMN
from pipeline.ood.reference import VERDICT, DistributionShift
from pipeline.run.finished import TRAINING_CASE
from pipeline.tasks import Task
from preprocessing.io.errors import count, some
from preprocessing.io.fingerprints import fingerprint

log = logging.getLogger(__name__)
FIRST = ["case_id", "task", "fold", "status", "label", "prediction", "modalities", "cross_validation", *VERDICT]


def baseline_fingerprints(fingerprints: Mapping[str, str], labels: pd.DataFrame) -> dict[str, str]:
    """Hash the inputs of each case's baselines: those of its prediction, and its clinical columns.

    Args:
        fingerprints: of the inputs of each case's prediction.
        labels: clinical columns by case id.
    """
    cases = list(fingerprints)
    clinical = labels.reindex(cases)[[name for name in CLINICAL_FOR_SURVIVAL if name in labels]]
    texts = clinical.astype(str).agg(" ".join, axis=1) if clinical.shape[1] else pd.Series("", index=clinical.index)
    return {case: hash_text(fingerprint(fingerprints[case], texts[case])) for case in cases}


def prediction_rows(
    predictor: Predictor,
    predictions: pd.DataFrame | None,
    fingerprints: Mapping[str, str],
    cases: pd.DataFrame,
    shift: DistributionShift | None = None,
) -> pd.DataFrame:
    """Build the new rows of `predictions.csv` of one task, those of excluded cases among them.

    Args:
        predictor: of the task.
        predictions: as `predict_cases` returns them; None if no case was requested.
        fingerprints: of the inputs of each usable case.
        cases: the audit of all cases, with `case_id`, `status` and `reason`.
        shift: distribution shift of the predicted cases; None without a reference cohort.

    Returns:
        A row for each predicted and each excluded case; columns as in `FIRST`, then the task's, last the fingerprint.
    """
    if predictions is not None and shift is not None:
        predictions = predictions.merge(shift.cases[["case_id", *VERDICT]], on="case_id", how="left")
    if predictions is not None:
        is_known = predictions["case_id"].isin(predictor.trained_on(predictions["case_id"]))
        reason = predictions["reason"].mask(is_known & (predictions["reason"] == ""), TRAINING_CASE)
        predictions = predictions.assign(reason=reason)
    excluded = cases.loc[cases["status"] == "left out", ["case_id", "status", "reason"]]
    parts = [part for part in (predictions, excluded) if part is not None and len(part)]
    if not parts:
        return pd.DataFrame(columns=[*FIRST, FINGERPRINT])
    table = pd.concat(parts, ignore_index=True)
    table["task"] = predictor.task
    table[FINGERPRINT] = table["case_id"].map(fingerprints).fillna("")
    for column in FIRST:
        if column not in table:
            table[column] = pd.NA
    return table[FIRST + [name for name in table if name not in FIRST]]


def with_labels(rows: pd.DataFrame, labels: pd.DataFrame, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """Update the labels in a table of text to those known now.

    Cases in the label table get its labels, and lose labels that it no longer contains, so that nothing is evaluated on a
    withdrawn label; other cases keep theirs.

    Args:
        rows: of `predictions.csv`, as text.
        labels: the current labels, indexed by case id.
        tasks: by name; rows of other tasks are unchanged.
    """
    rows = rows.copy()
    named = rows["case_id"].isin(labels.index)
    for task in tasks.values():
        withdrawn = {"label", *task.truth_columns} & set(rows)
        rows.loc[named & (rows["task"] == task.name), sorted(withdrawn)] = ""
        labelled = task.prepare(labels[task.labelled(labels)])
        for name, values in task.truth(labelled).items() if len(labelled) else ():
            known = (rows["task"] == task.name) & rows["case_id"].isin(values.index)
            if name not in rows:
                rows[name] = ""
            rows.loc[known, name] = rows.loc[known, "case_id"].map(values.astype(object)).astype(str)
    return rows


# --- External validation ----------------------------------------------------------------------------------------------


def evaluate(
    predictor: Predictor, predictions: pd.DataFrame, baselines: pd.DataFrame, *, bootstrap: Bootstrap
) -> TaskReport[Any] | None:
    """The metrics of a model and of the baselines that came with it, on cases of a new cohort whose label is known.

    Args:
        predictor: of the task.
        predictions: all rows of `predictions.csv`, with numbers.
        baselines: all rows of `baselines.csv`, with numbers.
        bootstrap: resamples behind the intervals.

    Returns:
        A report as of a training run, without folds; None if no case is labelled except training cases, which are excluded.
    """
    tested = _tested(predictor, predictions)
    if not len(tested):
        return None
    evaluation = Evaluation(predictor.fitted, tested, by_fold=False, bootstrap=bootstrap)
    of_task = baselines[baselines["task"] == predictor.task]
    report = evaluation.report(predictor.definition.kind, predictor.model_name, of_task)
    parts = {str(name): evaluation.among(rows) for name, rows in tested.groupby("modalities")}
    found: dict[str, Any] = {"modalities": {name: part.of(part.cases) for name, part in parts.items()}}
    if (sets := predictor.fitted.sets) and COLUMN in tested:
        found["prediction_sets"] = coverage(sets, tested, bootstrap=bootstrap)
    return report.model_copy(update=found)


def _tested(predictor: Predictor, predictions: pd.DataFrame) -> pd.DataFrame:
    """Predicted cases whose label is known and which the model was not trained on, with what it fitted."""
    rows = predictions[(predictions["task"] == predictor.task) & (predictions["status"] == "predicted")]
    rows = rows[rows["label"].notna() & ~rows["case_id"].isin(predictor.trained_on(rows["case_id"]))]
    rows = rows.dropna(axis=1, how="all")
    if not len(rows):
        return rows
    known = predictor.fitted.evaluable(rows)
    if not known.all():
        log.warning(
            "task %s: %s of a class that the model was not trained on (%s), not evaluated",
            predictor.task,
            count(int((~known).sum()), "case"),
            some(rows.loc[~known, "label"].unique()),
        )
    return rows[known].reset_index(drop=True).assign(**predictor.fitted.training_columns())
