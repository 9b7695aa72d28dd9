"""Validation of a model by its out-of-fold predictions: the headline by modalities, and thresholds of prediction sets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.metrics.bootstrap import Bootstrap, Statistic, measure, ratio_of_sums, undefined
from pipeline.metrics.conformal import COLUMN, COVERAGE, thresholds
from pipeline.metrics.report import SetsReport, metric_name
from pipeline.planning.modalities import PATTERNS
from pipeline.tasks import FittedTask, PredictionSets
from preprocessing.io.errors import count


def by_pattern(tested: pd.DataFrame, single: pd.DataFrame) -> pd.DataFrame:
    """Out-of-fold predictions by modalities: as tested, and for cases with both modalities also from slides only and genes only.

    Args:
        tested: the rows of the predictions that count, with their truth.
        single: the folds' `single_modality.csv` in one table; may be empty.
    """
    if single.empty:
        return tested
    truth = [name for name in tested if name not in single or name in ("case_id", "fold")]
    known = tested[[*truth, "modalities"]].rename(columns={"modalities": "tested_with"})
    more = single.merge(known, on=["case_id", "fold"])
    return pd.concat([tested, more[more["modalities"].isin(PATTERNS) & (more["modalities"] != more["tested_with"])]])


def validated(task: FittedTask, out_of_fold: pd.DataFrame, *, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """The headline metric of each pattern of inputs that was tested, with its 95 % interval over `n` cases."""
    found = {}
    for pattern, rows in out_of_fold.groupby("modalities"):
        statistic = task.headline_statistic(rows, rows, folds=rows["fold"].to_numpy(int))
        metric = measure(statistic, bootstrap.weights(len(rows)))
        found[str(pattern)] = {"metric": task.headline, "n": len(rows), **metric.to_json()}
    return found


def conformal(sets: PredictionSets, out_of_fold: pd.DataFrame) -> dict[str, Any]:
    """Return the thresholds for new cases by modalities, of several labels a list; null where every class must be included."""
    found = {}
    for pattern, rows in out_of_fold.groupby("modalities"):
        limits = thresholds(sets.scores(rows))
        described = limits.astype(object)
        described[np.isinf(limits)] = None
        found[str(pattern)] = {"n": len(rows), "threshold": described.tolist()}
    return {"coverage": COVERAGE, "method": sets.method, "thresholds": found}


def with_sets(sets: PredictionSets, predictions: pd.DataFrame, out_of_fold: pd.DataFrame) -> pd.DataFrame:
    """A training run's predictions with their sets: a tested case's from the other folds' cases, another's from all."""
    predicted = predictions["prediction"].notna()
    limits = np.full((len(predictions), *([len(sets.labels)] if sets.labels else [])), np.inf)
    for (pattern, fold), rows in predictions[predicted].groupby(["modalities", "fold"], dropna=False):
        others = out_of_fold[(out_of_fold["modalities"] == pattern) & ~(out_of_fold["fold"] == fold).fillna(False)]
        limits[predictions.index.get_indexer(rows.index)] = thresholds(sets.scores(others))
    column = pd.Series(pd.NA, index=predictions.index, dtype=object)
    column[predicted] = sets.sets(predictions[predicted], limits[predicted.to_numpy()])
    return predictions.assign(**{COLUMN: column})


def coverage(sets: PredictionSets, rows: pd.DataFrame, *, bootstrap: Bootstrap) -> SetsReport:
    """How many of the sets contain the case's label, and how large a set is, of cases whose label is known."""
    weights = bootstrap.weights(len(rows))
    found = rows[COLUMN].astype(str).tolist()
    covered = np.asarray(sets.covered(found, rows), float).reshape(len(rows), -1)  # a column for each label
    known = (~np.isnan(covered)).astype(float)
    by_label = {
        name: measure(ratio_of_sums(np.nan_to_num(covered[:, i]), known[:, i]), weights)
        for i, name in enumerate(sets.labels)
        if known[:, i].any()
    }
    return SetsReport(
        promised=COVERAGE,
        method=sets.method,
        n=len(rows),
        coverage=measure(ratio_of_sums(np.nansum(covered, axis=1), known.sum(axis=1)), weights),
        by_label=by_label,
        mean_size=measure(_mean_size(sets.sizes(found)), weights),
    )


def _mean_size(sizes: Float[np.ndarray, " n"]) -> Statistic:
    if unlimited := int(np.isinf(sizes).sum()):
        return undefined(
            len(sizes), f"{unlimited} of {count(len(sizes), 'set')} have no limits: too few cases to set them"
        )
    return ratio_of_sums(sizes)


def describe_validation(summary: Mapping[str, Any], pattern: str) -> str:
    """Describe the out-of-fold headline metric for these modalities in one phrase."""
    known = summary.get(pattern)
    if known is None:
        return f"not validated: no case of the training run was predicted from {pattern or 'nothing'}"
    if known["value"] is None:
        return f"not validated: {known['reason']}"
    reason = f", {known['reason']}" if known["reason"] else ""
    interval = f" ({known['low']:.3f} to {known['high']:.3f})" if known["low"] is not None else reason
    return f"{metric_name(known['metric'])} {known['value']:.3f}{interval} in {count(known['n'], 'case')} out of fold"
