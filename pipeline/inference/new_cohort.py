"""The tables and metrics of a new cohort."""

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.baselines.clinical import CLINICAL_FOR_SURVIVAL
from pipeline.inference.previous_table import FINGERPRINT
from pipeline.inference.trained import Predictor
from pipeline.metrics import (
    Metric,
    Report,
    c_index,
    classification_metrics,
    macro_auc,
    paired_difference,
    survival_metrics,
)
from pipeline.metrics.conformal import COLUMN
from pipeline.ood.reference import VERDICT, DistributionShift
from pipeline.tasks import TASKS
from pipeline.tasks.survival import CURVE_MONTHS
from pipeline.training.summary import coverage, headline, probabilities
from preprocessing.io.errors import some
from preprocessing.io.fingerprints import fingerprint

log = logging.getLogger(__name__)
FIRST = ["case_id", "task", "fold", "status", "label", "prediction", "rests_on", "cross_validation", *VERDICT]
TRAINING_CASE = "training case of this model: excluded from the metrics"


def baseline_fingerprints(fingerprints: Mapping[str, str], labels: pd.DataFrame) -> dict[str, str]:
    """Hash the inputs of each case's baselines: those of its prediction, and its clinical columns.

    Args:
        fingerprints: of the inputs of each case's prediction.
        labels: clinical columns by case id.
    """
    cases = list(fingerprints)
    clinical = labels.reindex(cases)[[name for name in CLINICAL_FOR_SURVIVAL if name in labels]]
    texts = clinical.astype(str).agg(" ".join, axis=1) if clinical.shape[1] else pd.Series("", index=clinical.index)
    return {case: fingerprint(fingerprints[case], texts[case])[:16] for case in cases}


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


def with_labels(rows: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The table of texts with the labels as they are known now; where no table names a case, with those it had.

    A label that a table has withdrawn is gone: its case is not evaluated by what was thought of it once.
    """
    rows = rows.copy()
    named = rows["case_id"].isin(labels.index)
    for task in rows["task"].unique():
        columns_of = {"label", *(TASKS[task].label_columns if task == "survival" else ())} & set(rows)
        rows.loc[named & (rows["task"] == task), sorted(columns_of)] = ""
        own = labels[TASKS[task].labelled(labels)]
        columns = {"label": TASKS[task].describe(own)} if len(own) else {}
        if task == "survival":
            columns |= {name: own[name] for name in TASKS[task].label_columns if name in own}
        for name, values in columns.items():
            known = (rows["task"] == task) & rows["case_id"].isin(values.index)
            if name not in rows:
                rows[name] = ""
            rows.loc[known, name] = rows.loc[known, "case_id"].map(values.astype(object)).astype(str)
    return rows


# --- External validation ----------------------------------------------------------------------------------------------


def evaluate(
    predictor: Predictor, predictions: pd.DataFrame, baselines: pd.DataFrame, *, n_boot: int, seed: int
) -> Report | None:
    """The metrics of a model and of the baselines that came with it, on cases of a new cohort whose label is known.

    Args:
        predictor: of the task.
        predictions: all rows of the new cohort, numbers as numbers.
        baselines: those of `baselines.csv`.
        n_boot: resamples behind each interval.
        seed: of the resamples.

    Returns:
        A report of the form that training runs have, without folds; None where no label is known, save of training cases,
        which do not count.
    """
    tested = _tested(predictor, predictions)
    if not len(tested):
        return None

    def report(rows: pd.DataFrame, cases: pd.DataFrame = tested) -> Report:
        pooled = _metrics(predictor, cases, rows, n_boot, seed)
        return {"pooled": {"n": len(cases), **pooled}, "folds": [], "main": headline(predictor.task)} | {
            "mean": None,
            "sd": None,
            "n_folds": 0,
        }

    told: Report = {"n": len(tested), "headline": headline(predictor.task), "contender": predictor.model_name}
    told |= {"external": True, "model": report(tested), "inputs": {}, "rivals": {}, "baselines": {}, "lead": {}}
    told["rests_on"] = {str(name): report(own, own) for name, own in tested.groupby("rests_on")}
    told |= {"schemes": {}, "gene_notes": {"final": []}, "slide_notes": {}, "subspaces": {}}
    if COLUMN in tested:
        told["sets"] = coverage(tested, n_boot=n_boot, seed=seed)
    for name, baseline in baselines[baselines["task"] == predictor.task].groupby("baseline", sort=False):
        own = tested[["case_id"]].merge(baseline, on="case_id", how="left")
        reasons = own["reason"].dropna().unique()
        told["baselines"][name] = report(own) | {"reason": "; ".join(reasons) or None}
        told["lead"][name] = _lead(predictor, tested, own, n_boot, seed)
    return told


def _tested(predictor: Predictor, predictions: pd.DataFrame) -> pd.DataFrame:
    own = predictions[(predictions["task"] == predictor.task) & (predictions["status"] == "predicted")]
    own = own[own["label"].notna() & ~own["case_id"].isin(predictor.trained_on(own["case_id"]))]
    own = own.dropna(axis=1, how="all")
    if predictor.classes and len(own):
        known = own["label"].isin(predictor.classes)
        if not known.all():
            unknown = own.loc[~known, "label"].unique()
            log.warning(
                "task %s: %d labels are of classes that the model does not know (%s): not evaluated",
                predictor.task,
                int((~known).sum()),
                some(unknown),
            )
        own = own[known]
    return own.reset_index(drop=True)


def _metrics(predictor: Predictor, tested: pd.DataFrame, rows: pd.DataFrame, n_boot: int, seed: int) -> Report:
    classes = predictor.classes
    if classes:
        weights = getattr(predictor.members[0].task, "weights", (1.0,))
        return classification_metrics(
            pd.Index(classes).get_indexer(pd.Index(tested["label"])),
            probabilities(rows, classes),
            classes,
            majority=np.full(len(tested), int(np.argmin(weights))),  # the most frequent class weighs least
            n_boot=n_boot,
            seed=seed,
        )
    time, event = tested["survival_months"].to_numpy(float), tested["event"].astype(str).eq("True").to_numpy()
    medians = [getattr(member.task, "median_risk", float("nan")) for member in predictor.members]
    own_median = rows["train_risk_median"].iloc[0] if "train_risk_median" in rows else np.mean(medians)
    return survival_metrics(
        time,
        event,
        rows["risk"].to_numpy(float),
        train_time=time,  # censoring is the new cohort's own
        train_event=event,
        curves=rows[[f"survival_{month}m" for month in CURVE_MONTHS]].to_numpy(float),
        curve_times=np.array(CURVE_MONTHS, float),
        train_risk_median=float(own_median),
        n_boot=n_boot,
        seed=seed,
    )


def _lead(predictor: Predictor, tested: pd.DataFrame, rival: pd.DataFrame, n_boot: int, seed: int) -> Metric:
    if predictor.classes:
        truth = pd.Index(predictor.classes).get_indexer(pd.Index(tested["label"]))
        own, other = (probabilities(rows, predictor.classes) for rows in (tested, rival))
        return paired_difference(lambda told: macro_auc(truth, told), own, other, n_boot=n_boot, seed=seed)
    time, event = tested["survival_months"].to_numpy(float), tested["event"].astype(str).eq("True").to_numpy()
    own, other = tested["risk"].to_numpy(float), rival["risk"].to_numpy(float)
    return paired_difference(lambda risk: c_index(time, event, risk), own, other, n_boot=n_boot, seed=seed)
