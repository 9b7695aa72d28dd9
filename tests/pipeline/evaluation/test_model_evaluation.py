"""What an evaluation passes on: folds, medians and directions, each with a planted value that a mix-up would change."""

import numpy as np
import pandas as pd
import pytest

from pipeline.baselines.survival_baselines import CURVE_COLUMNS
from pipeline.evaluation.model_evaluation import Evaluation
from pipeline.metrics import Bootstrap, FollowUp, SurvivalPredictions, survival_metrics
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival, outcome

SURVIVAL = FittedSurvival((12.0,), 60.0, -1.0)
GRADE = FittedClassification("grade", ("2", "3"), (5, 3))


def survival(risk, *, months=None, event=True, fold=0, median=-1.0):
    n = len(risk)
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(n)], "fold": fold, "risk": risk, "event": event})
    table["survival_months"] = np.arange(1.0, n + 1) if months is None else months
    return table.assign(train_risk_median=median, **dict.fromkeys(CURVE_COLUMNS, 0.5))


def evaluation(task, cases, *, by_fold=True):
    return Evaluation(task, cases, by_fold=by_fold, bootstrap=Bootstrap(20))


def test_risk_groups_are_cut_at_the_median_of_each_cases_own_fold():
    """Fold 0: risks −3, −1 around −2; fold 1: risks −9, −7 around −8. By either median alone three or one would be high."""
    cases = survival([-3.0, -1.0, -9.0, -7.0], fold=[0, 0, 1, 1], median=[-2.0, -2.0, -8.0, -8.0])
    groups = evaluation(SURVIVAL, cases).of(cases).pooled.risk_groups
    assert (groups.n_high, groups.n_low) == (2, 2)


def test_a_baseline_is_cut_at_its_own_median_and_the_model_from_one_modality_at_the_models():
    cases = survival([-3.0, -1.0, -2.5, -0.5], median=-2.0)
    one = evaluation(SURVIVAL, cases)
    other = cases[["case_id", "fold", "risk", *CURVE_COLUMNS]].assign(risk=[5.0, 6.0, 7.0, 8.0])
    assert one.of(one.matched(other)).pooled.risk_groups.n_high == 4  # by the model's median all are high
    assert one.of(one.matched(other.assign(train_risk_median=7.5))).pooled.risk_groups.n_high == 1


def test_those_who_die_first_should_have_the_higher_risk():
    dying_first = survival([-1.0, -2.0, -3.0, -4.0])
    one = evaluation(SURVIVAL, dying_first)
    assert one.of(dying_first).pooled.c_index.value == 1
    assert one.of(dying_first.assign(risk=-dying_first["risk"])).pooled.c_index.value == 0
    assert one.difference(dying_first.assign(risk=-dying_first["risk"])).value == 1


def test_censored_cases_are_no_deaths_however_the_event_is_written():
    """Of three cases the first is censored: only the second can be compared with the third. Inverted, only the first could."""
    for event in ([False, True, True], ["False", "True", "True"], [0, 1, 1], ["0", "1", "1"], [0.0, 1.0, 1.0]):
        cases = survival([-5.0, -1.0, -2.0], event=event)
        assert outcome(cases)[1].tolist() == [False, True, True]
        assert evaluation(SURVIVAL, cases, by_fold=False).of(cases).pooled.c_index.value == 1


def test_the_censoring_distribution_of_a_fold_is_that_of_the_other_folds():
    rng = np.random.default_rng(0)
    months, event = rng.exponential(30, 90), rng.random(90) < 0.6
    fold = np.arange(90) % 3
    event[fold == 0] |= rng.random(30) < 0.8  # censoring differs between folds
    cases = survival(rng.normal(size=90), months=months, event=event, fold=fold)
    report = evaluation(SURVIVAL, cases).of(cases)
    for one in report.folds:
        test, train = fold == one.fold, fold != one.fold
        known, predicted = FollowUp(months, event), SurvivalPredictions(cases["risk"].to_numpy()[test])
        expected, all_cases = (
            survival_metrics(known.of(test), predicted, train=known.of(which), bootstrap=Bootstrap(2)).uno_c_index.value
            for which in (train, np.ones(90, bool))
        )
        assert one.metrics.uno_c_index.value == pytest.approx(expected, rel=1e-12)
        assert one.metrics.uno_c_index.value != pytest.approx(all_cases, rel=1e-6)


def test_folds_of_cross_validation_are_compared_within_and_a_new_cohort_as_a_whole():
    cases = survival([-2.0, -1.0, -4.0, -3.0], months=[2.0, 1.0, 4.0, 3.0], fold=[0, 0, 1, 1])
    cases["risk"] += 10.0 * cases["fold"]  # in order within folds, turned round across them
    assert evaluation(SURVIVAL, cases).of(cases).pooled.c_index.value == 1
    whole = evaluation(SURVIVAL, cases, by_fold=False).of(cases)
    assert whole.pooled.c_index.value == pytest.approx(2 / 6)
    assert (whole.folds, whole.pooled.c_index_across_folds) == ((), None)


def grades(labels, p3, **more):
    p3 = np.array(p3)
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(len(labels))], "label": labels} | more)
    return table.assign(probability_2=1 - p3, probability_3=p3)


def test_the_true_class_should_have_the_higher_probability():
    cases = grades(["2", "3", "2", "3"], [0.1, 0.9, 0.2, 0.7], fold=0)
    one = evaluation(GRADE, cases)
    assert one.of(cases).pooled.macro_auc.value == 1
    turned = cases.assign(probability_2=cases["probability_3"], probability_3=cases["probability_2"])
    assert one.of(turned).pooled.macro_auc.value == 0
    assert one.difference(turned).value == 1


def test_the_trivial_class_of_a_new_cohort_is_that_of_the_training_cases():
    """Class 2 is the most frequent in training (5 of 8), and rare in the new cohort (1 of 4)."""
    cases = grades(["3", "3", "3", "2"], [0.5] * 4)
    report = evaluation(GRADE, cases, by_fold=False).of(cases)
    assert report.pooled.trivial.metrics["accuracy"].value == 1 / 4
    assert report.pooled.trivial.description.endswith("(2)")


def test_another_predictors_rows_are_matched_by_case_and_fold_whatever_their_order():
    cases = grades(["2", "3", "2", "3"], [0.1, 0.9, 0.2, 0.7], fold=[0, 1, 0, 1])
    one = evaluation(GRADE, cases)
    shuffled = cases.drop(columns="label").iloc[[3, 1, 0, 2]]
    assert one.of(one.matched(shuffled)).pooled == one.of(cases).pooled
    some = one.among(shuffled.iloc[:2])
    assert some.cases["case_id"].tolist() == ["c1", "c3"]


def test_the_censoring_distribution_of_a_new_cohort_is_that_of_all_its_cases():
    rng = np.random.default_rng(1)
    months, event = rng.exponential(30, 60), rng.random(60) < 0.5
    cases = survival(rng.normal(size=60), months=months, event=event)
    known, predicted = FollowUp(months, event), SurvivalPredictions(cases["risk"].to_numpy())
    expected, of_deaths = (
        survival_metrics(known, predicted, train=known.of(which), bootstrap=Bootstrap(2)).uno_c_index.value
        for which in (np.ones(60, bool), event)
    )
    found = evaluation(SURVIVAL, cases, by_fold=False).of(cases).pooled.uno_c_index.value
    assert found == pytest.approx(expected, rel=1e-12)
    assert found != pytest.approx(of_deaths, rel=1e-6)


def test_the_interval_of_a_difference_of_areas_lies_within_what_is_possible():
    """Of two folds the t-test over folds alone would allow for differences of several whole units."""
    p3 = np.tile([0.1, 0.9, 0.2, 0.8], 6) + np.linspace(0, 0.05, 24)
    cases = grades(["2", "3", "2", "3"] * 6, p3, fold=[0] * 12 + [1] * 12)
    other = np.where(np.arange(24) < 12, p3, 1 - p3)  # as good in one fold, the wrong way round in the other
    turned = cases.assign(probability_2=1 - other, probability_3=other)
    found = evaluation(GRADE, cases).difference(turned)
    assert found.low is not None
    assert (found.value, found.low, found.high) == (pytest.approx(0.5), -1, 1)


@pytest.mark.parametrize("by_fold", [True, False])
def test_the_report_names_the_model_and_puts_every_baseline_beside_it_with_its_reason(by_fold):
    cases = grades(["2", "3", "2", "3"], [0.1, 0.9, 0.2, 0.7], fold=0)
    half = cases.drop(columns="label").assign(probability_2=0.5, probability_3=0.5, reason=[None, "no genes"] * 2)
    turned = cases.drop(columns="label").assign(
        probability_2=cases["probability_3"], probability_3=cases["probability_2"], reason=None
    )
    baselines = pd.concat([half.assign(baseline="genes"), turned.assign(baseline="clinical")])
    report = evaluation(GRADE, cases, by_fold=by_fold).report("class", "umeml", baselines.iloc[::-1])
    assert (report.kind, report.n, report.headline, report.chance) == ("class", 4, "macro_auc", 0.5)
    assert (report.model_name, report.new_cohort) == ("umeml", not by_fold)
    assert report.model.pooled.macro_auc.value == 1
    values = {name: one.pooled.macro_auc.value for name, one in report.baselines.items()}
    assert values == {"clinical": 0, "genes": 0.5}
    assert {name: one.reason for name, one in report.baselines.items()} == {"clinical": None, "genes": "no genes"}
    assert {name: one.value for name, one in report.differences.items()} == {"clinical": 1, "genes": 0.5}
    assert bool(report.model.folds) == by_fold
    nothing = evaluation(GRADE, cases, by_fold=by_fold).report("class", "umeml", baselines.iloc[:0])
    assert (nothing.baselines, nothing.differences) == ({}, {})
