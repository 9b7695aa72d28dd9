"""What charts of survival say of what they do not show."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.metrics.bootstrap import Bootstrap, Metric
from pipeline.metrics.concordance import CensoringDistribution
from pipeline.metrics.curves import calibration
from pipeline.metrics.survival import RiskGroups
from workflows.report.survival_charts import _auc_curve, kaplan_meier, survival_calibration, survival_curves


def chart_at_60_months(time, predicted):
    event = np.arange(len(time)) % 13 % 2 == 1  # whoever is followed longest is alive
    known = calibration(
        time,
        event,
        predicted,
        censoring=CensoringDistribution(time, event),
        horizon=60.0,
        weights=Bootstrap(20).weights(len(time)),
    )
    pooled = SimpleNamespace(calibration={"60": known}, d_calibration=None)
    return survival_calibration("c", SimpleNamespace(model=SimpleNamespace(pooled=pooled)))


def test_calibration_names_the_tertile_that_nobody_is_followed_in():
    predicted = np.linspace(0.1, 0.9, 39)
    time = np.where(np.arange(39) < 26, 61.0 + np.arange(39) % 26, 20.0 + np.arange(39) % 13)
    text = chart_at_60_months(time, predicted).text
    assert "Not drawn: the highest tertile at 60 months (none of 13 cases is followed to 60 months)." in text


def test_calibration_without_any_follow_up_names_the_horizon_once():
    chart = chart_at_60_months(20.0 + np.arange(39) % 13, np.linspace(0.1, 0.9, 39))
    assert chart.figure is None
    assert chart.text == "Not computed: 60 months (none of 39 cases is followed to 60 months)."


def test_the_curve_of_the_auc_compares_cases_within_folds():
    """Each model orders its own cases perfectly; the risks of the second are all above those of the first."""
    months = np.arange(1.0, 13)
    fold = np.arange(12) % 2
    known = pd.DataFrame({"survival_months": months, "event": True, "risk": 100.0 * fold - months, "fold": fold})
    for folds, perfect in ((known, True), (known.drop(columns="fold"), False)):
        _, areas = _auc_curve(folds)
        computed = [area for area in areas if area is not None]
        assert len(computed) > 2
        assert (min(computed) == 1) is perfect


@pytest.mark.parametrize(
    ("folds", "start"),
    [
        ([0, 0, 1, 1], "Log-rank test (χ² halved, since each pair of folds counts twice): p = 0.040;"),
        ([0, 0, 0, 0], "Log-rank test: p = 0.040;"),
        ([None] * 4, "Log-rank test: p = 0.040;"),
    ],
)
def test_the_log_rank_test_of_cross_validated_groups_says_how_it_was_computed(folds, start):
    tested = pd.DataFrame(
        {
            "case_id": list("abcd"),
            "prediction": ["high risk", "high risk", "low risk", "low risk"],
            "risk": [4.0, 3, 2, 1],
            "survival_months": [1.0, 2, 3, 4],
            "event": [True] * 4,
            "fold": folds,
        }
    )
    groups = RiskGroups(
        n_high=2, n_low=2, log_rank=Metric(4.2), p_value=Metric(0.04), hazard_ratio=Metric(3.0, 1.1, 8.0)
    )
    assert kaplan_meier("k", tested, groups).text.startswith(start)


def test_a_curve_is_named_by_what_became_of_its_case():
    predicted = pd.DataFrame(
        {
            "case_id": ["a", "b", "c"],
            "prediction": ["high risk", "low risk", "low risk"],
            "risk": [-1.0, -2.0, -3.0],
            "survival_12m": [0.4, 0.6, 0.8],
            "survival_months": [7.25, 30.0, np.nan],
            "event": [True, False, None],
        }
    )
    assert survival_curves("key", predicted).picks == (
        "a: high risk, event at 7.2 months",
        "b: low risk, censored at 30.0 months",
        "c: low risk, outcome unknown",
    )


def test_a_case_is_at_risk_up_to_the_month_in_which_its_follow_up_ends():
    tested = pd.DataFrame({"survival_months": [3.0, 5, 6, 12], "event": True, "risk": 0.0, "prediction": "high risk"})
    chart = kaplan_meier("k", tested.assign(fold=0), None)
    (row,) = [trace for trace in chart.figure["data"] if trace.get("mode") == "text"]
    assert dict(zip(row["x"], row["text"], strict=True)) == {0: "4", 3: "4", 6: "2", 9: "1", 12: "1"}
    (curve,) = [trace for trace in chart.figure["data"] if trace.get("name", "").startswith("high risk")]
    assert curve["name"] == "high risk (4 cases, 4 events)"
