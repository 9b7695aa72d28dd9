"""How often chance passes for skill: random predictors, and intervals of known truth, in few and in many cases.

    python tests/benchmarks/bench_intervals.py [--trials 400]

For each number of cases: the share of trials in which a random predictor is called better or worse than chance, in which
one of two random predictors is called better than the other (each should be at most 5 %), in which nothing is claimed
since cases are too few, and in which the interval of a predictor of known concordance contains it (95 % or more).

Then the same of ridge regression that five-fold cross-validation trains on 200 genes of noise: how often chance is left out by the
percentiles of the bootstrap alone, by the reported interval, and by the log-rank test of high against low predicted risk.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import norm
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from pipeline.metrics import Metric, Statistic, c_index, macro_auc, paired_difference
from pipeline.metrics.bootstrap import Bootstrap, measure
from pipeline.metrics.survival import risk_groups

SKILL = 1.19  # distance of two normal distributions whose AUC is 0.8
TRUTH = 0.8
N_BOOT = 500


def survival(rng: np.random.Generator, n: int) -> tuple[Callable[[np.ndarray], Statistic], np.ndarray]:
    """The c-index of n cases, 40 % of them censored, within five folds; and risks that determine the hazard."""
    risk = rng.normal(size=n)
    time, censored = rng.exponential(size=n) * np.exp(-risk), rng.exponential(2.4, size=n) * np.exp(-risk)
    folds = np.arange(n) % min(5, max(1, n // 10))
    return lambda x: c_index(np.minimum(time, censored), time <= censored, x, folds=folds), risk


def classes(rng: np.random.Generator, n: int) -> tuple[Callable[[np.ndarray], Statistic], np.ndarray]:
    """The AUC of two classes of n cases; and a predictor of which it is 0.8."""
    labels = (np.arange(n) < max(1, n // 3)).astype(int)
    score = labels * SKILL + rng.normal(size=n)

    def area(x: np.ndarray) -> Statistic:
        one = norm.cdf(x)
        return macro_auc(labels, np.column_stack([1 - one, one]), "ab")

    return area, score


def claims(metric: Metric, null: float) -> bool:
    """Whether the interval leaves out what is true."""
    return metric.low is not None and metric.high is not None and not metric.low <= null <= metric.high


def noise(n: int, trials: int) -> str:
    """A row of the second table."""
    folds, bare, wrong, differing = np.arange(n) % 5, 0, 0, 0
    for trial in range(trials):
        rng = np.random.default_rng([n, trial])
        genes, labels, time = rng.normal(size=(n, 200)), rng.permutation(n) % 2, rng.exponential(size=n)
        split, weights = PredefinedSplit(folds), Bootstrap(N_BOOT, trial).weights(n)
        one = norm.cdf(cross_val_predict(Ridge(200), genes, labels, cv=split))
        statistic = macro_auc(labels, np.column_stack([1 - one, one]), "ab", folds=folds)
        low, high = np.quantile(statistic.of(weights), (0.025, 0.975))
        bare += not low <= 0.5 <= high
        wrong += claims(measure(statistic, weights), 0.5)
        risk = cross_val_predict(Ridge(200), genes, -time, cv=split)
        median = np.array([-np.mean(time[folds != fold]) for fold in folds])
        groups = risk_groups(
            time, np.ones(n, bool), risk, train_risk_median=median, cross_validated=True, weights=weights[:0]
        )
        differing += groups.p_value.value is not None and groups.p_value.value < 0.05
    return f"| {n} | {bare / trials:.1%} | {wrong / trials:.1%} | {differing / trials:.1%} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print("| metric | cases | above or below chance | one better than the other | too few to judge | contains 0.8 |")
    print("|---|---|---|---|---|---|")
    for name, simulate in (("c-index", survival), ("AUC", classes)):
        for n in (5, 10, 20, 50, 100, 200):
            wrong, differing, silent, missed = 0, 0, 0, 0
            for trial in range(trials):
                rng = np.random.default_rng([n, trial])
                statistic, skilled = simulate(rng, n)
                first, second = rng.normal(size=(2, n))
                bootstrap = Bootstrap(N_BOOT, trial)
                weights = bootstrap.weights(n)
                metric = measure(statistic(first), weights)
                silent += metric.low is None
                wrong += claims(metric, 0.5)
                differing += claims(paired_difference(statistic, first, second, bootstrap=bootstrap), 0.0)
                missed += claims(measure(statistic(skilled), weights), TRUTH)
            contains = f"{1 - missed / trials:.1%}" if name == "AUC" else "–"
            print(
                f"| {name} | {n} | {wrong / trials:.1%} | {differing / trials:.1%} | {silent / trials:.1%} | {contains} |",
                flush=True,
            )
    print("\n| cases, cross-validated | AUC: bootstrap alone | AUC: interval | log-rank p < 0.05 |\n|---|---|---|---|")
    for n in (50, 100, 200, 400):
        print(noise(n, trials), flush=True)


if __name__ == "__main__":
    main()
