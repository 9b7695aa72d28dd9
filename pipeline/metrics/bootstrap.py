"""Values with 95 % bootstrap intervals over cases, and differences of two predictors.

Drawing n cases with replacement is the same as giving each case a count. A metric is therefore written once, as a
function of such counts (a `Statistic`), and all resamples are computed together: as ratios of sums over cases, w·x /
w·y, or over pairs of cases, wᵀAw / wᵀCw. Intervals are percentile intervals (Efron & Tibshirani 1993, chapter 13). What
was fitted on training cases (models, thresholds, censoring weights) stays fixed: the interval is the uncertainty of
these cases, not of training (for cross-validated values it is therefore somewhat too narrow: Bates, Hastie & Tibshirani
2023; whether it leaves out chance is judged by a wider one, see `small_samples.up_to_chance`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from pipeline.metrics.small_samples import (
    ENOUGH,
    LEVEL,
    SHUFFLES,
    Ranking,
    is_cross_validated,
    reached,
    up_to_chance,
    wilson,
)
from preprocessing.io.errors import count

N_BOOT = 1000
ROUNDING = 1e-12  # of values of which none differs
LEAST_DEFINED = 0.5  # an interval from fewer than half of the resamples would be one of the fortunate ones only

Weights = Float[np.ndarray, "b n"]
Draws = Float[np.ndarray, " b"]
Output = TypeVar("Output", np.ndarray, pd.DataFrame)


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval, or the reason why there is none.

    Attributes:
        value: the metric on all cases; None if it could not be computed.
        low: lower end of the interval; None if there is no value, or no interval.
        high: upper end.
        reason: why value, or the interval, is missing; else None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if any(number is not None and not np.isfinite(number) for number in (self.value, self.low, self.high)):
            raise ValueError(f"a metric is finite or None with a reason, got {self.value} ({self.low}, {self.high})")
        if self.value is None and not self.reason:
            raise ValueError("a metric without a value needs the reason why")

    def to_json(self) -> dict[str, float | str | None]:
        """The four fields by name, null where there is nothing."""
        return {"value": self.value, "low": self.low, "high": self.high, "reason": self.reason}


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of how often each case is counted.

    Attributes:
        of: counts (b, n) to values (b,); NaN where a resample does not define the metric.
        n: number of cases.
        point: the value on all cases as a library computes it; None: `of` with every case once.
        reason: why the metric cannot be computed on these cases; else None.
        ranking: of a metric that ranks pairs of cases; else None.
        share_of: of a metric that is a share of cases, or of their comparisons, how many cases they are; else None.
        chance: of a metric of cross-validated predictions, its value where they are unrelated to the labels; else None.
    """

    of: Callable[[Weights], Draws]
    n: int
    point: float | None = None
    reason: str | None = None
    ranking: Ranking | None = None
    share_of: int | None = None
    chance: float | None = None

    @property
    def value(self) -> float:
        """The metric on all cases; NaN if it is not defined."""
        if self.reason:
            return float("nan")
        return self.point if self.point is not None else float(self.of(np.ones((1, self.n)))[0])


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed.

    Attributes:
        n_boot: number of resamples; 0: no intervals.
        seed: of the resamples: with the same seed and as many cases they are the same.
    """

    n_boot: int = N_BOOT
    seed: int = 0

    def weights(self, n: int) -> Weights:
        """How often each of n cases is drawn in each resample of n cases with replacement, (n_boot, n)."""
        return np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=self.n_boot).astype(float)


BOOTSTRAP = Bootstrap()


def unavailable(reason: str) -> Metric:
    """A metric that could not be computed, and why."""
    return Metric(None, reason=reason)


def not_finite(what: str, values: Float[np.ndarray, "n ..."]) -> str | None:
    """Why these values of n cases cannot be used; None if all are finite."""
    lost = int((~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).sum())
    return f"{what} of {lost} of {len(values)} cases are missing or not finite" if lost else None


def undefined(n: int, reason: str) -> Statistic:
    """A statistic of n cases that cannot be computed, and why."""
    return Statistic(lambda weights: np.full(len(weights), np.nan), n, reason=reason)


def measure(statistic: Statistic, weights: Weights) -> Metric:
    """The statistic's value with the percentile interval of its resamples, wider where there are few cases or all agree."""
    if statistic.reason:
        return unavailable(statistic.reason)
    if statistic.ranking and (few := statistic.ranking.too_few()):
        return Metric(statistic.value, reason=few)
    metric = _with_interval(statistic.value, statistic.of(weights))
    if metric.value is None or metric.low is None or metric.high is None:
        return metric
    low, high = metric.low, metric.high
    if statistic.ranking:
        low, high = statistic.ranking.widened(metric.value, low, high)
    elif statistic.share_of and (statistic.share_of < ENOUGH or high - low < ROUNDING):
        score = wilson(metric.value, statistic.share_of)
        low, high = min(low, score[0]), max(high, score[1])
    if statistic.chance is not None:
        low, high = up_to_chance(metric.value, low, high, statistic.chance)
    return _constant(metric.value, statistic.n) if high - low < ROUNDING else Metric(metric.value, low, high)


def ratio_of_sums(numerator: Float[np.ndarray, " n"], denominator: Float[np.ndarray, " n"] | None = None) -> Statistic:
    """Σ wᵢ·numeratorᵢ / Σ wᵢ·denominatorᵢ; without denominators the mean over cases."""
    below = np.ones(len(numerator)) if denominator is None else denominator
    is_share = np.isin(numerator, (0, 1)).all() and np.isin(below, (0, 1)).all()
    return Statistic(
        lambda weights: divide(weights @ numerator, weights @ below),
        len(numerator),
        share_of=int(below.sum()) if is_share else None,
    )


def ratio_of_pairs(agree: Float[np.ndarray, "n n"], count: Float[np.ndarray, "n n"]) -> Statistic:
    """Σ wᵢwⱼ·agreeᵢⱼ·countᵢⱼ / Σ wᵢwⱼ·countᵢⱼ: concordance over pairs of cases (i, j). Memory grows with n²."""
    agreed = agree * count
    return Statistic(lambda weights: divide(over_pairs(weights, agreed), over_pairs(weights, count)), len(agree))


def mean_area(
    areas: Sequence[tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]],
    folds: Int[np.ndarray, " n"] | None,
    *,
    positives: int,
    negatives: int,
    positive: str,
) -> Statistic:
    """The mean of some areas under the ROC curve, or of one concordance, and what few cases can show of it.

    Args:
        areas: of each its `agree` and `count`, as of `ratio_of_pairs`.
        folds: the fold that tested each case; None where one model predicted all.
        positives: cases of the rarer kind.
        negatives: cases that they are compared with.
        positive: what a positive case is called.
    """
    n, ratios = len(areas[0][0]), [ratio_of_pairs(*area) for area in areas]
    ranking = Ranking(
        positives=positives,
        negatives=negatives,
        pairs=min(int((count > 0).sum()) for _, count in areas),
        shuffled=lambda order: float(np.mean([shuffled_ratio(*area, order) for area in areas])),
        groups=np.zeros(n, int) if folds is None else folds,
        positive=positive,
    )
    chance = 0.5 if is_cross_validated(folds) else None
    return Statistic(
        lambda weights: np.mean([one.of(weights) for one in ratios], axis=0), n, ranking=ranking, chance=chance
    )


def shuffled_ratio(
    agree: Float[np.ndarray, "n n"], count: Float[np.ndarray, "n n"], order: Int[np.ndarray, " n"]
) -> float:
    """The value of `ratio_of_pairs` where case i has the prediction of case order[i]."""
    return float((agree[np.ix_(order, order)] * count).sum() / count.sum())


def over_pairs(weights: Weights, pairs: Float[np.ndarray, "n n"]) -> Draws:
    """Σᵢⱼ wᵢ·pairsᵢⱼ·wⱼ for each row of weights."""
    return ((weights @ pairs) * weights).sum(axis=1)


def agreement(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n m"]:
    """1 where first is the higher, ½ where both are equal, 0 where second is the higher."""
    return (np.sign(first[:, None] - second[None, :]) + 1) / 2


def divide(above: Float[np.ndarray, "*shape"], below: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """above / below, broadcast against each other; NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)


def paired_difference(
    statistic: Callable[[Output], Statistic],
    a: Output,
    b: Output,
    bootstrap: Bootstrap,
) -> Metric:
    """How much predictor a exceeds predictor b on the same cases, with its interval; positive if a is the higher.

    Both are evaluated on the same resamples, so that what makes a resample hard for both cancels out.

    Args:
        statistic: from one predictor's output to the metric, e.g. with pairs compared within folds only
            `lambda risk: c_index(time, event, risk, folds=folds)`.
        a: first predictor's output, a row for each case (risks, class probabilities, or a table of them).
        b: second predictor's output for the same cases in the same order.
        bootstrap: the resamples, which both share.

    Returns:
        The difference; where it cannot be computed, the reason is that of b, by which differences are listed, or names the model.

    Raises:
        ValueError: if a and b do not have as many cases.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same cases on both sides, got {len(a)} and {len(b)}")
    first, second = statistic(a), statistic(b)
    if first.reason and first.reason != second.reason:
        return unavailable(f"model: {first.reason}")
    if second.reason:
        return unavailable(second.reason)
    value = first.value - second.value
    ranking = first.ranking
    if ranking and (few := ranking.too_few()):
        return Metric(value, reason=few)
    weights = bootstrap.weights(len(a))
    metric = _with_interval(value, first.of(weights) - second.of(weights))
    if metric.low is None or metric.high is None:
        return metric
    low, high = metric.low, metric.high
    if ranking and ranking.is_small and not low <= 0 <= high:
        rng = np.random.default_rng(bootstrap.seed)
        swaps = rng.random((SHUFFLES, len(a))) < 0.5
        draws = [statistic(_exchanged(a, b, swap)).value - statistic(_exchanged(b, a, swap)).value for swap in swaps]
        if reached(np.array(draws), value) > 1 - LEVEL:
            low, high = min(low, 0.0), max(high, 0.0)
    return _constant(value, len(a)) if high - low < ROUNDING and not _equal(a, b) else Metric(value, low, high)


def _constant(value: float, n: int) -> Metric:
    """A value that no resample of n cases changes: an interval of no width would be a certainty that they cannot give."""
    return Metric(value, reason=f"no interval: the value is the same in every resample of {count(n, 'case')}")


def _exchanged(a: Output, b: Output, swap: Bool[np.ndarray, " n"]) -> Output:
    """The first predictor's output, where not swapped, else the second's."""
    if isinstance(a, pd.DataFrame):
        shared = [name for name in a if name in b]
        mine, others = (table[shared].reset_index(drop=True) for table in (a, b))
        return mine.where(np.broadcast_to(~swap[:, None], mine.shape), others)
    return np.where(swap.reshape(-1, *[1] * (a.ndim - 1)), b, a)


def _equal(a: Output, b: Output) -> bool:
    if isinstance(a, pd.DataFrame):
        shared = [name for name in a if name in b]
        return a[shared].reset_index(drop=True).equals(b[shared].reset_index(drop=True))
    return np.array_equal(a, b)


def _with_interval(value: float, draws: Draws) -> Metric:
    if not np.isfinite(value):
        return unavailable("not defined on these cases")
    defined = draws[np.isfinite(draws)]
    if len(defined) == 0 or len(defined) < LEAST_DEFINED * len(draws):
        return Metric(value, reason=f"no interval: defined in only {len(defined)} of {len(draws)} resamples")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Metric(value, float(low), float(high))
