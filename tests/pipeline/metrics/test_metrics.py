import time as clock
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index
from pydantic import BaseModel

from pipeline.metrics import (
    Bootstrap,
    CaseMetrics,
    FollowUp,
    Metric,
    SurvivalPredictions,
    c_index,
    classification_by_fold,
    classification_metrics,
    macro_auc,
    paired_difference,
    report_by_fold,
    survival_by_fold,
    survival_metrics,
)
from pipeline.metrics.bootstrap import measure
from pipeline.metrics.classification import (
    balanced_accuracy,
    brier,
    calibration_error,
    macro_f1,
    micro_auc,
    most_frequent,
)
from pipeline.metrics.concordance import CensoringDistribution, dynamic_auc, uno_c_index
from pipeline.metrics.curves import calibration, calibration_slope, integrated_brier, kaplan_meier_at
from pipeline.metrics.multilabel import multilabel_metrics
from pipeline.metrics.regression import regression_metrics
from pipeline.metrics.survival import risk_groups

REFERENCE = Path(__file__).parents[3].parent / "shared" / "data" / "reference" / "cindex.npz"


CLASSES = ("a", "b", "c")


def simulate(n: int, seed: int, *, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exponential survival (30 months on average) whose log hazard rises with a normal risk; censoring uniform to 120 months."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=n)
    death, lost = generator.exponential(30 * np.exp(-effect * risk)), generator.uniform(0, 120, n)
    return np.minimum(death, lost), death <= lost, risk


def drawn(weights: np.ndarray) -> np.ndarray:
    """The numbers of the cases that a row of counts stands for."""
    return np.repeat(np.arange(len(weights)), weights.astype(int))


def values(report: object) -> list[Metric]:
    if isinstance(report, Metric):
        return [report]
    if isinstance(report, BaseModel):
        report = {name: getattr(report, name) for name in type(report).model_fields if name != "trivial"}
    parts = report.values() if isinstance(report, dict) else report if isinstance(report, tuple) else []
    return [metric for part in parts for metric in values(part)]


# Survival ------------------------------------------------------------------------------------------------------------


def test_c_index_of_a_hand_counted_table() -> None:
    # Months 1 (died), 2 (censored), 3 (died), 3 (censored), 4 (died); comparable pairs:
    # 1 with the four others; 3 (died) with 3 (censored) and with 4. Six in all.
    # Risks 5, 9, 2, 2, 1: 5 > 9 no; 5 > 2, 5 > 2, 5 > 1 yes; 2 = 2 half; 2 > 1 yes. 4.5 of 6.
    time, event = np.array([1.0, 2, 3, 3, 4]), np.array([True, False, True, False, True])
    assert c_index(time, event, np.array([5.0, 9, 2, 2, 1])).value == pytest.approx(4.5 / 6)


def test_c_index_within_folds_leaves_pairs_of_two_folds_out() -> None:
    # Each fold ranks its own two cases rightly; across folds every pair but one is wrong.
    time, event = np.array([1.0, 2, 3, 4]), np.ones(4, dtype=bool)
    risk, folds = np.array([2.0, 1, 20, 10]), np.array([0, 0, 1, 1])
    assert c_index(time, event, risk, folds=folds).value == 1
    assert c_index(time, event, risk).value == pytest.approx(2 / 6)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is not there")
def test_c_index_and_ipcw_reference_are_reproduced() -> None:
    stored = np.load(REFERENCE)
    time, event, risk = stored["time"], stored["censorship"] == 0, stored["risk"]
    assert c_index(time, event, risk).value == pytest.approx(float(stored["cindex"]), abs=1e-10)
    one_fold = c_index(time, event, risk, folds=np.zeros(len(time), dtype=int))  # the form of the bootstrap
    assert one_fold.value == pytest.approx(float(stored["cindex"]), abs=1e-10)
    uno = uno_c_index(time, event, risk, censoring=CensoringDistribution(time, event))
    assert uno.value == pytest.approx(float(stored["ipcw"]), abs=1e-7)


def test_resampled_c_index_is_lifelines_on_the_drawn_cases() -> None:
    time, event, risk = simulate(60, 1)
    time, risk = np.ceil(time), np.round(risk, 1)  # ties of both kinds
    weights = Bootstrap(20, seed=3).weights(60)
    expected = [concordance_index(time[d], -risk[d], event[d]) for d in map(drawn, weights)]
    np.testing.assert_allclose(c_index(time, event, risk).of(weights), expected, atol=1e-12)


def test_uno_and_dynamic_auc_agree_with_torchsurv() -> None:
    from torchsurv.metrics.auc import Auc
    from torchsurv.metrics.cindex import ConcordanceIndex
    from torchsurv.stats.ipcw import get_ipcw

    time, event, risk = simulate(150, 2)
    train_time, train_event, _ = simulate(400, 3)
    train_time[0], train_event[0] = time.max() + 1, False
    censoring = CensoringDistribution(train_time, train_event)
    t, e, r = (torch.tensor(column.astype(kind)) for column, kind in ((time, "f4"), (event, bool), (risk, "f4")))
    train = torch.tensor(train_event), torch.tensor(train_time.astype("f4"))
    ipcw = get_ipcw(*train, t)
    uno = ConcordanceIndex()(r, e, t, weight=ipcw, tmax=torch.tensor(60.0, dtype=t.dtype))
    assert uno_c_index(time, event, risk, censoring=censoring, tau=60).value == pytest.approx(float(uno), abs=1e-5)
    horizon = torch.tensor([24.0], dtype=t.dtype)
    there = get_ipcw(*train, horizon)
    area = Auc()(r, e, t, new_time=horizon, weight=ipcw, weight_new_time=there)
    assert dynamic_auc(time, event, risk, censoring=censoring, horizon=24).value == pytest.approx(float(area), abs=1e-5)


def test_the_censoring_distribution_of_a_hand_counted_table() -> None:
    """Censored at 1, 2 and 3; an event at 2 comes before the censoring then, so that two are left of whom one leaves."""
    time, event = np.array([1.0, 2, 2, 3]), np.array([False, True, False, False])
    found = CensoringDistribution(time, event).at(np.array([0.5, 1, 1.5, 2, 2.5, 3, 4]))
    np.testing.assert_allclose(found, [1, 3 / 4, 3 / 4, 3 / 8, 3 / 8, 0, 0])


def test_unos_concordance_counts_events_before_the_last_horizon_only() -> None:
    """Of late events the weights grow without bound: those after 60 months have none."""
    time, event, risk = simulate(400, 2)
    assert (event & (time > 60)).any()
    known, censoring = FollowUp(time, event), CensoringDistribution(time, event)
    found = survival_metrics(known, SurvivalPredictions(risk), train=known, bootstrap=Bootstrap(10)).uno_c_index.value
    bounded, unbounded = (uno_c_index(time, event, risk, censoring=censoring, tau=tau).value for tau in (60, None))
    assert found == pytest.approx(bounded, rel=1e-12)
    assert found != pytest.approx(unbounded, rel=1e-4)


def test_an_event_at_the_very_horizon_is_a_case_and_no_control_and_one_at_tau_does_not_count() -> None:
    time, event, risk = np.array([5.0, 10, 20]), np.array([True, True, False]), np.array([3.0, 1, 2])
    censoring = CensoringDistribution(time, event)  # nobody is censored before the last month
    area = dynamic_auc(time, event, risk, censoring=censoring, horizon=10).value
    assert area == pytest.approx(1 / 2)  # of the deaths at 5 and at 10, that at 5 ranks above the one control
    pairs = {
        10: 1,
        10.01: 2 / 3,
        None: 2 / 3,
    }  # of the death at 5 with both others, then also of that at 10 with the last
    for tau, value in pairs.items():
        assert uno_c_index(time, event, risk, censoring=censoring, tau=tau).value == pytest.approx(value)


def test_dynamic_auc_without_censoring_is_the_ordinary_auc() -> None:
    time, _, risk = simulate(200, 4)
    event = np.ones(200, dtype=bool)
    statistic = dynamic_auc(time, event, risk, censoring=CensoringDistribution(time, event), horizon=20)
    assert statistic.value == pytest.approx(sklearn.metrics.roc_auc_score(time <= 20, risk))


def test_integrated_brier_by_hand() -> None:
    # Nobody is censored (G = 1). Deaths at 1 and 3 months, a coin's curve: ½ for everyone loses ¼ at every time after 0;
    # from 0 to 1 months the curve falls from 1 to ½.
    time, event = np.array([1.0, 3.0]), np.array([True, True])
    statistic = integrated_brier(
        time,
        event,
        np.full((2, 2), 0.5),
        curve_times=np.array([1.0, 3.0]),
        censoring=CensoringDistribution(time, event),
        until=2,
    )
    # at 0, 1, 2 months: 0, ¼, ¼ for both cases; trapezoids (0 + ¼)/2 + ¼ = 0.375 over 2 months
    assert statistic.value == pytest.approx(0.375 / 2)


def test_brier_weights_agree_with_torchsurv() -> None:
    from torchsurv.metrics.brier_score import BrierScore
    from torchsurv.stats.ipcw import get_ipcw

    time, event, risk = simulate(120, 5)
    grid = np.arange(0, 61.0)
    curves = np.exp(-np.exp(risk)[:, None] * grid / 30)
    t, e, new = torch.tensor(time), torch.tensor(event), torch.tensor(grid[1:])
    scores = BrierScore()(
        torch.tensor(curves[:, 1:]),
        e,
        t,
        new_time=new,
        weight=get_ipcw(e, t),
        weight_new_time=get_ipcw(e, t, new),
    ).numpy()
    expected = np.trapezoid(np.concatenate([[0.0], scores]), grid) / 60  # at 0 months every curve is right
    mine = integrated_brier(
        time, event, curves, curve_times=grid, censoring=CensoringDistribution(time, event), until=60
    )
    assert mine.value == pytest.approx(expected, abs=1e-6)


def test_kaplan_meier_of_resamples_is_lifelines_on_the_drawn_cases() -> None:
    time, event, _ = simulate(80, 6)
    time = np.ceil(time)
    weights = Bootstrap(10, seed=1).weights(80)
    expected = [
        KaplanMeierFitter().fit(time[d], event[d]).survival_function_at_times(24.0).item() for d in map(drawn, weights)
    ]
    np.testing.assert_allclose(kaplan_meier_at(time, event, 24.0).of(weights), expected, atol=1e-12)


def test_true_curves_are_calibrated_and_extreme_ones_are_not() -> None:
    time, event, risk = simulate(3000, 7)
    censoring, weights = CensoringDistribution(time, event), Bootstrap(n_boot=200).weights(3000)
    truth = np.exp(-np.exp(risk) * 24 / 30)
    good = calibration(time, event, truth, censoring=censoring, horizon=24, weights=weights)
    assert good.slope.low < 1 < good.slope.high
    assert good.mean_difference.low < 0 < good.mean_difference.high
    assert [third.n for third in good.thirds] == [1000, 1000, 1000]
    for third in good.thirds:
        assert third.predicted.value == pytest.approx(third.observed.value, abs=0.05)
    extreme = calibration(time, event, (truth > 0.5) * 1.0, censoring=censoring, horizon=24, weights=weights)
    assert extreme.slope.high < 0.8
    hopeful = calibration(time, event, truth**0.5, censoring=censoring, horizon=24, weights=weights)
    assert hopeful.mean_difference.low > 0.05


def test_calibration_slope_of_resamples_without_censoring_is_a_straight_line_fit() -> None:
    time, _, risk = simulate(80, 17)
    event, predicted = np.ones(80, dtype=bool), np.exp(-np.exp(risk) * 24 / 30)
    weights = Bootstrap(10, seed=4).weights(80)
    expected = [np.polyfit(predicted[d], time[d] > 24, 1)[0] for d in map(drawn, weights)]
    statistic = calibration_slope(time, event, predicted, CensoringDistribution(time, event), 24)
    np.testing.assert_allclose(statistic.of(weights), expected)


def test_risk_groups_are_cut_at_the_training_median() -> None:
    # Deaths at 1, 2 (high), 3, 4 (low). At risk high/all: 2/4, 1/3, 0, 0: E_high = 5/6, O_high = 2; E_low = 19/6, O_low = 2.
    time, event, risk = np.array([1.0, 2, 3, 4]), np.ones(4, dtype=bool), np.array([8.0, 7, 6, 5])
    weights = Bootstrap(n_boot=0).weights(4)
    groups = risk_groups(time, event, risk, train_risk_median=6.5, weights=weights)
    assert (groups.n_high, groups.n_low) == (2, 2)
    assert groups.hazard_ratio.value == pytest.approx((2 / (5 / 6)) / (2 / (19 / 6)))
    variance = 1 / 4 + 2 / 9  # hypergeometric, of the first two deaths
    assert groups.log_rank.value == pytest.approx((2 - 5 / 6) ** 2 / variance)
    assert risk_groups(time, event, risk, train_risk_median=7.5, weights=weights).n_high == 1
    assert (
        risk_groups(time, event, risk, train_risk_median=7.0, weights=weights).n_high == 1
    )  # the median itself is not above it
    a_case = risk_groups(time, event, risk, train_risk_median=np.array([9.0, 0, 9, 0]), weights=weights)
    assert a_case.n_high == 2
    assert "one side" in risk_groups(time, event, risk, train_risk_median=1.0, weights=weights).p_value.reason


def test_risk_groups_of_several_folds_differ_only_where_they_would_with_twice_the_variance() -> None:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=60)
    time, event, weights = (
        rng.exponential(size=60) * np.exp(-0.45 * risk),
        np.ones(60, bool),
        Bootstrap(500).weights(60),
    )
    one, several = (
        risk_groups(time, event, risk, train_risk_median=0.0, cross_validated=several, weights=weights)
        for several in (False, True)
    )
    assert several.log_rank.value == pytest.approx(one.log_rank.value / 2)
    assert several.p_value.value == pytest.approx(scipy.stats.chi2.sf(one.log_rank.value / 2, 1))
    assert one.p_value.value == pytest.approx(scipy.stats.chi2.sf(one.log_rank.value, 1))
    assert one.hazard_ratio.low > 1
    assert (several.hazard_ratio.low, several.hazard_ratio.high) == pytest.approx((1, one.hazard_ratio.high))


def test_a_hazard_ratio_whose_interval_begins_at_0_is_extended_to_1_likewise() -> None:
    risk = np.repeat([1.0, -1.0], [12, 28])
    time, event = np.arange(1.0, 41), np.repeat([True, False, True], [2, 10, 28])
    time[2:12] += 20.5
    weights = Bootstrap(500).weights(40)
    one, several = (
        risk_groups(time, event, risk, train_risk_median=0.0, cross_validated=several, weights=weights).hazard_ratio
        for several in (False, True)
    )
    assert one.low == several.low == 0
    assert one.high < 1 == several.high


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # The truth of two exponential cases with log hazards a, b: P(a first) = 1 / (1 + exp(b − a)); averaged over pairs.
    pair = np.random.default_rng(0).normal(size=(2, 200_000))
    truth = (1 / (1 + np.exp(-np.abs(pair[0] - pair[1])))).mean()
    hits = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        risk = generator.normal(size=120)
        time = generator.exponential(np.exp(-risk))
        metric = measure(c_index(time, np.ones(120, dtype=bool), risk), Bootstrap(300, seed=seed).weights(120))
        hits += metric.low <= truth <= metric.high
    assert 88 <= hits <= 100


def test_shuffled_survival_labels_leave_chance_inside_the_intervals() -> None:
    time, event, risk = simulate(300, 8)
    known = FollowUp(time, event)
    shuffled = np.random.default_rng(0).permutation(risk)
    folds = np.arange(300) % 5
    report = survival_by_fold(known, SurvivalPredictions(shuffled, train_risk_median=np.zeros(300)), folds).pooled
    for metric in (report.c_index, report.c_index_across_folds, report.uno_c_index, *report.auc.values()):
        assert metric.low < 0.5 < metric.high
    assert report.risk_groups.hazard_ratio.low < 1 < report.risk_groups.hazard_ratio.high
    honest = survival_by_fold(known, SurvivalPredictions(risk), folds).pooled
    assert honest.c_index.low > 0.5


def test_degenerate_survival_folds_are_none_with_a_reason() -> None:
    time, event, risk = simulate(40, 9)
    nobody = np.zeros(40, dtype=bool)
    curves = np.tile(np.linspace(1, 0.2, 61), (40, 1))
    known, predicted = FollowUp(time, nobody), SurvivalPredictions(risk, curves, np.arange(61.0), np.zeros(40))
    report = survival_metrics(known, predicted, train=known, bootstrap=Bootstrap(20))
    for metric in (report.c_index, report.uno_c_index, report.auc["24"], report.risk_groups.p_value):
        assert metric.value is None
        assert "event" in metric.reason
    known, missing = FollowUp(time, event), np.full(40, np.nan)
    predicted = SurvivalPredictions(missing, train_risk_median=missing)
    lost = survival_metrics(known, predicted, train=known, bootstrap=Bootstrap(20))
    assert "risks of 40 of 40 cases" in lost.c_index.reason
    assert lost.integrated_brier.reason == "no survival curves were given"
    assert all(metric.value is None for metric in values(lost))


def test_short_follow_up_and_short_curves_are_reported() -> None:
    time, event, risk = simulate(200, 10)
    event &= time <= 30
    time = np.minimum(time, 30)
    known, curves = FollowUp(time, event), np.exp(-np.exp(risk)[:, None] * np.arange(49) / 30)
    predicted = SurvivalPredictions(risk, curves, np.arange(49.0))
    report = survival_metrics(known, predicted, train=known, bootstrap=Bootstrap(20))
    assert report.integrated_brier_until_months == 24
    assert report.auc["36"].reason == "nobody is followed beyond 36 months"
    assert report.calibration["60"].slope.reason == "the survival curves end at 48 months, before 60"
    assert report.risk_groups.log_rank.reason == "no median of the training risks was given"


def test_survival_by_fold_reports_each_fold_and_their_mean() -> None:
    time, event, risk = simulate(100, 11)
    folds = np.arange(100) % 4
    report = survival_by_fold(FollowUp(time, event), SurvivalPredictions(risk + 100 * folds), folds, Bootstrap(20))
    each = [concordance_index(time[folds == k], -risk[folds == k], event[folds == k]) for k in range(4)]
    assert [fold.metrics.c_index.value for fold in report.folds] == pytest.approx(each)
    assert [fold.fold for fold in report.folds] == [0, 1, 2, 3]
    assert report.mean == pytest.approx(np.mean(each))
    assert report.sd == pytest.approx(np.std(each, ddof=1))
    assert report.pooled.c_index.value == pytest.approx(np.mean(each), abs=0.02)
    assert report.pooled.c_index_across_folds.value < report.pooled.c_index.value - 0.05


def test_all_survival_metrics_of_455_cases_take_seconds() -> None:
    time, event, risk = simulate(455, 12)
    curves = np.exp(-np.exp(risk)[:, None] * np.arange(61) / 30)
    known, predicted = FollowUp(time, event), SurvivalPredictions(risk, curves, np.arange(61.0), np.zeros(455))
    begin = clock.perf_counter()
    survival_metrics(known, predicted, train=known, folds=np.arange(455) % 5)
    assert clock.perf_counter() - begin < 30


# Classification ------------------------------------------------------------------------------------------------------

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 0, 2, 2, 2])


def test_classification_metrics_of_a_hand_counted_table() -> None:
    # Truth by prediction: a 3 1 0, b 1 2 0, c 0 0 3.
    majority = np.full(10, most_frequent(np.array([1, 1, 0])))
    report = classification_metrics(LABELS, np.eye(3)[PREDICTED], ["a", "b", "c"], majority=majority)
    np.testing.assert_array_equal(report.confusion.counts, [[3, 1, 0], [1, 2, 0], [0, 0, 3]])
    assert report.accuracy.value == pytest.approx(0.8)
    assert report.balanced_accuracy.value == pytest.approx((3 / 4 + 2 / 3 + 1) / 3)
    assert report.macro_f1.value == pytest.approx((6 / 8 + 4 / 6 + 1) / 3)
    assert report.per_class["a"].sensitivity.value == pytest.approx(3 / 4)
    assert report.per_class["a"].specificity.value == pytest.approx(5 / 6)
    assert report.per_class["b"].n == 3
    assert report.brier.value == pytest.approx(2 * 2 / 10)  # two cases wrong by 1 in two classes
    assert report.calibration_error.value == pytest.approx(0.2)  # sure of all, right in 8 of 10
    # one-vs-rest areas with hard predictions: mean of sensitivity and specificity
    assert report.macro_auc.value == pytest.approx(((3 / 4 + 5 / 6) / 2 + (2 / 3 + 6 / 7) / 2 + 1) / 3)
    assert report.trivial.description.endswith("(b)")  # the training cases', not the test cases'
    assert report.trivial.metrics["accuracy"].value == pytest.approx(0.3)
    assert report.trivial.metrics["balanced_accuracy"].value == pytest.approx(1 / 3)


def test_calibration_error_by_hand() -> None:
    # Confidence 0.65 (one of two right: gap 0.15) and 0.95 (both right: gap 0.05), two cases in each bin.
    probabilities = np.array([[0.65, 0.35], [0.65, 0.35], [0.95, 0.05], [0.05, 0.95]])
    assert calibration_error(np.array([0, 1, 0, 1]), probabilities).value == pytest.approx(0.5 * 0.15 + 0.5 * 0.05)


def test_resampled_classification_metrics_are_scikit_learn_on_the_drawn_cases() -> None:
    generator = np.random.default_rng(0)
    labels, probabilities = generator.integers(0, 3, 60), generator.dirichlet(np.ones(3), 60).round(2)
    probabilities[:, 2] = 1 - probabilities[:, 0] - probabilities[:, 1]
    predicted = probabilities.argmax(axis=1)
    weights = Bootstrap(15, seed=2).weights(60)
    for row, cases in enumerate(map(drawn, weights)):
        y, hard, soft = labels[cases], predicted[cases], probabilities[cases]
        truth = np.eye(3)[y]
        expected = {
            balanced_accuracy(labels, predicted, "abc"): sklearn.metrics.balanced_accuracy_score(y, hard),
            macro_f1(labels, predicted, "abc"): sklearn.metrics.f1_score(y, hard, average="macro"),
            macro_auc(labels, probabilities, CLASSES[: probabilities.shape[1]]): sklearn.metrics.roc_auc_score(
                truth, soft, average="macro"
            ),
            micro_auc(labels, probabilities): sklearn.metrics.roc_auc_score(truth, soft, average="micro"),
            brier(labels, probabilities): ((truth - soft) ** 2).sum(axis=1).mean(),
        }
        for statistic, value in expected.items():
            assert statistic.of(weights[[row]])[0] == pytest.approx(value, abs=1e-9)


def test_macro_auc_within_folds_leaves_pairs_of_two_folds_out() -> None:
    labels, folds = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    second = np.array([0.1, 0.2, 0.8, 0.9])  # right within each fold, wrong for case 1 against case 2
    probabilities = np.column_stack([1 - second, second])
    assert macro_auc(labels, probabilities, CLASSES[: probabilities.shape[1]], folds=folds).value == 1
    assert macro_auc(labels, probabilities, CLASSES[: probabilities.shape[1]]).value == pytest.approx(3 / 4)


def test_of_one_fold_the_pairs_across_folds_are_those_within_it_with_the_same_interval() -> None:
    truth = np.arange(200) % 2
    low, one = np.random.default_rng(12).normal(size=200) + 0.3 * truth, np.zeros(200, int)
    probabilities = np.column_stack([1 / (1 + np.exp(low)), 1 / (1 + np.exp(-low))])
    report = classification_metrics(truth, probabilities, CLASSES[:2], folds=one)
    for within, across in (
        (report.macro_auc, report.macro_auc_across_folds),
        (report.micro_auc, report.micro_auc_across_folds),
    ):
        assert (across.low, across.high) == pytest.approx((within.low, within.high))
    assert report.macro_auc.low > 0.5
    known = FollowUp(np.random.default_rng(0).exponential(np.exp(-low)), np.ones(200, bool))
    survival = survival_metrics(known, SurvivalPredictions(low), train=known, folds=one)
    assert survival.c_index_across_folds == survival.c_index


def test_shuffled_classes_leave_chance_inside_the_intervals() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(3), 300)
    labels = generator.permutation(np.arange(300) % 3)
    report = classification_by_fold(labels, probabilities, ["a", "b", "c"], np.arange(300) % 5).pooled
    for name, chance in {
        "accuracy": 1 / 3,
        "balanced_accuracy": 1 / 3,
        "macro_auc": 0.5,
        "micro_auc": 0.5,
        "macro_auc_across_folds": 0.5,
    }.items():
        assert report.scalar(name).low < chance < report.scalar(name).high
    honest = np.array([generator.multinomial(1, p).argmax() for p in probabilities])
    assert classification_metrics(honest, probabilities, ["a", "b", "c"]).macro_auc.low > 0.5


def test_a_fold_with_one_class_is_none_with_a_reason() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(2), 12)
    report = classification_metrics(np.zeros(12, dtype=int), probabilities, ["low", "high"], bootstrap=Bootstrap(20))
    for name in ("balanced_accuracy", "macro_f1", "macro_auc"):
        assert report.scalar(name).value is None
        assert report.scalar(name).reason == "no case of class high among 12 cases"
    assert report.per_class["high"].sensitivity.reason == "no case of the class among 12 cases"
    assert report.per_class["low"].specificity.value is None
    assert report.accuracy.value is not None


def test_missing_probabilities_are_none_with_a_reason() -> None:
    probabilities = np.full((10, 3), 1 / 3)
    probabilities[4], probabilities[7, 1] = np.nan, np.inf
    report = classification_metrics(LABELS, probabilities, ["a", "b", "c"], bootstrap=Bootstrap(20))
    assert report.confusion.counts is None
    reasons = {"probabilities of 2 of 10 cases are missing or not finite"}
    assert {metric.reason for metric in values(report)} == reasons
    truth = np.tile([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], (5, 1))
    of_labels = multilabel_metrics(truth, probabilities, ["a", "b", "c"], bootstrap=Bootstrap(20))
    assert {metric.reason for metric in values(of_labels)} == reasons
    numbers = regression_metrics(np.arange(10.0), probabilities[:, 1], np.zeros(10), bootstrap=Bootstrap(20))
    assert "predictions of 2 of 10 cases are missing or not finite" in {metric.reason for metric in values(numbers)}


def test_trivial_prediction_of_pooled_folds_comes_from_outside_the_fold() -> None:
    # Fold 0 holds three a, fold 1 three b: outside fold 0 only b is seen, outside fold 1 only a. Always wrong.
    labels, folds = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    report = classification_by_fold(labels, np.full((6, 2), 0.5), ["a", "b"], folds, bootstrap=Bootstrap(20))
    assert report.pooled.trivial.metrics["accuracy"].value == 0
    assert report.n_folds == 0
    assert report.mean is None


# Differences, folds and JSON -----------------------------------------------------------------------------------------


def test_paired_difference_is_narrower_than_the_intervals_of_both_and_zero_for_the_same() -> None:
    time, event, risk = simulate(200, 13)
    other = risk + np.random.default_rng(0).normal(size=200) * 0.3
    folds = np.arange(200) % 5
    difference = paired_difference(lambda r: c_index(time, event, r, folds=folds), risk, other, bootstrap=Bootstrap())
    one, two = (measure(c_index(time, event, r, folds=folds), Bootstrap().weights(200)) for r in (risk, other))
    assert difference.value == pytest.approx(one.value - two.value)
    assert difference.high - difference.low < (one.high - one.low) / 2
    same = paired_difference(lambda r: c_index(time, event, r), risk, risk, bootstrap=Bootstrap())
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_folds_with_fewer_than_ten_events_have_no_hazard_ratio() -> None:
    time, event, risk = simulate(60, 8)
    event[:] = np.arange(60) % 6 < 2
    folds = np.where(np.arange(60) < 24, 0, 1)  # 8 and 12 events
    predicted = SurvivalPredictions(risk, train_risk_median=np.zeros(60))
    report = survival_by_fold(FollowUp(time, event), predicted, folds, Bootstrap(20))
    few, enough = (fold.metrics.risk_groups for fold in report.folds)
    for metric in (few.hazard_ratio, few.p_value, few.log_rank):
        assert (metric.value, metric.reason) == (None, "fewer than 10 events")
    assert few.n_high + few.n_low == 24
    for groups in (enough, report.pooled.risk_groups):
        assert groups.hazard_ratio.value is not None
        assert groups.p_value.value is not None


def test_paired_difference_of_a_failed_predictor_says_which() -> None:
    time, event, risk = simulate(30, 14)
    difference = paired_difference(lambda r: c_index(time, event, r), risk, np.full(30, np.nan), bootstrap=Bootstrap())
    assert difference.value is None
    assert difference.reason.startswith("risks of 30 of 30")  # differences are listed by the second predictor
    turned = paired_difference(lambda r: c_index(time, event, r), np.full(30, np.nan), risk, bootstrap=Bootstrap())
    assert turned.reason.startswith("model: risks of 30 of 30")
    both = paired_difference(lambda r: c_index(time, ~event & False, r), risk, -risk, bootstrap=Bootstrap())
    assert both.reason == c_index(time, ~event & False, risk).reason
    with pytest.raises(ValueError, match="got 30 and 29"):
        paired_difference(lambda r: c_index(time, event, r), risk, risk[1:], bootstrap=Bootstrap())


def test_by_fold_averages_only_the_folds_that_could_be_computed() -> None:
    found = {0: Metric(0.6), 1: Metric(None, reason="no event"), 2: Metric(0.8), None: Metric(0.7)}

    class Score(CaseMetrics):
        score: Metric

    report = report_by_fold(
        lambda chosen, fold: Score(n=int(chosen.sum()), score=found[fold]), np.array([0, 1, 2, 2]), headline="score"
    )
    assert report.mean == pytest.approx(0.7)
    assert report.sd == pytest.approx(0.1 * np.sqrt(2))
    assert report.n_folds == 2
    assert [fold.metrics.n for fold in report.folds] == [1, 1, 2]


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    time, event, risk = simulate(150, 15)
    intervals = [measure(c_index(time, event, risk), Bootstrap(seed=seed).weights(150)) for seed in (1, 1, 2)]
    assert intervals[0] == intervals[1]
    assert intervals[0].low != intervals[2].low


def test_a_metric_is_never_nan() -> None:
    with pytest.raises(ValueError, match="finite or None"):
        Metric(float("nan"))
    with pytest.raises(ValueError, match="reason"):
        Metric(None)


def test_the_confusion_matrix_has_the_truth_in_rows_and_the_prediction_in_columns() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 0, 2])
    report = classification_metrics(labels, np.eye(3)[predicted] * 0.8 + 0.2 / 3, "abc", bootstrap=Bootstrap(n_boot=2))
    assert report.confusion.classes == ("a", "b", "c")
    assert report.confusion.counts == ((1, 2, 0), (1, 1, 0), (0, 0, 1))
