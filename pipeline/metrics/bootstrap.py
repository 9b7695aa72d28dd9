"""Values with 95 % bootstrap intervals over cases, and differences of two predictors.

Drawing n cases with replacement is the same as giving each case a count. A metric is therefore written once, as a
function of such counts (a `Statistic`), and all resamples are computed together: as ratios of sums over cases, w·x /
w·y, or over pairs of cases, wᵀAw / wᵀCw. Intervals are percentile intervals (Efron & Tibshirani 1993, chapter 13). What
was fitted on training cases (models, thresholds, censoring weights) stays fixed: the interval is the uncertainty of
these cases, not of training (for cross-validated values it is therefore somewhat too narrow: Bates, Hastie & Tibshirani
2023).
"""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

N_BOOT = 1000
LEVEL = 0.95
LEAST_DEFINED = 0.5  # an interval from fewer than half of the resamples would be one of the fortunate ones only

Weights = Float[np.ndarray, "b n"]
Draws = Float[np.ndarray, " b"]
Output = TypeVar("Output", bound=Sized)


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
    """

    of: Callable[[Weights], Draws]
    n: int
    point: float | None = None
    reason: str | None = None

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


def undefined(n: int, reason: str) -> Statistic:
    """A statistic of n cases that cannot be computed, and why."""
    return Statistic(lambda weights: np.full(len(weights), np.nan), n, reason=reason)


def measure(statistic: Statistic, weights: Weights) -> Metric:
    """The statistic's value with the percentile interval of its resamples."""
    if statistic.reason:
        return unavailable(statistic.reason)
    return _with_interval(statistic.value, statistic.of(weights))


def ratio_of_sums(numerator: Float[np.ndarray, " n"], denominator: Float[np.ndarray, " n"] | None = None) -> Statistic:
    """Σ wᵢ·numeratorᵢ / Σ wᵢ·denominatorᵢ; without denominators the mean over cases."""
    below = np.ones(len(numerator)) if denominator is None else denominator
    return Statistic(lambda weights: divide(weights @ numerator, weights @ below), len(numerator))


def ratio_of_pairs(agree: Float[np.ndarray, "n n"], count: Float[np.ndarray, "n n"]) -> Statistic:
    """Σ wᵢwⱼ·agreeᵢⱼ / Σ wᵢwⱼ·countᵢⱼ: concordance over pairs of cases (i, j). Memory grows with n²."""
    return Statistic(lambda weights: divide(over_pairs(weights, agree), over_pairs(weights, count)), len(agree))


def over_pairs(weights: Weights, pairs: Float[np.ndarray, "n n"]) -> Draws:
    """Σᵢⱼ wᵢ·pairsᵢⱼ·wⱼ for each row of weights."""
    return ((weights @ pairs) * weights).sum(axis=1)


def agreement(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n m"]:
    """1 where first is the higher, ½ where both are equal, 0 where second is the higher."""
    return (np.sign(first[:, None] - second[None, :]) + 1) / 2


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where below is 0."""
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

    Raises:
        ValueError: if a and b do not have as many cases.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same cases on both sides, got {len(a)} and {len(b)}")
    first, second = statistic(a), statistic(b)
    for name, side in (("first", first), ("second", second)):
        if side.reason:
            return unavailable(f"{name} predictor: {side.reason}")
    weights = bootstrap.weights(len(a))
    return _with_interval(first.value - second.value, first.of(weights) - second.of(weights))


def _with_interval(value: float, draws: Draws) -> Metric:
    if not np.isfinite(value):
        return unavailable("not defined on these cases")
    defined = draws[np.isfinite(draws)]
    if len(defined) == 0 or len(defined) < LEAST_DEFINED * len(draws):
        return Metric(value, reason=f"no interval: defined in {len(defined)} of {len(draws)} resamples")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Metric(value, float(low), float(high))
