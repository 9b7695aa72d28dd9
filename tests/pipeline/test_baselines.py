import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from pipeline import baselines
from pipeline.baselines import (
    ClassPrediction,
    NotConvergedError,
    SurvivalPrediction,
    clinical_cox,
    clinical_design,
    clinical_logistic,
    constant_risk,
    fuse_probabilities,
    fuse_risks,
    log_partial_likelihood,
    omics_cox,
    omics_logistic,
    principal_components,
    prior_probabilities,
    ridge_cox,
)
from pipeline.metrics import Metric, c_index, classification_by_fold, survival_by_fold, survival_metrics

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "gbmlgg"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """120 cases: clinical table, months, events, 150 features (three carry the hazard, two of them the class), classes."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 150))
    age, grade = generator.normal(55, 12, 120), generator.integers(2, 5, 120)
    hazard = features[:, :3].sum(axis=1) + (age - 55) * 0.05 + (grade - 3) * 0.5
    death, lost = generator.exponential(30 * np.exp(-hazard)), generator.uniform(5, 120, 120)
    clinical = pd.DataFrame({"age": age, "is_female": generator.integers(0, 2, 120), "grade": grade.astype(float)})
    classes = np.digitize(features[:, 0] + features[:, 1], [-0.6, 0.6])
    return clinical, np.minimum(death, lost), death <= lost, features, classes


def predict_all(cohort: tuple, train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    clinical, time, event, features, classes = cohort
    survival = [
        clinical_cox(clinical[train], time[train], event[train], clinical[test]),
        omics_cox(features[train], time[train], event[train], features[test]),
        constant_risk(time[train], event[train], int(test.sum())),
    ]
    survival.append(fuse_risks(survival[0], survival[1]))
    probabilities = [
        clinical_logistic(clinical[train], classes[train], clinical[test], n_classes=3),
        omics_logistic(features[train], classes[train], features[test], n_classes=3),
        prior_probabilities(classes[train], int(test.sum()), 3),
    ]
    return [array for p in survival for array in (p.risk, p.curves, p.train_risk)] + [
        p.probabilities for p in probabilities
    ]


def test_predictions_do_not_depend_on_the_labels_of_test_cases(cohort: tuple) -> None:
    clinical, time, event, features, classes = cohort
    test = np.arange(120) % 4 == 0
    order = np.arange(120)
    order[test] = np.random.default_rng(1).permutation(order[test])
    before = predict_all(cohort, ~test, test)
    after = predict_all((clinical, time[order], event[order], features, classes[order]), ~test, test)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    order = np.random.default_rng(1).permutation(120)  # the training cases' labels do matter
    changed = predict_all((clinical, time[order], event[order], features, classes[order]), ~test, test)
    assert not np.allclose(before[0], changed[0])
    assert not np.allclose(before[3], changed[3])


def test_a_test_case_is_predicted_alone_as_among_others(cohort: tuple) -> None:
    train, test = np.arange(120) < 90, np.arange(120) >= 90
    alone = np.arange(120) == 95
    among, single = predict_all(cohort, train, test), predict_all(cohort, train, alone)
    for name in (0, 3, 12, 13):  # risks of both Cox models, probabilities of both logistic ones
        np.testing.assert_allclose(single[name][0], among[name][5], atol=1e-9)


def test_predictions_are_of_one_form_and_range(cohort: tuple) -> None:
    train = np.arange(120) < 90
    arrays = predict_all(cohort, train, ~train)
    for risk, curves, train_risk in zip(arrays[0:12:3], arrays[1:12:3], arrays[2:12:3], strict=True):
        assert risk.shape == (30,)
        assert curves.shape == (30, 61)
        assert train_risk.shape == (90,)
        assert ((curves >= 0) & (curves <= 1)).all()
        assert (np.diff(curves, axis=1) <= 1e-12).all()
        np.testing.assert_allclose(curves[:, 0], 1)
    for probabilities in arrays[12:]:
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


# Ridge models --------------------------------------------------------------------------------------------------------


def test_partial_likelihood_of_a_hand_counted_table() -> None:
    # Deaths at 1 (of 4 at risk) and twice at 2 (of 3, as Breslow has ties), censored at 3; all risks equal but one.
    time, event = np.array([1.0, 2, 2, 3]), np.array([True, True, True, False])
    risk = np.log(np.array([2.0, 1, 1, 1]))
    expected = np.log(2 / 5) + 2 * np.log(1 / 3)
    assert log_partial_likelihood(risk, time, event) == pytest.approx(expected)


def test_ridge_cox_is_lifelines(cohort: tuple) -> None:
    _, time, event, features, _ = cohort  # no ties, where lifelines' Efron and Breslow are one
    x = features[:, :8]
    x = (x - x.mean(axis=0)) / x.std(
        axis=0, ddof=1
    )  # lifelines penalises standardised columns, and the mean log-likelihood
    table = pd.DataFrame(x).assign(months=time, event=event)
    table.columns = table.columns.astype(str)
    expected = CoxPHFitter(penalizer=0.1).fit(table, "months", "event").params_.to_numpy()
    np.testing.assert_allclose(ridge_cox(x, time, event, penalty=0.1 * 120), expected, atol=1e-4)


def test_ridge_on_principal_components_is_ridge_on_the_features(cohort: tuple) -> None:
    _, time, event, features, _ = cohort
    train, test = features[:90, :40], features[90:, :40]
    scores, centre, axes = principal_components(train)
    by_components = (test - centre) @ axes.T @ ridge_cox(scores, time[:90], event[:90], penalty=20)
    by_features = (test - train.mean(axis=0)) @ ridge_cox(train, time[:90], event[:90], penalty=20)
    np.testing.assert_allclose(by_components, by_features, atol=1e-4)
    assert principal_components(features[:90])[0].shape == (90, 89)


def out_of_fold(features: np.ndarray, time: np.ndarray, event: np.ndarray, classes: np.ndarray) -> list[Metric]:
    """Pooled c-index and macro AUC of the omics models, in three folds that are not stratified."""
    folds = np.arange(len(time)) % 3
    risk, probabilities = np.zeros(len(time)), np.zeros((len(time), 3))
    for fold in range(3):
        train, test = folds != fold, folds == fold
        risk[test] = omics_cox(features[train], time[train], event[train], features[test]).risk
        made = omics_logistic(features[train], classes[train], features[test], n_classes=3)
        probabilities[test] = made.probabilities
    return [
        survival_by_fold(time, event, risk, folds)["pooled"]["c_index"],
        classification_by_fold(classes, probabilities, ["a", "b", "c"], folds)["pooled"]["macro_auc"],
    ]


def test_omics_models_find_the_signal(cohort: tuple) -> None:
    _, time, event, features, classes = cohort
    assert all(metric.low > 0.55 for metric in out_of_fold(features[:, :30], time, event, classes))


def test_omics_models_of_shuffled_labels_are_at_chance(cohort: tuple) -> None:
    _, time, event, features, classes = cohort
    orders = [np.random.default_rng(seed).permutation(120) for seed in range(4)]
    metrics = [metric for o in orders for metric in out_of_fold(features[:, :30], time[o], event[o], classes[o])]
    assert np.mean([metric.value for metric in metrics]) == pytest.approx(0.5, abs=0.05)
    assert sum(metric.low < 0.5 < metric.high for metric in metrics) >= 6  # of eight


def test_curves_of_omics_cox_are_calibrated_on_new_cases() -> None:
    generator = np.random.default_rng(4)
    features = generator.normal(size=(500, 100))
    hazard = features[:, :5].sum(axis=1) * 0.5
    time = generator.exponential(30 * np.exp(-hazard))
    event = time < 60
    time = np.minimum(time, 60)
    train = np.arange(500) < 250
    made = omics_cox(features[train], time[train], event[train], features[~train])
    report = survival_metrics(
        time[~train],
        event[~train],
        made.risk,
        train_time=time[train],
        train_event=event[train],
        curves=made.curves,
        curve_times=made.curve_times,
        n_boot=200,
    )
    at_two_years = report["calibration"]["24"]
    assert at_two_years["slope"].low < 1 < at_two_years["slope"].high
    assert at_two_years["mean_difference"].low < 0 < at_two_years["mean_difference"].high


def test_a_class_unseen_in_training_gets_no_probability(cohort: tuple) -> None:
    *_, features, classes = cohort
    seen = classes < 2
    made = omics_logistic(features[seen], classes[seen], features[~seen], n_classes=3)
    np.testing.assert_array_equal(made.probabilities[:, 2], 0)
    np.testing.assert_allclose(made.probabilities.sum(axis=1), 1)


# Clinical design -----------------------------------------------------------------------------------------------------


def test_design_imputes_and_codes_by_training_cases_alone() -> None:
    train = pd.DataFrame({"age": [40.0, 50, 90, np.nan], "grade": [2.0, 3, 3, np.nan], "is_female": 1})
    test = pd.DataFrame({"age": [np.nan, 20], "grade": [4.0, 3], "is_female": [0, 1]})
    x_train, x_test = clinical_design(train, test, covariates=("age", "is_female", "grade", "subtype"))
    assert list(x_train.columns) == ["age", "grade=3.0"]  # is_female is constant in training, subtype absent
    assert x_train["age"].tolist() == [40, 50, 90, 50]  # median of the three known
    assert x_test["age"].tolist() == [50, 20]
    assert x_train["grade=3.0"].tolist() == pytest.approx([0, 1, 1, 2 / 3])
    assert x_test["grade=3.0"].tolist() == pytest.approx([2 / 3, 1])  # grade 4 is unknown to the training cases


def test_a_covariate_missing_everywhere_is_left_out_and_said(cohort: tuple, caplog: pytest.LogCaptureFixture) -> None:
    clinical, time, event, *_ = cohort
    clinical = clinical.assign(age=np.nan)
    with caplog.at_level(logging.WARNING):
        made = clinical_cox(clinical[:90], time[:90], event[:90], clinical[90:])
    assert made.reason is None
    assert "age is missing for all 90 training cases" in caplog.text


def test_clinical_models_of_classes_do_not_use_grade_or_subtype(cohort: tuple) -> None:
    clinical, _, _, _, classes = cohort
    leaky = clinical.assign(subtype=classes.astype(str), grade=classes)
    made = clinical_logistic(leaky[:90], classes[:90], leaky[90:], n_classes=3)
    plain = clinical_logistic(clinical[:90], classes[:90], clinical[90:], n_classes=3)
    np.testing.assert_array_equal(made.probabilities, plain.probabilities)


# Fusion and trivial predictors ---------------------------------------------------------------------------------------


def made_of(risk: list[float], train_risk: list[float]) -> SurvivalPrediction:
    curves = np.exp(-np.exp(np.array(risk))[:, None] * np.array([0.0, 1.0]))
    return SurvivalPrediction(np.array(risk), curves, np.array([0.0, 1.0]), np.array(train_risk))


def test_fused_risk_is_the_mean_of_risks_standardised_by_training() -> None:
    fused = fuse_risks(made_of([4.0, 2.0], [1.0, 3.0]), made_of([0.0, 30.0], [0.0, 20.0]))
    # (4 − 2)/1 = 2 and (0 − 10)/10 = −1: ½; (2 − 2)/1 = 0 and (30 − 10)/10 = 2: 1
    assert fused.risk.tolist() == pytest.approx([0.5, 1.0])
    assert fused.train_risk.tolist() == pytest.approx([-1, 1])


def test_fusion_with_a_failed_predictor_is_empty_with_its_reason() -> None:
    failed = ClassPrediction(np.full((2, 2), np.nan), "no feature varies among the training cases")
    fused = fuse_probabilities(prior_probabilities(np.array([0, 1]), 2, 2), failed)
    assert fused.reason == "no feature varies among the training cases"
    assert np.isnan(fused.probabilities).all()


def test_fused_curves_at_different_times_are_refused() -> None:
    other = made_of([1.0, 2.0], [1.0, 2.0])
    shifted = SurvivalPrediction(other.risk, other.curves, np.array([0.0, 2.0]), other.train_risk)
    with pytest.raises(ValueError, match="curves at the same times"):
        fuse_risks(other, shifted)


def test_trivial_predictors_by_hand() -> None:
    made = constant_risk(np.array([10.0, 20, 30, 40]), np.array([True, False, True, False]), 3)
    assert made.curves[0, [9, 10, 29, 30, 60]].tolist() == pytest.approx([1, 0.75, 0.75, 0.375, 0.375])
    assert c_index(np.array([1.0, 2, 3]), np.ones(3, dtype=bool), made.risk).value == 0.5
    assert prior_probabilities(np.array([0, 1, 1, 1]), 2, 3).probabilities.tolist() == [[0.25, 0.75, 0]] * 2


# Failures ------------------------------------------------------------------------------------------------------------


def test_training_cases_without_events_give_a_reason(cohort: tuple) -> None:
    clinical, time, _, features, _ = cohort
    nobody = np.zeros(90, dtype=bool)
    for made in (
        clinical_cox(clinical[:90], time[:90], nobody, clinical[90:]),
        omics_cox(features[:90], time[:90], nobody, features[90:]),
    ):
        assert made.reason == "0 events among 90 training cases: a Cox model needs two at least"
        assert np.isnan(made.risk).all()
        assert made.curves.shape == (30, 61)


def test_one_training_class_gives_a_reason(cohort: tuple) -> None:
    clinical, _, _, features, _ = cohort
    same = np.ones(90, dtype=int)
    for made in (
        clinical_logistic(clinical[:90], same, clinical[90:], n_classes=3),
        omics_logistic(features[:90], same, features[90:], n_classes=3),
    ):
        assert "too few training cases in 1 classes" in str(made.reason)
        assert np.isnan(made.probabilities).all()


def test_constant_inputs_give_a_reason(cohort: tuple) -> None:
    clinical, time, event, features, classes = cohort
    flat = np.ones_like(features)
    assert (
        omics_cox(flat[:90], time[:90], event[:90], flat[90:]).reason == "no covariate varies among the training cases"
    )
    assert "no feature varies" in str(omics_logistic(flat[:90], classes[:90], flat[90:], n_classes=3).reason)
    none = clinical.assign(age=1.0, is_female=1.0, grade=2.0)
    assert "no covariate varies" in str(clinical_cox(none[:90], time[:90], event[:90], none[90:]).reason)
    assert "no clinical covariate" in str(clinical_logistic(none[:90], classes[:90], none[90:], n_classes=3).reason)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_fit_that_does_not_converge_gives_a_reason(cohort: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    clinical, time, event, features, classes = cohort
    monkeypatch.setattr(CoxPHFitter, "fit", raising(ConvergenceError("delta contains nan", ValueError())))
    made = clinical_cox(clinical[:90], time[:90], event[:90], clinical[90:])
    assert "the clinical Cox model did not converge" in str(made.reason)
    monkeypatch.setattr(baselines, "MAX_STEPS", 1)
    with pytest.raises(NotConvergedError, match="did not converge in 1 steps"):
        ridge_cox(features[:90, :5], time[:90], event[:90], penalty=0.1)
    assert "ridge Cox model" in str(omics_cox(features[:90], time[:90], event[:90], features[90:]).reason)
    monkeypatch.setattr(baselines, "MAX_LOGISTIC_STEPS", 1)
    made_classes = omics_logistic(features[:90], classes[:90], features[90:], n_classes=3)
    assert made_classes.reason == "the logistic model did not converge in 1 steps"
    monkeypatch.setattr(LogisticRegression, "fit", raising(RuntimeError("another fault")))
    with pytest.raises(Exception, match="another fault"):  # only convergence is caught
        omics_logistic(features[:90], classes[:90], features[90:], n_classes=3)


# The real table ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    genes = pd.read_csv(REAL / "genes.csv.gz").set_index("case_id").clip(-5, 5)
    cases = pd.read_csv(REAL / "cases.csv").set_index("case_id").loc[genes.index]
    return cases, cases["survival_months"].to_numpy(), cases["event"].to_numpy() == 1, genes.to_numpy()


def five_folds(labels: np.ndarray) -> np.ndarray:
    folds = np.zeros(len(labels), dtype=int)
    splits = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
    for number, (_, test) in enumerate(splits):
        folds[test] = number
    return folds


def scaled(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    sd = values[train].std(axis=0)
    return (values - values[train].mean(axis=0)) / np.where(sd > 0, sd, 1)


@needs_real
def test_clinical_cox_on_the_real_table(real: tuple) -> None:
    cases, time, event, _ = real
    folds, everything, age_and_sex = five_folds(event), np.zeros(len(time)), np.zeros(len(time))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        everything[test] = clinical_cox(cases[train], time[train], event[train], cases[test]).risk
        age_and_sex[test] = clinical_cox(
            cases[train], time[train], event[train], cases[test], covariates=("age", "is_female")
        ).risk
    assert survival_by_fold(time, event, everything, folds, n_boot=10)["mean"] == pytest.approx(0.86, abs=0.02)
    assert survival_by_fold(time, event, age_and_sex, folds, n_boot=10)["mean"] == pytest.approx(0.768, abs=0.02)


@needs_real
@pytest.mark.slow
def test_ridge_cox_on_the_real_genes(real: tuple) -> None:
    _, time, event, genes = real
    folds, risk = five_folds(event), np.zeros(len(time))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        x = scaled(genes, train)
        risk[test] = omics_cox(x[train], time[train], event[train], x[test]).risk
    assert survival_by_fold(time, event, risk, folds, n_boot=10)["mean"] == pytest.approx(0.808, abs=0.024)


@needs_real
@pytest.mark.slow
@pytest.mark.parametrize(("label", "accuracy", "area"), [("subtype", 0.963, 0.994), ("grade", 0.693, 0.847)])
def test_logistic_regression_on_the_real_genes(real: tuple, label: str, accuracy: float, area: float) -> None:
    cases, _, _, genes = real
    known = cases[label].notna().to_numpy()
    labels, classes = pd.factorize(cases.loc[known, label], sort=True)
    folds, probabilities = five_folds(labels), np.zeros((known.sum(), 3))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        x = scaled(genes[known], train)
        probabilities[test] = omics_logistic(x[train], labels[train], x[test], n_classes=3).probabilities
    report = classification_by_fold(labels, probabilities, [str(name) for name in classes], folds, n_boot=10)
    assert report["pooled"]["accuracy"].value == pytest.approx(accuracy, abs=0.025)
    assert report["pooled"]["macro_auc"].value == pytest.approx(area, abs=0.025)
