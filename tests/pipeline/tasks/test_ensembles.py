import numpy as np
import pandas as pd
import pytest

from pipeline.baselines.survival_baselines import CURVE_COLUMNS
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival

GRADE = FittedClassification("grade", ("2", "3"), (1, 1))


def predict(task, *cases):
    """Predictions of an ensemble for cases, each given as one list of logits a member."""
    members = np.array(cases).transpose(1, 0, 2)
    return task.predict(members.mean(0), members)


def test_ensemble_sd_is_the_standard_deviation_of_the_predicted_classs_probability():
    predictions = predict(GRADE, [[0.0, np.log(3)], [0.0, np.log(9)]], [[0.0, -1.0], [0.0, -1.0]])
    assert predictions["prediction"].tolist() == ["3", "2"]
    np.testing.assert_allclose(predictions["ensemble_sd"], [np.std([0.75, 0.9], ddof=1), 0], atol=1e-7)


def test_one_member_has_no_ensemble_sd():
    assert predict(GRADE, [[0.0, 1.0]])["ensemble_sd"].isna().all()


@pytest.mark.parametrize(
    ("first", "second"),
    [([0.0, 0.0], [2.0, -1.0]), ([2.0, -1.0], [-1.0, 2.0])],  # the second ensemble lives longer than either member
)
def test_survival_curves_lie_between_the_lowest_and_the_highest_members(first, second):
    task = FittedSurvival((12.0,), 60.0, -1.0)
    predictions = predict(task, [first, second])
    each = [task.decode(np.array([logits])) for logits in (first, second)]
    for month in (6, 24, 60):
        own = [one[f"survival_{month}m"][0] for one in each]
        low, high, middle = (
            predictions[f"survival_{month}m{end}"][0] for end in ("_ensemble_min", "_ensemble_max", "")
        )
        assert low == min(*own, middle)
        assert high == max(*own, middle)
    np.testing.assert_allclose(predictions["ensemble_sd"], np.std([one["risk"][0] for one in each], ddof=1))


def test_models_of_several_folds_are_averaged():
    parts = [
        pd.DataFrame({"prediction": ["2", "3"], "probability_2": p, "probability_3": 1 - np.array(p)})
        for p in ([0.9, 0.2], [0.3, 0.1])
    ]
    pooled = GRADE.pool(parts)
    assert pooled["prediction"].tolist() == ["2", "3"]
    np.testing.assert_allclose(pooled["probability_2"], [0.6, 0.15])


def test_risk_groups_of_several_folds_are_cut_at_the_mean_of_all_their_medians():
    """Were it the first median alone (−1), both cases would be low risk; at −2.0 the first is high."""
    folds = [FittedSurvival((12.0,), 60.0, median) for median in (-1.0, -3.0)]
    joined = folds[0].joined(folds[1:])
    assert joined.training_columns() == {"train_risk_median": -2.0}
    curve = dict.fromkeys(CURVE_COLUMNS, 0.5)
    parts = [pd.DataFrame({"prediction": "low risk", "risk": risk, **curve}) for risk in ([-1.0, -3.0], [-2.0, -3.0])]
    assert joined.pool(parts)["prediction"].tolist() == ["high risk", "low risk"]


def test_the_trivial_class_of_several_folds_is_that_of_all_their_training_cases():
    folds = [FittedClassification("grade", ("2", "3"), counts) for counts in ((5, 4), (1, 9))]
    assert folds[0].joined(folds[1:]).counts == (6, 13)
