"""What few cases can show: intervals and tests that hold where the bootstrap does not.

With a handful of cases every resample may rank them perfectly: the percentile interval of a c-index of 1 is then 1 to 1,
and that of a random predictor leaves out chance far more often than once in twenty. So, where fewer than 50 cases of the
rarer kind (deaths, the rarest class) are behind a metric,

* a concordance or AUC below the minima of `Ranking.too_few` has no interval and no verdict;
* its interval contains the score interval of an AUC (Newcombe 2006, "Confidence intervals for an effect size measure based on
  the Mann–Whitney statistic. Part 2", Statistics in Medicine 25, method 5);
* it leaves out chance only where a permutation test does: predictions dealt out among the cases (of a fold) at random; a
  cross-validated value must be √2 times as far from chance;
* that of a share contains Wilson's (1927);
* a difference of two predictors leaves out 0 only where it does so under random exchange of their predictions.

However many cases there are, an interval of no width, as that of a predictor that errs nowhere, is replaced by the score interval;
a metric without one has no interval.

Nor does a cross-validated metric leave out chance where an interval √2 times as wide contains it (`up_to_chance`).

`tests/benchmarks/bench_intervals.py` counts how often random predictors pass for better than chance, or than each other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from preprocessing.io.errors import count

ENOUGH = 50  # cases of the rarer kind from which the bootstrap is left alone
MIN_POSITIVES = 5
MIN_PAIRS = 25
LEVEL = 0.95
Z = 1.959963984540054  # of a normal distribution, 95 % within
SHUFFLES = 499
# Of predictions that have learned nothing, the cases of two folds agree by accident twice: once with either fold as the test
# cases, in a model that was trained on the other. The variance of a cross-validated metric is then up to twice that between
# cases (Bengio & Grandvalet 2004, "No unbiased estimator of the variance of k-fold cross-validation", JMLR 5).
CROSS_VALIDATED = math.sqrt(2)
TINY = 1e-9  # at 0 and 1 the score interval has a second root, of width 0


@dataclass(frozen=True, eq=False)
class Ranking:
    """Of a metric that ranks pairs of cases: how few there are, and its value once predictions are dealt out anew.

    Attributes:
        positives: cases of the rarer kind: deaths, or cases of the rarest class.
        negatives: cases that they are compared with.
        pairs: pairs that are compared.
        shuffled: from an order of the cases, (n,), to the value where case i has the prediction of case order[i].
        groups: cases of a group exchange predictions: those of a fold, or all.
        positive: what a positive case is called.
    """

    positives: int
    negatives: int
    pairs: int
    shuffled: Callable[[Int[np.ndarray, " n"]], float]
    groups: Int[np.ndarray, " n"]
    positive: str

    @property
    def is_small(self) -> bool:
        """Whether the bootstrap alone is not to be trusted."""
        return min(self.positives, self.negatives) < ENOUGH

    def too_few(self) -> str | None:
        """Why nothing can be judged from these cases: fewer than 5 of the rarer kind, or than 25 pairs; else None."""
        if min(self.positives, self.negatives) >= MIN_POSITIVES and self.pairs >= MIN_PAIRS:
            return None
        return f"too few to judge ({count(self.pairs, 'comparable pair')}, {count(self.positives, self.positive)})"

    def widened(self, value: float, low: float, high: float) -> tuple[float, float]:
        """An interval of the value that holds for few cases too, and has some width: at least the given one."""
        if not self.is_small and low < high:
            return low, high
        score = newcombe(value, self.positives, self.negatives)
        low, high = min(low, score[0]), max(high, score[1])
        if self.is_small and not low <= 0.5 <= high and self._chance_reaches(value):
            low, high = min(low, 0.5), max(high, 0.5)
        return low, high

    def _chance_reaches(self, value: float) -> bool:
        """Whether predictions dealt out at random are as far from 0.5 in more than one of twenty trials."""
        rng = np.random.default_rng(len(self.groups))
        found = [self.shuffled(shuffled_within(self.groups, rng)) for _ in range(SHUFFLES)]
        excess = (value - 0.5) / (CROSS_VALIDATED if is_cross_validated(self.groups) else 1)
        return reached(np.array(found) - 0.5, excess) > 1 - LEVEL


def is_cross_validated(folds: Int[np.ndarray, " n"] | None) -> bool:
    """Whether several models, one of each fold, predicted the cases; None: one model did."""
    return folds is not None and len(np.unique(folds)) > 1


def up_to_chance(value: float, low: float, high: float, chance: float) -> tuple[float, float]:
    """The interval of a cross-validated metric, extended to chance where √2 times as wide it would contain it."""
    widest = value - CROSS_VALIDATED * (value - low), value + CROSS_VALIDATED * (high - value)
    return (min(low, chance), max(high, chance)) if widest[0] <= chance <= widest[1] else (low, high)


def shuffled_within(groups: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """A random order of n cases, in which each takes the place of one of its group."""
    order = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order[members] = rng.permutation(members)
    return order


def reached(draws: Float[np.ndarray, " s"], value: float) -> float:
    """The share of draws at least as far from 0 as the value, which counts as one of them: a two-sided p-value."""
    defined = np.abs(draws[np.isfinite(draws)])
    return float((1 + (defined >= abs(value) - 1e-12).sum()) / (1 + len(defined)))


def reach_over_folds(differences: Float[np.ndarray, " f"]) -> float:
    """Half the width of the 95 % interval of a cross-validated difference of two predictors, from that of each fold.

    Training sets of folds overlap, whence the differences vary less than those of other training sets would: their variance
    counts 1/f + 1/(f − 1) times rather than 1/f (Nadeau & Bengio 2003, "Inference for the generalization error", Machine
    Learning 52). 0 where fewer than two folds define the metric.
    """
    from scipy.special import stdtrit  # scipy.stats takes long to import

    known = differences[np.isfinite(differences)]
    n = len(known)
    if n < 2:
        return 0.0
    return float(stdtrit(n - 1, (1 + LEVEL) / 2) * math.sqrt((1 / n + 1 / (n - 1)) * known.var(ddof=1)))


def newcombe(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Newcombe's score interval (method 5) of an area under the ROC curve, 95 %; both counts are at least 1."""
    from scipy.optimize import brentq

    mean = (positives + negatives) / 2

    def error(theta: float) -> float:
        factor = 2 * mean - 1 - (3 * mean - 3) / ((2 - theta) * (1 + theta))
        return Z * math.sqrt(max(0.0, theta * (1 - theta) * factor / (positives * negatives)))

    low = 0.0 if area <= 0 else float(brentq(lambda theta: area - theta - error(theta), 0, min(area, 1 - TINY)))
    high = 1.0 if area >= 1 else float(brentq(lambda theta: theta - area - error(theta), max(area, TINY), 1))
    return low, high


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share of n cases, 95 %."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)
