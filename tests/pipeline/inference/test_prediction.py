"""What a trained ensemble passes on to its predictions: thresholds by modalities, and medians of all its members."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.inference.metadata import ConformalCalibration
from pipeline.inference.prediction import _MemberLogits, _with_predictions
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival

GRADE = FittedClassification("grade", ("2", "3", "4"), (1, 1, 1))
THRESHOLDS = {
    "slides+genes": {"n": 50, "threshold": 0.5},  # the likeliest class alone, whose score is 0.4
    "slides": {"n": 50, "threshold": 0.75},  # also the second, 0.7
    "genes": {"n": 5, "threshold": None},  # too few calibration cases: any class
}


def predictor(*tasks, conformal=None):
    metadata = SimpleNamespace(training=SimpleNamespace(conformal=conformal))
    first, *others = tasks
    members = tuple(SimpleNamespace(task=task) for task in tasks)
    return SimpleNamespace(members=members, fitted=first.joined(others), metadata=metadata)


def rows(modalities):
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(len(modalities))], "modalities": modalities})
    return table.assign(status=np.where(table["modalities"] == "", "not predicted", "predicted"))


def logits(n, values):
    each = [np.array([[values]], float)] * n
    return _MemberLogits(mean=[one[0] for one in each], each=each)


def test_a_set_has_the_threshold_of_the_modalities_that_its_prediction_uses():
    conformal = ConformalCalibration(coverage=0.9, method="LAC", thresholds=THRESHOLDS)
    cases = rows(["slides+genes", "", "genes", "slides"])
    found = _with_predictions(
        predictor(GRADE, conformal=conformal), cases, [logits(3, np.log([0.6, 0.3, 0.1]))]
    ).set_index("modalities")
    assert found["set_90"].drop("").to_dict() == {"slides+genes": "2", "genes": "2;3;4", "slides": "2;3"}
    assert math.isnan(found.loc["", "probability_2"])


def test_a_pattern_that_training_never_saw_gets_any_class():
    conformal = ConformalCalibration(coverage=0.9, method="LAC", thresholds={"slides": THRESHOLDS["slides"]})
    found = _with_predictions(
        predictor(GRADE, conformal=conformal), rows(["genes"]), [logits(1, np.log([0.6, 0.3, 0.1]))]
    )
    assert found["set_90"].tolist() == ["2;3;4"]


@pytest.mark.parametrize("medians", [(-2.0, 0.0), (0.0, -2.0)])
def test_risk_groups_of_an_ensemble_of_folds_are_cut_at_the_mean_median(medians):
    """The risk −(0.5 + 0.25) = −0.75 is above the mean median −1, and on the other side of one of the two."""
    tasks = [FittedSurvival((12.0,), 60.0, median) for median in medians]
    found = _with_predictions(predictor(*tasks), rows(["genes"]), [logits(1, [0.0, 0.0])] * 2)
    assert found["risk"].tolist() == pytest.approx([-0.75])
    assert found["prediction"].tolist() == ["high risk"]
