"""Metrics of predicted numbers."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.metrics.bootstrap import (
    BOOTSTRAP,
    Bootstrap,
    Draws,
    Metric,
    Statistic,
    Weights,
    divide,
    measure,
    not_finite,
    ratio_of_sums,
    undefined,
)
from pipeline.metrics.report import CaseMetrics, PredictorReport, Trivial, report_by_fold
from pipeline.metrics.small_samples import is_cross_validated

Numbers = Float[np.ndarray, " n"]
SCORES = ("r2", "spearman", "mae")  # of a prediction that has learned nothing, too
CONSTANT = "a constant has no rank correlation"  # and the training means of folds only rank them against their labels


class RegressionMetrics(CaseMetrics):
    """Metrics of numbers.

    Attributes:
        r2: coefficient of determination, against the mean of the tested cases; 1 is best, the headline.
        spearman: rank correlation of predictions and labels, ranked within each fold; 0 is chance.
        mae: mean absolute error, in the label's unit.
        calibration_slope: of the labels regressed on the predictions; 1 is best, less: predictions too extreme.
    """

    r2: Metric
    spearman: Metric
    mae: Metric
    calibration_slope: Metric


def r_squared(truth: Numbers, predicted: Numbers) -> Statistic:
    """1 − Σ(y − ŷ)² / Σ(y − mean of y)²; 1 is best, 0 is the mean of these cases."""
    if reason := _unusable(truth, predicted):
        return undefined(len(truth), reason)
    centred = truth - truth.mean()  # the sums of squares below lose no digits

    def of(weights: Weights) -> Draws:
        n = weights.sum(axis=1)
        total = weights @ centred**2 - divide((weights @ centred) ** 2, n)
        return 1 - divide(weights @ (truth - predicted) ** 2, np.where(total > 1e-12 * n * truth.var(), total, 0.0))

    return Statistic(of, len(truth))


def spearman(truth: Numbers, predicted: Numbers, folds: Int[np.ndarray, " n"] | None = None) -> Statistic:
    """Spearman's rank correlation, ties at their mean rank; NaN in a resample where either is constant.

    Over several folds, cases are ranked within their fold, and its ranks divided by its cases: predictions lie around the mean of
    the training cases, which is low where the labels of the left-out cases are high, so that over all cases predictions of a model
    that has learned nothing rank against the labels.

    Args:
        truth: labels.
        predicted: of the same cases.
        folds: number of the fold in which each was a test case; None: a single one.
    """
    if reason := _unusable(truth, predicted):
        return undefined(len(truth), reason)
    fold_of = np.zeros(len(truth), dtype=int) if folds is None else folds
    members = [fold_of == fold for fold in np.unique(fold_of)]
    if all(np.ptp(predicted[one]) == 0 for one in members):
        return undefined(len(truth), "every prediction is the same")

    def of(weights: Weights) -> Draws:
        return _correlation(
            _centred_ranks(truth, members, weights), _centred_ranks(predicted, members, weights), weights
        )

    return Statistic(of, len(truth), chance=0.0 if is_cross_validated(folds) else None)


def calibration_slope(truth: Numbers, predicted: Numbers) -> Statistic:
    """The slope of the least-squares line of labels on predictions; 1 is best."""
    if reason := _unusable(truth, predicted):
        return undefined(len(truth), reason)
    if np.ptp(predicted) == 0:
        return undefined(len(truth), "every prediction is the same")
    x, y = predicted - predicted.mean(), truth - truth.mean()

    def of(weights: Weights) -> Draws:
        n = weights.sum(axis=1)
        cross = weights @ (x * y) - (weights @ x) * (weights @ y) / n
        square = weights @ x**2 - (weights @ x) ** 2 / n
        return divide(cross, np.where(square > 1e-12 * n * x.var(), square, 0.0))

    return Statistic(of, len(truth))


def mean_absolute_error(truth: Numbers, predicted: Numbers) -> Statistic:
    """The mean of |y − ŷ|; 0 is best."""
    if reason := not_finite("predictions", predicted):
        return undefined(len(truth), reason)
    return ratio_of_sums(np.abs(truth - predicted))


def regression_metrics(
    truth: Numbers,
    predicted: Numbers,
    train_mean: Numbers,
    *,
    folds: Int[np.ndarray, " n"] | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> RegressionMetrics:
    """Metrics of one set of cases with 95 % intervals.

    Args:
        truth: labels.
        predicted: of the same cases.
        train_mean: mean label of the training cases of the model that predicted each case: the trivial prediction.
        folds: number of the fold in which each was a test case; None: a single one.
        bootstrap: resamples behind the intervals.
    """
    weights = bootstrap.weights(len(truth))
    trivial = {name: measure(one, weights) for name, one in _scores(truth, train_mean, folds).items()}
    trivial["spearman"] = Metric(None, reason=CONSTANT)
    return RegressionMetrics(
        n=len(truth),
        trivial=Trivial(description="the mean of the training cases", metrics=trivial),
        calibration_slope=measure(calibration_slope(truth, predicted), weights),
        **{name: measure(one, weights) for name, one in _scores(truth, predicted, folds).items()},
    )


def regression_by_fold(
    truth: Numbers,
    predicted: Numbers,
    train_mean: Numbers,
    folds: Int[np.ndarray, " n"],
    bootstrap: Bootstrap = BOOTSTRAP,
) -> PredictorReport[RegressionMetrics]:
    """Metrics of each fold's test cases and of all pooled; see `regression_metrics`."""

    def compute(chosen: Bool[np.ndarray, " n"], fold: int | None) -> RegressionMetrics:
        return regression_metrics(
            truth[chosen], predicted[chosen], train_mean[chosen], folds=folds[chosen], bootstrap=bootstrap
        )

    return report_by_fold(compute, folds, headline="r2")


def _scores(truth: Numbers, predicted: Numbers, folds: Int[np.ndarray, " n"] | None) -> dict[str, Statistic]:
    found: Sequence[Statistic] = (
        r_squared(truth, predicted),
        spearman(truth, predicted, folds),
        mean_absolute_error(truth, predicted),
    )
    return dict(zip(SCORES, found, strict=True))


def _unusable(truth: Numbers, predicted: Numbers) -> str | None:
    if reason := not_finite("predictions", predicted):
        return reason
    if len(truth) < 2 or np.ptp(truth) == 0:
        return f"the labels of {len(truth)} cases do not vary"
    return None


def _ranks(values: Numbers, weights: Weights) -> Float[np.ndarray, "b n"]:
    """The rank of each case where case i is counted w_i times; equal values share their mean rank."""
    levels, level = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), len(levels)))
    np.add.at(counts.T, level, weights.T)
    below = np.cumsum(counts, axis=1) - counts
    return (below + (counts + 1) / 2)[:, level]


def _centred_ranks(
    values: Numbers, members: Sequence[Bool[np.ndarray, " n"]], weights: Weights
) -> Float[np.ndarray, "b n"]:
    """The rank of each case within its fold, as a share of the fold's cases, from the mean of the fold."""
    ranks = np.zeros_like(weights, dtype=float)
    for one in members:
        n = weights[:, one].sum(axis=1, keepdims=True)
        ranks[:, one] = divide(
            _ranks(values[one], weights[:, one]) - (n + 1) / 2, np.broadcast_to(n, weights[:, one].shape)
        )
    return np.nan_to_num(ranks)


def _correlation(x: Float[np.ndarray, "b n"], y: Float[np.ndarray, "b n"], weights: Weights) -> Draws:
    """Pearson's correlation of each row, case i counted w_i times, of values whose weighted mean is 0."""
    scale = np.sqrt((weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1))
    return divide((weights * x * y).sum(axis=1), scale)
