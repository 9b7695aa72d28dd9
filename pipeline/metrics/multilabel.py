"""Metrics of several yes-or-no labels at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.metrics.bootstrap import (
    BOOTSTRAP,
    Bootstrap,
    Metric,
    Statistic,
    agreement,
    mean_area,
    measure,
    not_finite,
    ratio_of_sums,
    undefined,
)
from pipeline.metrics.report import CaseMetrics, PredictorReport, Trivial, report_by_fold

Truth = Float[np.ndarray, "n l"]  # 1, 0, or NaN where a label is unknown


class MultilabelMetrics(CaseMetrics):
    """Metrics of several labels.

    Attributes:
        macro_auc: mean of the labels' areas under the ROC curve; the headline, 0.5 is chance.
        label_accuracy: share of the known labels that are predicted rightly.
        exact_match: share of cases all of whose known labels are predicted rightly.
        label_auc: by label.
    """

    macro_auc: Metric
    label_accuracy: Metric
    exact_match: Metric
    label_auc: dict[str, Metric]


def label_aucs(
    truth: Truth, probabilities: Float[np.ndarray, "n l"], *, folds: Int[np.ndarray, " n"] | None = None
) -> list[Statistic]:
    """The area under the ROC curve of each label among the cases where it is known; pairs within folds if given."""
    columns = range(truth.shape[1])
    if reason := not_finite("probabilities", probabilities):
        return [undefined(len(truth), reason) for _ in columns]
    return [macro_label_auc(truth[:, [k]], probabilities[:, [k]], folds=folds) for k in columns]


def macro_label_auc(
    truth: Truth, probabilities: Float[np.ndarray, "n l"], *, folds: Int[np.ndarray, " n"] | None = None
) -> Statistic:
    """The mean of the labels' areas; undefined where one of them is."""
    n = len(truth)
    if reason := not_finite("probabilities", probabilities):
        return undefined(n, reason)
    same = np.ones((n, n)) if folds is None else (folds[:, None] == folds[None, :]).astype(float)
    areas, sizes = [], []
    for y, p in zip(truth.T, probabilities.T, strict=True):
        pairs = (y == 1)[:, None] * (y == 0)[None, :] * same
        sizes.append((int((y == 1).sum()), int((y == 0).sum())))
        if not pairs.any():
            return undefined(n, "{} positive and {} negative cases".format(*sizes[-1]))
        areas.append((agreement(p, p), pairs))
    rarer, others = min((min(size), max(size)) for size in sizes)
    return mean_area(areas, folds, positives=rarer, negatives=others, positive="case of the rarer value")


def multilabel_metrics(
    truth: Truth,
    probabilities: Float[np.ndarray, "n l"],
    names: Sequence[str],
    *,
    folds: Int[np.ndarray, " n"] | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> MultilabelMetrics:
    """Metrics of one set of cases with 95 % intervals.

    Args:
        truth: 1, 0, or NaN where a label is unknown.
        probabilities: of each label.
        names: of the labels.
        folds: given for pooled out-of-fold cases: AUCs compare pairs of cases within a fold only.
        bootstrap: resamples behind the intervals.
    """
    weights = bootstrap.weights(len(truth))
    known, right = np.isfinite(truth), (probabilities > 0.5) == (truth == 1)
    areas = label_aucs(truth, probabilities, folds=folds)
    hits = ratio_of_sums((right & known).sum(axis=1).astype(float), known.sum(axis=1).astype(float))
    matches = ratio_of_sums((right | ~known).all(axis=1).astype(float))
    if reason := not_finite("probabilities", probabilities):
        hits = matches = undefined(len(truth), reason)
    return MultilabelMetrics(
        n=len(truth),
        trivial=Trivial(description="chance", metrics={"macro_auc": Metric(0.5)}),
        macro_auc=measure(macro_label_auc(truth, probabilities, folds=folds), weights),
        label_accuracy=measure(hits, weights),
        exact_match=measure(matches, weights),
        label_auc={name: measure(area, weights) for name, area in zip(names, areas, strict=True)},
    )


def multilabel_by_fold(
    truth: Truth,
    probabilities: Float[np.ndarray, "n l"],
    names: Sequence[str],
    folds: Int[np.ndarray, " n"],
    bootstrap: Bootstrap = BOOTSTRAP,
) -> PredictorReport[MultilabelMetrics]:
    """Metrics of each fold's test cases and of all pooled."""

    def compute(chosen: Bool[np.ndarray, " n"], fold: int | None) -> MultilabelMetrics:
        within = folds if fold is None else None
        return multilabel_metrics(truth[chosen], probabilities[chosen], names, folds=within, bootstrap=bootstrap)

    return report_by_fold(compute, folds, headline="macro_auc")
