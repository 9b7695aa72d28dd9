"""Few cases: intervals against published numbers, and what random predictors are called."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from pipeline.metrics import c_index, macro_auc, paired_difference
from pipeline.metrics.bootstrap import Bootstrap, Statistic, measure, ratio_of_sums
from pipeline.metrics.classification import balanced_accuracy, classification_metrics, micro_auc
from pipeline.metrics.concordance import CensoringDistribution, dynamic_auc, uno_c_index
from pipeline.metrics.multilabel import macro_label_auc
from pipeline.metrics.regression import spearman
from pipeline.metrics.small_samples import (
    Z,
    newcombe,
    reach_over_folds,
    reached,
    shuffled_within,
    up_to_chance,
    wilson,
)


def survival(n, *, deaths=None, seed=0):
    rng = np.random.default_rng(seed)
    event = np.arange(n) < (n if deaths is None else deaths)
    return rng.exponential(size=n), rng.permutation(event), rng.normal(size=n)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (9, 9), (40, 45)])
def test_a_share_has_wilsons_interval(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_an_area_is_as_far_from_the_ends_of_its_interval_as_its_error_there():
    """Newcombe's method 5: |θ̂ − θ| = z · sqrt(V(θ)), V(θ) = θ(1 − θ)/mn · (2N − 1 − (3N − 3)/((2 − θ)(1 + θ)))."""
    m, n, area = 10, 12, 0.8
    for theta in newcombe(area, m, n):
        variance = theta * (1 - theta) / (m * n) * (m + n - 1 - (1.5 * (m + n) - 3) / ((2 - theta) * (1 + theta)))
        assert abs(area - theta) == pytest.approx(Z * variance**0.5, rel=1e-6)
    low, high = newcombe(1.0, 10, 10)
    assert low < 0.85
    assert high == 1
    assert newcombe(0.0, 10, 10) == pytest.approx((0, 1 - low))


def test_four_deaths_are_too_few_to_judge():
    time, event, risk = survival(16, deaths=4)
    metric = measure(c_index(time, event, risk), Bootstrap().weights(16))
    assert metric.value is not None
    assert (metric.low, metric.high) == (None, None)
    assert metric.reason.startswith("too few to judge (")
    assert metric.reason.endswith(" comparable pairs, 4 events)")
    difference = paired_difference(lambda x: c_index(time, event, x), risk, -risk, Bootstrap())
    assert (difference.low, difference.reason) == (None, metric.reason)


def test_a_perfect_order_of_few_cases_has_an_interval_of_some_width():
    time = np.arange(1.0, 13)
    metric = measure(c_index(time, np.ones(12, bool), -time), Bootstrap().weights(12))
    assert metric.value == metric.high == 1
    assert 0.5 < metric.low < 0.9
    share = measure(ratio_of_sums(np.ones(6)), Bootstrap().weights(6))
    assert share.low == pytest.approx(wilson(1, 6)[0])


@pytest.mark.parametrize("n", [6, 80])
def test_a_share_of_all_cases_has_wilsons_interval_however_many_they_are(n):
    share = measure(ratio_of_sums(np.ones(n)), Bootstrap().weights(n))
    assert (share.value, share.low, share.high) == (1, pytest.approx(wilson(1, n)[0]), 1)


def test_a_perfect_order_of_many_cases_has_an_interval_of_some_width():
    time = np.arange(1.0, 81)
    metric = measure(c_index(time, np.ones(80, bool), -time), Bootstrap().weights(80))
    low, high = newcombe(1.0, 80, 80)
    assert (metric.value, metric.low, metric.high) == (1, pytest.approx(low), high)
    assert metric.low < 0.99


@pytest.mark.parametrize("n", [20, 80])
def test_what_no_resample_changes_has_no_interval_but_the_reason(n):
    """The most frequent class has a balanced accuracy of one half whichever cases are drawn."""
    labels = (np.arange(n) % 3 == 0).astype(int)
    trivial = measure(balanced_accuracy(labels, np.zeros(n, int), "ab"), Bootstrap().weights(n))
    assert (trivial.value, trivial.low, trivial.high) == (0.5, None, None)
    assert trivial.reason == f"no interval: the value is the same in every resample of {n} cases"


@pytest.mark.parametrize("n", [20, 160])
def test_two_perfect_orders_have_no_interval_of_their_difference_unless_they_are_the_same(n):
    labels = np.arange(n) % 2
    first, second = (np.column_stack([1 - p, p]) for p in (0.2 + 0.6 * labels, 0.4 + 0.2 * labels))
    difference = paired_difference(lambda x: macro_auc(labels, x, "ab"), first, second, Bootstrap())
    assert (difference.value, difference.low) == (0, None)
    assert difference.reason == f"no interval: the value is the same in every resample of {n} cases"
    same = paired_difference(lambda x: macro_auc(labels, x, "ab"), first, first.copy(), Bootstrap())
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("n", [10, 20, 50])
def test_random_predictors_are_seldom_better_than_chance_or_than_each_other(n):
    trials, above, differing = 60, 0, 0
    for trial in range(trials):
        time, event, first = survival(n, deaths=max(5, n // 2), seed=trial)
        second = np.random.default_rng([trial, n]).normal(size=n)
        bootstrap = Bootstrap(200, trial)
        metric = measure(c_index(time, event, first), bootstrap.weights(n))
        above += metric.low is not None and not metric.low <= 0.5 <= metric.high
        difference = paired_difference(lambda x: c_index(time, event, x), first, second, bootstrap)  # noqa: B023  # called before the loop goes on
        differing += difference.low is not None and not difference.low <= 0 <= difference.high
    assert above <= 7  # of 60 trials with a chance of 5 %, more than 7 have a chance of 1 %
    assert differing <= 7


def test_a_predictor_with_skill_is_seen_in_few_cases():
    labels = np.arange(40) % 2
    score = labels + 0.4 * np.random.default_rng(0).normal(size=40)
    sure = 1 / (1 + np.exp(-score))
    p, guess = np.column_stack([1 - sure, sure]), np.random.default_rng(1).dirichlet([1, 1], 40)
    assert measure(macro_auc(labels, p, "ab"), Bootstrap().weights(40)).low > 0.5
    assert paired_difference(lambda x: macro_auc(labels, x, "ab"), p, guess, Bootstrap()).low > 0
    good, bad = (pd.DataFrame(x, columns=["a", "b"]).assign(name="x") for x in (p, guess))
    of_tables = paired_difference(
        lambda t: macro_auc(labels, t[["a", "b"]].to_numpy(float), "ab"), good, bad, Bootstrap()
    )
    assert of_tables.low > 0


FOLDS = np.arange(100) % 5


def test_cross_validated_models_of_noise_are_seldom_better_or_worse_than_chance():
    """Each pair of folds counts twice: the bootstrap over cases alone leaves out chance in 14 % of trials."""
    claims, bare = 0, 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        y = rng.permutation(100) % 2
        score = cross_val_predict(Ridge(200), rng.normal(size=(100, 200)), y, cv=PredefinedSplit(FOLDS))
        p = 1 / (1 + np.exp(-score))
        statistic, weights = macro_auc(y, np.column_stack([1 - p, p]), "ab", folds=FOLDS), Bootstrap(200).weights(100)
        low, high = np.quantile(statistic.of(weights), (0.025, 0.975))
        metric = measure(statistic, weights)
        bare += not low <= 0.5 <= high
        claims += not metric.low <= 0.5 <= metric.high
    assert bare >= 9
    assert claims <= 5


def test_an_interval_reaches_chance_only_where_one_twice_as_uncertain_contains_it():
    assert up_to_chance(0.6, 0.52, 0.68, 0.5) == (0.5, 0.68)  # 0.6 − √2 · 0.08 < 0.5
    assert up_to_chance(0.4, 0.3, 0.48, 0.5) == (0.3, 0.5)
    assert up_to_chance(0.6, 0.54, 0.66, 0.5) == (0.54, 0.66)
    assert up_to_chance(0.6, 0.45, 0.7, 0.5) == (0.45, 0.7)


TIME = np.random.default_rng(1).exponential(size=100)
CENSORING = CensoringDistribution(TIME, np.ones(100, bool))
RANKED = {
    "c-index": lambda y, p, folds: c_index(TIME, y == 1, p, folds=folds),
    "Uno": lambda y, p, folds: uno_c_index(TIME, y == 1, p, censoring=CENSORING, folds=folds),
    "AUC at 1 month": lambda y, p, folds: dynamic_auc(TIME, y == 1, p, censoring=CENSORING, horizon=1, folds=folds),
    "macro AUC": lambda y, p, folds: macro_auc(y, np.column_stack([1 - p, p]), "ab", folds=folds),
    "micro AUC": lambda y, p, folds: micro_auc(y, np.column_stack([1 - p, p]), folds=folds),
    "AUC of labels": lambda y, p, folds: macro_label_auc(y[:, None].astype(float), p[:, None], folds=folds),
    "Spearman": lambda y, p, folds: spearman(TIME, p, folds),
}


@pytest.mark.parametrize("name", RANKED)
def test_each_metric_that_ranks_cases_knows_its_chance_where_several_models_predicted_them(name):
    rng = np.random.default_rng(0)
    y, p = rng.permutation(100) % 2, rng.uniform(size=100)
    chance = 0.0 if name == "Spearman" else 0.5
    assert RANKED[name](y, p, FOLDS).chance == chance
    assert RANKED[name](y, p, np.zeros(100, int)).chance is None
    assert RANKED[name](y, p, None).chance is None


def test_of_few_cross_validated_cases_a_random_order_must_be_exceeded_more_clearly():
    y = np.arange(40) % 2
    score = np.random.default_rng(3).normal(size=40) + 0.75 * y
    p = 1 / (1 + np.exp(-score))
    one, several = (
        measure(macro_auc(y, np.column_stack([1 - p, p]), "ab", folds=folds), Bootstrap().weights(40))
        for folds in (None, np.arange(40) // 20)
    )
    assert one.low > 0.5
    assert several.low == 0.5


def test_of_a_label_of_few_cases_nothing_is_judged():
    truth = np.repeat([1.0, 0.0, np.nan], [4, 30, 2])[:, None]
    metric = measure(macro_label_auc(truth, np.linspace(1, 0, 36)[:, None]), Bootstrap().weights(36))
    assert metric.value == 1
    assert metric.low is None
    assert metric.reason == "too few to judge (120 comparable pairs, 4 cases of the rarer value)"


def test_cases_exchange_predictions_within_their_fold():
    folds = np.array([0, 1, 0, 1, 1, 0])
    order = shuffled_within(folds, np.random.default_rng(0))
    assert (folds[order] == folds).all()
    assert sorted(order) == list(range(6))
    assert (order != np.arange(6)).any()


def test_a_p_value_counts_the_value_itself():
    assert reached(np.zeros(99), 1.0) == pytest.approx(0.01)
    assert reached(np.array([2.0, -2, 0, np.nan]), 1.0) == pytest.approx(3 / 4)


def test_differences_of_folds_reach_as_far_as_the_corrected_t_test():
    differences = np.array([0.03, 0.05, 0.01, 0.05, 0.01, np.nan])
    by_hand = 2.776445 * ((1 / 5 + 1 / 4) * 0.0004) ** 0.5  # t of 4 degrees of freedom; the variance is 0.0016 / 4
    assert reach_over_folds(differences) == pytest.approx(by_hand, rel=1e-6)
    assert reach_over_folds(np.array([0.1, np.nan])) == 0


def test_chance_of_the_micro_auc_is_what_the_most_frequent_class_for_all_reaches():
    y = np.repeat([0, 1], [80, 20])
    folds, majority = np.arange(100) % 5, np.zeros(100, int)
    rng = np.random.default_rng(0)
    first = rng.uniform(0.6, 1.0, 100)  # always the more frequent class, and nothing learned
    report = classification_metrics(y, np.column_stack([first, 1 - first]), "ab", majority=majority, folds=folds)
    trivial = report.trivial.metrics["micro_auc"]
    assert trivial.value == pytest.approx(
        0.8
    )  # of true and false entries 80 % are right, and a fifth of 2 · 16 % equal
    assert report.micro_auc.low <= 0.8 <= report.micro_auc.high
    assert report.micro_auc.low > 0.5
    assert report.micro_auc_across_folds.low <= 0.8 <= report.micro_auc_across_folds.high
    assert micro_auc(y, np.column_stack([first, 1 - first]), folds=folds, majority=majority).chance == trivial.value


def test_a_micro_auc_of_few_cases_is_as_uncertain_as_a_share_of_them():
    y = np.arange(12) % 3
    probabilities = np.eye(3)[y] * 0.5 + np.random.default_rng(0).dirichlet(np.ones(3), 12) * 0.5
    metric = measure(micro_auc(y, probabilities), Bootstrap().weights(12))
    assert metric.value == 1
    assert (metric.low, metric.high) == pytest.approx(wilson(1.0, 12))


@pytest.mark.parametrize(("defined", "has_interval"), [(100, True), (50, True), (49, False), (0, False)])
def test_of_a_metric_that_most_resamples_leave_undefined_there_is_no_interval(defined, has_interval):
    draws = np.where(np.arange(100) < defined, np.linspace(0, 1, 100), np.nan)
    metric = measure(Statistic(lambda weights: draws if len(weights) > 1 else np.array([0.4]), 7), np.ones((100, 7)))
    assert metric.value == 0.4
    assert (metric.low is not None) == has_interval
    assert metric.reason == (None if has_interval else f"no interval: defined in only {defined} of 100 resamples")


@pytest.mark.parametrize(("chance", "low"), [(0.0, 0.0), (None, 0.07)])
def test_a_cross_validated_interval_that_nearly_reaches_a_chance_of_0_contains_it(chance, low):
    draws = np.linspace(0.06, 0.46, 101)  # √2 times as wide below 0.25, it reaches −0.005
    of_cases = Statistic(lambda weights: draws if len(weights) > 1 else np.array([0.25]), 7, chance=chance)
    assert measure(of_cases, np.ones((101, 7))).low == pytest.approx(low)
