import numpy as np
import pandas as pd
import torch

from models.types import ModelOutput
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival
from pipeline.training.uncertainty import decode, pooled, rests_on


def output(*members):
    """What an ensemble says of one case."""
    each = torch.tensor(members, dtype=torch.float32)[:, None]
    return ModelOutput(each.mean(0), {}, {"logits": each})


def test_what_a_prediction_rests_on():
    assert rests_on(slides=True, genes=True) == "slides+genes"
    assert rests_on(slides=False, genes=True) == "genes"
    assert rests_on(slides=False, genes=False) == ""


def test_spread_is_the_standard_deviation_of_the_told_classs_probability():
    task = FittedClassification("grade", ("2", "3"), (1.0, 1.0))
    told = decode(task, [output([0.0, np.log(3)], [0.0, np.log(9)]), output([0.0, -1.0], [0.0, -1.0])])
    assert told["prediction"].tolist() == ["3", "2"]
    np.testing.assert_allclose(told["spread"], [np.std([0.75, 0.9], ddof=1), 0], atol=1e-7)


def test_one_member_has_no_spread():
    task = FittedClassification("grade", ("2", "3"), (1.0, 1.0))
    assert decode(task, [output([0.0, 1.0])])["spread"].isna().all()


def test_survival_curves_lie_between_the_lowest_and_the_highest_members():
    task = FittedSurvival((12.0,), 60.0, -1.0)
    told = decode(task, [output([0.0, 0.0], [2.0, -1.0])])
    each = [task.decode(np.array([logits])) for logits in ([0.0, 0.0], [2.0, -1.0])]
    for month in (6, 24, 120):
        own = [one[f"survival_{month}m"][0] for one in each]
        low, high, middle = (told[f"survival_{month}m{end}"][0] for end in ("_low", "_high", ""))
        assert low == min(*own, middle)
        assert high == max(*own, middle)
    np.testing.assert_allclose(told["spread"], np.std([one["risk"][0] for one in each], ddof=1))


def test_models_of_several_folds_are_averaged_and_risk_groups_cut_at_their_median():
    parts = [
        pd.DataFrame({"prediction": ["a", "b"], "probability_a": p, "probability_b": 1 - np.array(p)})
        for p in ([0.9, 0.2], [0.3, 0.1])
    ]
    told = pooled(parts, median_risk=float("nan"))
    assert told["prediction"].tolist() == ["a", "b"]
    np.testing.assert_allclose(told["probability_a"], [0.6, 0.15])
    risks = [pd.DataFrame({"prediction": ["low risk"] * 2, "risk": risk}) for risk in ([-1.0, -3.0], [-2.0, -3.0])]
    assert pooled(risks, median_risk=-2.0)["prediction"].tolist() == ["high risk", "low risk"]
