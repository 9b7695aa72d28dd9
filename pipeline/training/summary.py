"""What a training run knows of its own model from out-of-fold predictions: how well it does, and when a class is likely."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.metrics import Metric, Report, c_index, macro_auc
from pipeline.metrics.bootstrap import measure, ratio_of_sums, resample
from pipeline.metrics.conformal import COLUMN, COVERAGE, METHOD, holds, prediction_sets, threshold
from pipeline.training.uncertainty import PATTERNS

HEADLINES = {"survival": "c_index"}  # the metric that is compared; of classes the macro AUC


def headline(task: str) -> str:
    """The name of a task's main metric."""
    return HEADLINES.get(task, "macro_auc")


def by_pattern(tested: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """Out-of-fold predictions by what they rest on: those that were told, and of cases with both those from either alone.

    Args:
        tested: the rows of the predictions that count.
        alone: the folds' `inputs.csv` in one table; may be empty.
    """
    if alone.empty:
        return tested
    known = tested[["case_id", "fold", "rests_on", "label"]].rename(columns={"rests_on": "told"})
    known = known.join(tested[[name for name in ("survival_months", "event") if name in tested]])
    more = alone.merge(known, on=["case_id", "fold"])
    return pd.concat([tested, more[more["rests_on"].isin(PATTERNS) & (more["rests_on"] != more["told"])]])


def validated(
    task: str, out_of_fold: pd.DataFrame, classes: Sequence[str], *, n_boot: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The main metric of each pattern of inputs that was tested, with its 95 % interval over `n` cases."""
    found = {}
    for pattern, rows in out_of_fold.groupby("rests_on"):
        folds = rows["fold"].to_numpy(int)
        if task == "survival":
            time, event = rows["survival_months"].to_numpy(float), rows["event"].astype(bool).to_numpy()
            statistic = c_index(time, event, rows["risk"].to_numpy(float), folds=folds)
        else:
            labels = pd.Index(classes).get_indexer(pd.Index(rows["label"].astype(str)))
            statistic = macro_auc(labels, probabilities(rows, classes), folds=folds)
        metric = measure(statistic, resample(len(rows), n_boot=n_boot, seed=seed))
        found[str(pattern)] = {"metric": headline(task), "n": len(rows), **metric.to_json()}
    return found


def probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> Float[np.ndarray, "n k"]:
    """Those of the classes, from a table of predictions."""
    return rows[[f"probability_{name}" for name in classes]].to_numpy(float)


def scores(rows: pd.DataFrame, classes: Sequence[str]) -> Float[np.ndarray, " n"]:
    """1 − the probability of each case's own class."""
    own = pd.Index(classes).get_indexer(pd.Index(rows["label"].astype(str)))
    return 1 - probabilities(rows, classes)[np.arange(len(rows)), own]


def conformal(out_of_fold: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """The thresholds for new cases by what a prediction rests on; null where any class must be let in."""
    told = {}
    for pattern, rows in out_of_fold.groupby("rests_on"):
        limit = threshold(scores(rows, classes))
        told[str(pattern)] = {"n": len(rows), "threshold": None if math.isinf(limit) else limit}
    return {"coverage": COVERAGE, "method": METHOD, "thresholds": told}


def with_sets(predictions: pd.DataFrame, out_of_fold: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """A training run's predictions with their sets: a tested case's from the other folds' cases, another's from all."""
    told = predictions["prediction"].notna()
    limits = np.full(len(predictions), math.inf)
    for (pattern, fold), rows in predictions[told].groupby(["rests_on", "fold"], dropna=False):
        others = out_of_fold[(out_of_fold["rests_on"] == pattern) & ~(out_of_fold["fold"] == fold).fillna(False)]
        limits[predictions.index.get_indexer(rows.index)] = threshold(scores(others, classes))
    sets = pd.Series(pd.NA, index=predictions.index, dtype=object)
    rows = predictions[told]
    sets[told] = prediction_sets(probabilities(rows, classes), limits[told.to_numpy()], classes)
    return predictions.assign(**{COLUMN: sets})


def coverage(rows: pd.DataFrame, *, n_boot: int, seed: int) -> Report:
    """How many of the sets hold the case's class, and how many classes a set has, of cases whose class is known."""
    weights = resample(len(rows), n_boot=n_boot, seed=seed)
    pairs = list(zip(rows[COLUMN].astype(str), rows["label"].astype(str), strict=True))
    held, size = [holds(told, label) for told, label in pairs], [told.count(";") + 1 for told, _ in pairs]
    shares: dict[str, Metric] = {
        "coverage": measure(ratio_of_sums(np.array(held, float)), weights),
        "mean_size": measure(ratio_of_sums(np.array(size, float)), weights),
    }
    return {"promised": COVERAGE, "method": METHOD, "n": len(rows), **shares}


def told_validated(summary: Mapping[str, Any], pattern: str) -> str:
    """One phrase: the metric that the model had out of fold on this pattern of inputs."""
    known = summary.get(pattern)
    if known is None:
        return f"not validated: no case of the training run was predicted from {pattern or 'nothing'}"
    if known["value"] is None:
        return f"not validated: {known['reason']}"
    interval = f" ({known['low']:.3f} to {known['high']:.3f})" if known["low"] is not None else ""
    return f"{known['metric']} {known['value']:.3f}{interval} in {known['n']} cases out of fold"
