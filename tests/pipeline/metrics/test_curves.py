"""Calibration of whole survival curves, held against its definitions and against simulated cases."""

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from scipy.stats import chi2

from pipeline.metrics import Bootstrap, FollowUp, SurvivalPredictions, survival_metrics
from pipeline.metrics.curves import d_calibration, integrated_calibration_index, kaplan_meier

MONTHS = np.arange(2.0, 121, 2)


def simulate(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times and events of exponential survival with censoring, and the monthly hazard of each case."""
    generator = np.random.default_rng(seed)
    hazard = np.exp(generator.normal(size=n)) / 40
    death, lost = generator.exponential(1 / hazard), generator.uniform(0, 150, n)
    return np.minimum(death, lost), death <= lost, hazard


def curves_of(hazard: np.ndarray) -> np.ndarray:
    return np.exp(-hazard[:, None] * MONTHS)


@pytest.mark.parametrize(
    ("months", "event"),
    [
        ([3, 1, 2, 2, 5, 5, 8], [1, 0, 1, 1, 1, 0, 0]),  # ties of events, and of an event with a censoring
        ([4, 2, 9], [1, 1, 1]),  # all die
        ([4, 2, 9], [0, 0, 0]),
        ([0, 0, 3, 4], [1, 0, 1, 0]),  # at the start
        ([7], [1]),
        ([7], [0]),
        (np.round(np.random.default_rng(0).exponential(30, 200)), np.random.default_rng(1).random(200) < 0.6),
    ],
)
def test_the_kaplan_meier_curve_and_its_interval_are_those_of_lifelines(months, event):
    time, event = np.array(months, float), np.array(event, bool)
    fitter = KaplanMeierFitter().fit(time, event)
    curve = kaplan_meier(time, event)
    assert curve.months.tolist() == fitter.survival_function_.index.to_list()
    np.testing.assert_allclose(curve.survival, fitter.survival_function_.iloc[:, 0], atol=1e-12)
    low, high = fitter.confidence_interval_survival_function_.to_numpy(float).T
    np.testing.assert_allclose(curve.low, low, atol=1e-12)
    np.testing.assert_allclose(curve.high, high, atol=1e-12)
    queries = np.array([0.0, 0.5, *time, time.max() + 10])
    np.testing.assert_allclose(curve.at(queries), np.atleast_1d(fitter.predict(queries)), atol=1e-12)


def test_d_calibration_by_hand():
    """A hundred deaths, ten in each interval, and ten cases that are censored at the start: spread over all ten."""
    curves = np.array([np.linspace(1, 0, 11)[1:]] * 110)
    months = np.arange(1.0, 11)
    deaths = np.repeat(np.arange(0.5, 10), 10)  # ten in each interval
    time, event = np.append(deaths, np.zeros(10)), np.append(np.ones(100, bool), np.zeros(10, bool))
    assert d_calibration(time, event, curves, months).value == pytest.approx(1)
    # A case that is censored at a survival of 0.5 is spread over the five intervals below.
    time[-10:] = 5
    counts = np.array([10] * 5 + [12] * 5)
    expected = ((counts - 11) ** 2 / 11).sum()
    assert d_calibration(time, event, curves, months).value == pytest.approx(chi2.sf(expected, 9))


def test_true_curves_are_d_calibrated_and_others_are_not():
    p = [d_calibration(*simulate(300, seed)[:2], curves_of(simulate(300, seed)[2]), MONTHS).value for seed in range(40)]
    assert np.mean(np.array(p) < 0.05) <= 0.1
    time, event, hazard = simulate(300, 0)
    assert d_calibration(time, event, curves_of(hazard / 2), MONTHS).value < 0.001


def test_d_calibration_does_not_read_beyond_the_curves():
    time, event, hazard = simulate(300, 1)
    curves = curves_of(hazard)
    curves[:, MONTHS > 60] = np.nan
    censored_at_60 = (
        np.minimum(time, 60),
        event & (time <= 60),
        curves_of(hazard)[:, MONTHS <= 60],
        MONTHS[MONTHS <= 60],
    )
    assert d_calibration(time, event, curves, MONTHS).value == d_calibration(*censored_at_60).value


def test_few_cases_have_no_calibration_of_curves():
    time, event, hazard = simulate(49, 2)
    assert "only 49 cases; at least 50 are needed" in d_calibration(time, event, curves_of(hazard), MONTHS).reason
    assert (
        "only 49 cases; at least 60 are needed"
        in integrated_calibration_index(time, event, curves_of(hazard)[:, 11], 24).reason
    )


def test_the_integrated_calibration_index_by_hand():
    """With 60 cases a window holds 41: what is observed in it is Kaplan–Meier's estimate by lifelines."""
    time, event, hazard = simulate(60, 3)
    predicted = np.exp(-hazard * 24)
    order = np.argsort(predicted)
    gaps = []
    for rank in range(60):
        first = min(max(rank - 20, 0), 60 - 41)
        window = order[first : first + 41]
        observed = KaplanMeierFitter().fit(time[window], event[window]).predict(24)
        gaps.append(abs(predicted[window].mean() - observed))
    assert integrated_calibration_index(time, event, predicted, 24).value == pytest.approx(np.mean(gaps), rel=1e-9)


def test_the_integrated_calibration_index_tells_true_curves_from_hopeful_ones():
    found = []
    for seed in range(10):
        time, event, hazard = simulate(450, seed)
        found.append(
            [integrated_calibration_index(time, event, np.exp(-h * 24), 24).value for h in (hazard, hazard / 2)]
        )
    true, hopeful = np.mean(found, axis=0)
    assert true < 0.045
    assert hopeful > 0.12


def test_horizons_beyond_the_curves_have_no_metric_and_earlier_ones_have():
    time, event, hazard = simulate(200, 4)
    curves = curves_of(hazard)
    curves[:, MONTHS > 40] = np.nan
    known, predicted = FollowUp(time, event), SurvivalPredictions(hazard, curves, MONTHS)
    metrics = survival_metrics(known, predicted, train=known, bootstrap=Bootstrap(20))
    assert metrics.calibration["36"].mean_difference.value is not None
    assert metrics.calibration["60"].mean_difference.value is None
    assert "60 months of 200 of 200 cases" in metrics.calibration["60"].integrated_index.reason
    assert metrics.integrated_brier.value is not None
    assert metrics.integrated_brier_until_months == 36
    assert metrics.d_calibration.value is not None
