import logging

import numpy as np
import pandas as pd
import pytest

from pipeline.baselines.clinical import ClinicalDesign, fit_clinical_cox, fit_clinical_logistic
from pipeline.metrics import Bootstrap, FollowUp, SurvivalPredictions, survival_by_fold


def test_design_imputes_and_codes_by_training_cases_alone() -> None:
    train = pd.DataFrame({"age": [40.0, 50, 90, np.nan], "grade": [2.0, 3, 3, np.nan], "is_female": 1})
    test = pd.DataFrame({"age": [np.nan, 20], "grade": [4, 3], "is_female": [0, 1]})
    design = ClinicalDesign.fit(train, ("age", "is_female", "grade", "subtype"))
    assert design.columns == ["age", "grade=3"]  # is_female is constant in training, subtype absent
    assert design.of(train)[:, 0].tolist() == [40, 50, 90, 50]  # median of the three known
    assert design.of(test)[:, 0].tolist() == [50, 20]
    assert design.of(train)[:, 1].tolist() == pytest.approx([0, 1, 1, 2 / 3])
    assert design.of(test)[:, 1].tolist() == pytest.approx([2 / 3, 1])  # grade 4 is unknown to the training cases
    assert design.of(pd.DataFrame(index=["a"])).tolist() == [[50, pytest.approx(2 / 3)]]  # a cohort without any of them


def test_a_covariate_missing_everywhere_is_left_out_and_reported(
    cohort: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    clinical, time, event, *_ = cohort
    clinical = clinical.assign(age=np.nan)
    with caplog.at_level(logging.WARNING):
        made = fit_clinical_cox(clinical[:90], time[:90], event[:90]).predict(clinical[90:])
    assert made.reason is None
    assert "age is missing for all 90 training cases" in caplog.text


def test_a_rare_level_of_which_nobody_died_has_a_finite_risk() -> None:
    rng = np.random.default_rng(0)
    train = pd.DataFrame({"age": rng.normal(55, 10, 60), "subtype": ["common"] * 56 + ["rare"] * 4})
    time, event = rng.exponential(20, 60) + 0.1, np.array([True] * 56 + [False] * 4)
    made = fit_clinical_cox(train, time, event)
    assert made.linear.reason is None
    assert made.design.columns == ["age", "subtype=rare"]
    assert -6 < made.linear.coefficients[1] < -0.5


def test_clinical_models_of_classes_do_not_use_grade_or_subtype(cohort: tuple) -> None:
    clinical, _, _, _, classes = cohort
    leaky = clinical.assign(subtype=classes.astype(str), grade=classes)
    made = fit_clinical_logistic(leaky[:90], classes[:90], "abc", seed=0).predict(leaky[90:])
    plain = fit_clinical_logistic(clinical[:90], classes[:90], "abc", seed=0).predict(clinical[90:])
    np.testing.assert_array_equal(made.probabilities, plain.probabilities)


def test_clinical_cox_on_the_real_table(real: tuple, five_folds) -> None:
    cases, time, event, _ = real
    folds, everything, age_and_sex = five_folds(event), np.zeros(len(time)), np.zeros(len(time))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        everything[test] = fit_clinical_cox(cases[train], time[train], event[train]).predict(cases[test]).risk
        age_and_sex[test] = (
            fit_clinical_cox(cases[train], time[train], event[train], covariates=("age", "is_female"))
            .predict(cases[test])
            .risk
        )
    for risk, expected in ((everything, 0.86), (age_and_sex, 0.768)):
        report = survival_by_fold(FollowUp(time, event), SurvivalPredictions(risk), folds, Bootstrap(10))
        assert report.mean == pytest.approx(expected, abs=0.02)
