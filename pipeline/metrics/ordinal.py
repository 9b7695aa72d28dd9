"""Metrics of ordered classes, beside those of classes without an order."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.metrics.bootstrap import Bootstrap, Draws, Metric, Statistic, Weights, divide, measure, ratio_of_sums
from pipeline.metrics.classification import ClassificationMetrics
from pipeline.metrics.report import FoldReport, PredictorReport, Trivial

Ranks = Int[np.ndarray, " n"]


class OrdinalMetrics(ClassificationMetrics):
    """Metrics of ordered classes.

    Attributes:
        weighted_kappa: Cohen's kappa with quadratic weights; 1 is best, 0 is chance.
        rank_error: mean absolute difference of the predicted and the true rank; 0 is best.
    """

    weighted_kappa: Metric
    rank_error: Metric


def weighted_kappa(truth: Ranks, predicted: Ranks) -> Statistic:
    """1 − Σ(y − ŷ)² / its expectation were both independent (Cohen 1968); 1 is best, 0 is chance."""
    y, x = truth.astype(float), predicted.astype(float)

    def of(weights: Weights) -> Draws:
        n = weights.sum(axis=1)
        expected = weights @ (y**2 + x**2) / n - 2 * (weights @ y / n) * (weights @ x / n)
        return 1 - divide(weights @ (y - x) ** 2 / n, np.where(expected > 1e-12, expected, 0.0))

    return Statistic(of, len(truth))


def with_rank_metrics(
    report: PredictorReport[ClassificationMetrics],
    truth: Ranks,
    probabilities: Float[np.ndarray, "n k"],
    folds: Int[np.ndarray, " n"] | None,
    bootstrap: Bootstrap,
) -> PredictorReport[OrdinalMetrics]:
    """The report with rank metrics of the likeliest classes beside the nominal ones.

    Args:
        report: nominal metrics of the same cases.
        truth: ranks, 0…K−1.
        probabilities: of the K classes.
        folds: the fold in which each case was a test case; None where one model predicted all.
        bootstrap: resamples behind the intervals.
    """
    predicted = np.nan_to_num(probabilities).argmax(axis=1)

    def extended(metrics: ClassificationMetrics, chosen: Bool[np.ndarray, " n"]) -> OrdinalMetrics:
        found: Mapping[str, Metric]
        if reason := metrics.confusion.reason:
            found = dict.fromkeys(("weighted_kappa", "rank_error"), Metric(None, reason=reason))
        else:
            y, x, weights = truth[chosen], predicted[chosen], bootstrap.weights(int(chosen.sum()))
            errors = ratio_of_sums(np.abs(y - x).astype(float))
            found = {"weighted_kappa": measure(weighted_kappa(y, x), weights), "rank_error": measure(errors, weights)}
        return OrdinalMetrics(**dict(metrics) | {"trivial": _with_chance(metrics.trivial)}, **found)

    everything = np.ones(len(truth), dtype=bool)
    of_folds = [] if folds is None else [(one, folds == one.fold) for one in report.folds]
    return PredictorReport(
        pooled=extended(report.pooled, everything),
        folds=tuple(FoldReport(fold=one.fold, metrics=extended(one.metrics, chosen)) for one, chosen in of_folds),
        mean=report.mean,
        sd=report.sd,
        n_folds=report.n_folds,
        reason=report.reason,
    )


def _with_chance(trivial: Trivial | None) -> Trivial | None:
    """The kappa of a constant prediction is 0."""
    if trivial is None:
        return None
    return trivial.model_copy(update={"metrics": {**trivial.metrics, "weighted_kappa": Metric(0.0)}})
