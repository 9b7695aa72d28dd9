import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax

from models.loss_config import LossConfig
from pipeline.baselines.survival_baselines import CURVE_MONTHS
from pipeline.tasks import BY_DEFAULT, TASKS
from pipeline.tasks.survival import FittedSurvival
from preprocessing.io.errors import InputError

REFERENCE = Path(__file__).resolve().parents[4] / "shared/data/reference/survival_bins.npz"
GRADE, SURVIVAL = TASKS["grade"], TASKS["survival"]
THIRDS = FittedSurvival((10.0, 20.0, 40.0), 60.0)


def survival(months, event):
    return pd.DataFrame({"survival_months": months, "event": event}, index=[f"c{i}" for i in range(len(months))])


def grades(*values):
    return pd.DataFrame({"grade": pd.array(values, dtype="Int64")}, index=[f"c{i}" for i in range(len(values))])


def logit(hazards):
    hazards = np.asarray(hazards, float)
    return np.log(hazards / (1 - hazards))


# --- survival


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is not there")
def test_time_bins_and_labels_are_those_of_the_reference():
    with np.load(REFERENCE) as file:
        time, censored, bins, label = (file[name] for name in ("time", "censorship", "bins", "label"))
    labels = survival(time, censored == 0)
    fitted = SURVIVAL.fit(labels, ())
    np.testing.assert_allclose(fitted.edges_months, bins[1:-1], rtol=1e-12)
    np.testing.assert_array_equal(fitted.encode(labels)[:, 0], label)


def test_edges_are_the_quartiles_of_the_times_of_death():
    labels = survival([10, 20, 30, 40, 50, 1, 2, 99], [True] * 5 + [False] * 3)
    fitted = SURVIVAL.fit(labels, ())
    assert fitted.edges_months == (20, 30, 40)
    assert fitted.last_month == 99
    assert fitted.n_outputs == 4


def test_few_times_of_death_give_fewer_bins():
    fitted = SURVIVAL.fit(survival([10, 10, 30, 5], [True, True, True, False]), ())
    assert fitted.edges_months == (10, 20)
    assert fitted.n_outputs == 3


def test_targets_are_bin_event_and_months():
    encoded = THIRDS.encode(survival([0, 9.9, 10, 20, 39, 40, 500], [True, False, True, False, True, True, False]))
    assert encoded[:, :2].tolist() == [[0, 1], [0, 0], [1, 1], [2, 0], [2, 1], [3, 1], [3, 0]]
    assert encoded[:, 2].tolist() == [0, 9.9, 10, 20, 39, 40, 500]


def test_the_score_of_survival_is_the_c_index_of_the_batch():
    """Of deaths at 5 and 10 and a living case at 20, three pairs count; the risks of the first two are the wrong way round."""
    targets = torch.from_numpy(THIRDS.encode(survival([5, 10, 20], [True, True, False])))
    logits = torch.from_numpy(logit([[0.5] * 4, [0.6] * 4, [0.1] * 4]))
    assert THIRDS.score(logits, targets) == pytest.approx(2 / 3)
    alive = torch.from_numpy(THIRDS.encode(survival([5, 10, 20], [False] * 3)))
    assert np.isnan(THIRDS.score(logits, alive))
    assert np.isnan(THIRDS.score(logits[:1], targets[:1]))


def test_the_score_of_survival_orders_cases_within_a_bin():
    targets = torch.from_numpy(THIRDS.encode(survival([5, 6], [True, True])))
    assert THIRDS.score(torch.from_numpy(logit([[0.5] * 4, [0.4] * 4])), targets) == 1


def test_the_score_of_classes_is_the_summed_probability_of_the_true_one():
    fitted = GRADE.fit(grades(2, 3, 4), ("2", "3", "4"))
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]))
    assert fitted.score(logits, torch.tensor([[0], [2]])) == pytest.approx(0.95)


def test_loss_of_survival_by_hand():
    h = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    targets = torch.tensor([[2, 1], [1, 0]])
    died = -np.log(0.9 * 0.8 * 0.3)
    alive = -0.5 * np.log(0.5 * 0.4)  # censored cases count by half
    loss = THIRDS.loss(torch.from_numpy(logit(h)), targets)
    assert float(loss) == pytest.approx((died + alive) / 2, rel=1e-9)


def test_curve_by_hand():
    curve = THIRDS.curve(np.zeros((1, 4)), np.array([0, 5, 10, 20, 30, 40, 60, 1000.0]))[0]
    expected = [1, 0.5**0.5, 0.5, 0.25, (0.25 * 0.125) ** 0.5, 0.125, 0.0625, np.nan]  # no case was followed to 1,000
    np.testing.assert_allclose(curve, expected, rtol=1e-12)


def test_calibrated_curves_end_with_the_follow_up_of_the_training_cases():
    generator = np.random.default_rng(0)
    labels = survival(generator.uniform(1, 50, 60), generator.random(60) < 0.6)
    logits = generator.normal(size=(60, 4))
    decoded = SURVIVAL.fit(labels, ()).calibrated(logits, labels).decode(logits)
    last = labels["survival_months"].max()
    for month in CURVE_MONTHS:
        assert decoded[f"survival_{month}m"].isna().all() == (month > last)
        assert decoded[f"survival_{month}m"].notna().all() == (month <= last)


def test_decoded_curve_falls_from_one_and_stays_a_probability():
    logits = np.random.default_rng(0).normal(0, 3, (200, 4))
    decoded = THIRDS.decode(logits)
    curve = decoded[[f"survival_{month}m" for month in CURVE_MONTHS if month <= THIRDS.last_month]].to_numpy()
    assert (np.diff(curve, axis=1) <= 0).all()
    assert ((curve >= 0) & (curve <= 1)).all()
    assert (THIRDS.curve(logits, np.zeros(1)) == 1).all()


def test_risk_is_minus_the_sum_of_the_curve_and_worse_is_higher():
    decoded = THIRDS.decode(logit([[0.1] * 4, [0.5] * 4, [0.9] * 4]))
    assert decoded["risk"].tolist() == pytest.approx([-(0.9 + 0.81 + 0.729 + 0.6561), -0.9375, -0.1111])
    assert decoded["risk"].is_monotonic_increasing
    assert decoded["survival_24m"].is_monotonic_decreasing


def test_risk_groups_are_cut_at_the_median_of_the_training_cases():
    logits = logit([[0.1] * 4, [0.5] * 4, [0.9] * 4])
    fitted = THIRDS.calibrated(logits, None)
    assert fitted.median_risk == pytest.approx(-0.9375)
    assert fitted.decode(logits)["prediction"].tolist() == ["low risk", "low risk", "high risk"]


def test_extreme_logits_stay_finite():
    decoded = THIRDS.decode(np.array([[1e4] * 4, [-1e4] * 4]))
    assert np.isfinite(decoded["risk"]).all()
    assert decoded["risk"].tolist() == [0, -4]


def test_strata_of_survival_report_event_and_half():
    strata = SURVIVAL.strata(survival([1, 2, 3, 4, 5, 6, 7, 8], [True] * 4 + [False] * 4))
    assert strata.tolist() == ["died early"] * 2 + ["died late"] * 2 + ["censored early"] * 2 + ["censored late"] * 2


def test_survival_is_described_with_a_plus_for_the_living():
    assert SURVIVAL.describe(survival([12.346, 6], [True, False])).tolist() == ["12.35", "6.0+"]


def test_a_case_needs_time_and_event_to_count_as_labelled():
    labels = pd.DataFrame({"survival_months": [1.0, np.nan, 3.0], "event": pd.array([True, False, None], "boolean")})
    assert SURVIVAL.labelled(labels).tolist() == [True, False, False]
    assert not SURVIVAL.labelled(labels[["event"]]).any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (survival([1, 2], [True, True]), "2 cases with a label for 3 folds; give fewer with --folds, or more cases"),
        (
            survival([1, 2, 3, 4], [True, True, False, False]),
            "2 deaths among 4 cases for 3 folds: every fold needs one",
        ),
        (survival([5, 5, 5], [True] * 3), "every case has the same time, 5 months"),
    ],
)
def test_survival_that_cannot_be_learned(labels, message):
    with pytest.raises(InputError, match=f"task survival: {message}"):
        SURVIVAL.check(labels, folds=3)


def test_few_deaths_are_warned_of():
    assert SURVIVAL.check(survival([1, 2, 3, 4], [True] * 4), folds=3) == ["task survival: only 4 deaths for 3 folds"]
    assert SURVIVAL.check(survival([1, 2, 3, 4, 5, 6], [True] * 6), folds=3) == []


def test_a_fold_without_deaths():
    dead, alive = survival([1, 2], [True, True]), survival([1, 2], [False, False])
    with pytest.raises(InputError, match="fold 4 has no death among its 2 training cases; use other splits, or fewer"):
        SURVIVAL.check_fold(alive, dead, number=4)
    assert "fold 4 has no death among its 2 test cases" in SURVIVAL.check_fold(dead, alive, number=4)[0]
    assert SURVIVAL.check_fold(dead, dead, number=4) == []


# --- classes


def test_class_weights_by_hand():
    fitted = GRADE.fit(grades(*[2] * 6, *[3] * 3, 4), ("2", "3", "4"))
    assert fitted.weights == pytest.approx((10 / 18, 10 / 9, 10 / 3))
    assert fitted.n_outputs == 3


def test_weights_have_mean_one_over_the_training_cases():
    labels = grades(*[2] * 5, *[4] * 3)
    fitted = GRADE.fit(labels, ("2", "3", "4"))
    assert np.mean(np.array(fitted.weights)[fitted.encode(labels)[:, 0].astype(int)]) == pytest.approx(1)
    assert fitted.weights[1] == 1


def test_loss_of_classes_by_hand():
    fitted = GRADE.fit(grades(2, 2, 2, 3), ("2", "3"))
    logits = np.array([[1.0, 3.0], [0.5, -0.5], [2.0, 2.0]])
    known = [0, 1, 1]
    weights = np.array([4 / 6, 4 / 2])
    expected = -(weights[known] * log_softmax(logits, 1)[range(3), known]).sum() / 3
    assert float(fitted.loss(torch.from_numpy(logits), torch.tensor(known)[:, None])) == pytest.approx(expected)


def test_losses_as_they_are_set():
    labels = grades(2, 2, 2, 3)
    fitted = GRADE.fit(labels, ("2", "3")).trained_with(LossConfig(class_weights=False))
    logits = torch.tensor([[1.0, 3.0], [0.5, -0.5]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    assert float(fitted.loss(logits, torch.tensor([[0], [1]]))) == pytest.approx(float(expected))
    labels = survival([1, 2, 3, 4], [True, True, True, False])
    whole = SURVIVAL.fit(labels, ()).trained_with(LossConfig(alpha=0))
    half = SURVIVAL.fit(labels, ()).trained_with(LossConfig(alpha=0.5))
    censored = torch.from_numpy(whole.encode(labels)[3:])
    logits = torch.randn(1, whole.n_outputs, dtype=torch.float64)
    assert float(whole.loss(logits, censored)) == pytest.approx(2 * float(half.loss(logits, censored)))
    targets, logits = torch.from_numpy(whole.encode(labels)), torch.randn(4, whole.n_outputs, dtype=torch.float64)
    bins, cox = float(whole.loss(logits, targets)), SURVIVAL.fit(labels, ()).trained_with(LossConfig(cox=1))
    mixed = SURVIVAL.fit(labels, ()).trained_with(LossConfig(alpha=0, cox=0.25))
    assert float(mixed.loss(logits, targets)) == pytest.approx(0.75 * bins + 0.25 * float(cox.loss(logits, targets)))


def test_a_case_weighs_the_same_in_any_batch():
    fitted = GRADE.fit(grades(2, 2, 2, 3), ("2", "3"))
    logits, targets = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([[0], [1], [1], [0]])
    alone = [float(fitted.loss(logits[i : i + 1], targets[i : i + 1])) for i in range(4)]
    assert float(fitted.loss(logits, targets)) == pytest.approx(np.mean(alone), rel=1e-6)


def test_classes_are_encoded_in_the_order_of_the_vocabulary():
    labels = grades(4, 2, 3, 2)
    fitted = GRADE.fit(labels, GRADE.vocabulary(labels))
    assert fitted.classes == ("2", "3", "4")
    assert fitted.encode(labels)[:, 0].tolist() == [2, 0, 1, 0]
    assert GRADE.describe(labels).tolist() == ["4", "2", "3", "2"]


def test_decoded_classes_have_probabilities_that_sum_to_one():
    fitted = GRADE.fit(grades(2, 3, 4), ("2", "3", "4"))
    decoded = fitted.decode(np.array([[0.0, np.log(2), 0.0], [5, 1, 9]], np.float32))
    assert decoded["prediction"].tolist() == ["3", "4"]
    assert decoded.loc[0, ["probability_2", "probability_3", "probability_4"]].tolist() == pytest.approx(
        [0.25, 0.5, 0.25]
    )
    assert decoded.drop(columns="prediction").sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_classes_that_cannot_be_learned():
    with pytest.raises(InputError, match='task grade: every one of the 3 labelled cases is "2": nothing to learn'):
        GRADE.check(grades(2, 2, 2), folds=2)
    with pytest.raises(InputError, match="task grade: 2 cases with a label for 3 folds"):
        GRADE.check(grades(2, 3), folds=3)


def test_a_class_with_fewer_cases_than_folds_is_warned_of():
    warnings = GRADE.check(grades(2, 2, 2, 3, 3), folds=3)
    assert len(warnings) == 1
    assert 'class "3" has 2 cases for 3 folds' in warnings[0]


def test_a_fold_with_one_class_to_train_on():
    with pytest.raises(InputError, match='every training case of fold 1 is "2"; use other splits, or fewer folds'):
        GRADE.check_fold(grades(2, 2), grades(2, 3), number=1)
    assert 'class "4" has no training case in fold 1' in GRADE.check_fold(grades(2, 3), grades(2, 4), number=1)[0]
    assert GRADE.check_fold(grades(2, 3), grades(2), number=1) == []


@pytest.mark.parametrize("name", list(TASKS))
def test_a_fitted_task_comes_back_from_its_json(name):
    labels = grades(2, 3, 4).assign(subtype=["a", "b", "c"], diagnosis=["x", "y", "z"], survival_months=[1.0, 2, 3])
    labels["event"] = [True, True, False]
    task = TASKS[name]
    fitted = task.fit(labels, task.vocabulary(labels))
    fitted = fitted.calibrated(np.random.default_rng(0).normal(size=(3, fitted.n_outputs)), None)
    assert task.restore(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_tasks_by_default_are_tasks():
    assert set(BY_DEFAULT) <= set(TASKS)
    assert all(task.name == name for name, task in TASKS.items())


# --- classes that vanish


def test_a_class_that_no_used_case_has_any_more_is_warned_of():
    labels = grades(2, 2, 2, 3, 3, 4, 4, 4, 4)
    used = ["c0", "c1", "c3", "c4"]  # without the cases of grade 4, and with two of three of grade 2
    (warning,) = GRADE.on_cases(labels, used, endpoint="overall survival")
    assert (
        warning
        == "warning: task grade: every case of 4 (4 cases) is left out or lacks inputs: nothing of the class is left"
    )
    assert GRADE.on_cases(labels, [*used, "c8"], endpoint="overall survival") == []
    assert GRADE.on_cases(grades(2, 2, 3, 3, 4, 4), ["c0", "c2"], endpoint="") == []  # two cases may be lost by chance


def test_the_cases_worth_explaining_are_the_most_and_least_certain_of_the_right_and_of_the_wrong():
    p3 = [0.9, 0.6, 0.2, 0.45]
    table = pd.DataFrame({"probability_2": 1 - np.array(p3), "probability_3": p3, "prediction": ["3", "3", "2", "2"]})
    assert dict(GRADE.worth_explaining(table)) == {"most certain": [0, 2, 1, 3], "least certain": [3, 1, 2, 0]}
    found = dict(GRADE.worth_explaining(table.assign(label=["3", "2", "2", "3"])))
    assert found["most certain, right"] == [0, 2]
    assert found["least certain, right"] == [2, 0]
    assert found["most certain, wrong"] == [1, 3]
    assert found["least certain, wrong"] == [3, 1]
    assert dict(SURVIVAL.worth_explaining(pd.DataFrame({"risk": [-1.0, -3.0, -2.0]}))) == {
        "highest risk": [0, 2, 1],
        "lowest risk": [1, 2, 0],
    }
