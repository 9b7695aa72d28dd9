import json
from collections.abc import Callable

import numpy as np
import pytest
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError
from sklearn.linear_model import LogisticRegression

from pipeline.baselines import genomic, logistic
from pipeline.baselines.clinical import fit_clinical_cox, fit_clinical_logistic
from pipeline.baselines.genomic import fit_omics_cox, fit_omics_logistic, ridge_cox
from pipeline.baselines.predictors import (
    ClassPrediction,
    NotConvergedError,
    SurvivalPrediction,
    fuse_probabilities,
    fuse_risks,
    unfit_for_cox,
)


def predict_all(cohort: tuple, train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    clinical, time, event, features, classes = cohort
    survival = [
        fit_clinical_cox(clinical[train], time[train], event[train]).predict(clinical[test]),
        fit_omics_cox(features[train], time[train], event[train], seed=0).predict(features[test]),
    ]
    survival.append(fuse_risks(survival[0], survival[1]))
    probabilities = [
        fit_clinical_logistic(clinical[train], classes[train], "abc", seed=0).predict(clinical[test]),
        fit_omics_logistic(features[train], classes[train], "abc", seed=0).predict(features[test]),
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
    for name in (0, 3, 9, 10):  # risks of both Cox models, probabilities of both logistic ones
        np.testing.assert_allclose(single[name][0], among[name][5], atol=1e-9)


def test_predictions_are_of_one_form_and_range(cohort: tuple) -> None:
    train = np.arange(120) < 90
    arrays = predict_all(cohort, train, ~train)
    for risk, curves, train_risk in zip(arrays[0:9:3], arrays[1:9:3], arrays[2:9:3], strict=True):
        assert risk.shape == (30,)
        assert curves.shape == (30, 61)
        assert train_risk.shape == (90,)
        assert ((curves >= 0) & (curves <= 1)).all()
        assert (np.diff(curves, axis=1) <= 1e-12).all()
        np.testing.assert_allclose(curves[:, 0], 1)
    for probabilities in arrays[9:]:
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_predictor_read_back_says_the_same(cohort: tuple) -> None:
    clinical, time, event, features, classes = cohort
    for fitted, inputs in (
        (fit_clinical_cox(clinical[:90], time[:90], event[:90]), clinical[90:]),
        (fit_omics_cox(features[:90], time[:90], event[:90], seed=0), features[90:]),
        (fit_clinical_logistic(clinical[:90], classes[:90], "abc", seed=0), clinical[90:]),
        (fit_omics_logistic(features[:90], classes[:90], "abc", seed=0), features[90:]),
        (fit_omics_cox(features[:90], time[:90], np.zeros(90, bool), seed=0), features[90:]),
        (fit_omics_logistic(features[:90], np.ones(90, int), "abc", seed=0), features[90:]),
    ):
        again = type(fitted).from_json(json.loads(json.dumps(fitted.to_json(), allow_nan=False)))
        assert again.to_json() == fitted.to_json()
        for one, other in zip(vars(fitted.predict(inputs)).values(), vars(again.predict(inputs)).values(), strict=True):
            if isinstance(one, np.ndarray):
                np.testing.assert_allclose(one, other, rtol=1e-12)  # float64
            else:
                assert one == other


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
    fused = fuse_probabilities(ClassPrediction(np.full((2, 2), 0.5)), failed)
    assert fused.reason == "no feature varies among the training cases"
    assert np.isnan(fused.probabilities).all()


def test_fused_curves_at_different_times_are_refused() -> None:
    other = made_of([1.0, 2.0], [1.0, 2.0])
    shifted = SurvivalPrediction(other.risk, other.curves, np.array([0.0, 2.0]), other.train_risk)
    with pytest.raises(ValueError, match="curves at the same times"):
        fuse_risks(other, shifted)


def test_training_cases_without_events_give_a_reason(cohort: tuple) -> None:
    clinical, time, _, features, _ = cohort
    nobody = np.zeros(90, dtype=bool)
    for made in (
        fit_clinical_cox(clinical[:90], time[:90], nobody).predict(clinical[90:]),
        fit_omics_cox(features[:90], time[:90], nobody, seed=0).predict(features[90:]),
    ):
        assert made.reason == "0 events among 90 training cases: a Cox model needs at least two"
        assert np.isnan(made.risk).all()
        assert made.curves.shape == (30, 61)


def test_one_training_class_gives_a_reason(cohort: tuple) -> None:
    clinical, _, _, features, _ = cohort
    same = np.ones(90, dtype=int)
    for made in (
        fit_clinical_logistic(clinical[:90], same, "abc", seed=0).predict(clinical[90:]),
        fit_omics_logistic(features[:90], same, "abc", seed=0).predict(features[90:]),
    ):
        assert "too few training cases in 1 classes" in str(made.reason)
        assert np.isnan(made.probabilities).all()


def test_constant_inputs_give_a_reason(cohort: tuple) -> None:
    clinical, time, event, features, classes = cohort
    flat = np.ones_like(features)
    assert (
        fit_omics_cox(flat[:90], time[:90], event[:90], seed=0).predict(flat[90:]).reason
        == "no covariate varies among the training cases"
    )
    assert "no feature varies" in str(
        fit_omics_logistic(flat[:90], classes[:90], "abc", seed=0).predict(flat[90:]).reason
    )
    none = clinical.assign(age=1.0, is_female=1.0, grade=2.0)
    assert "no covariate varies" in str(fit_clinical_cox(none[:90], time[:90], event[:90]).predict(none[90:]).reason)
    assert "no clinical covariate" in str(
        fit_clinical_logistic(none[:90], classes[:90], "abc", seed=0).predict(none[90:]).reason
    )


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_fit_that_does_not_converge_gives_a_reason(cohort: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    clinical, time, event, features, classes = cohort
    monkeypatch.setattr(CoxPHFitter, "fit", raising(ConvergenceError("delta contains nan", ValueError())))
    made = fit_clinical_cox(clinical[:90], time[:90], event[:90]).predict(clinical[90:])
    assert "the clinical Cox model did not converge" in str(made.reason)
    monkeypatch.setattr(genomic, "MAX_STEPS", 1)
    with pytest.raises(NotConvergedError, match="did not converge in 1 steps"):
        ridge_cox(features[:90, :5], time[:90], event[:90], penalty=0.1)
    assert "ridge Cox model" in str(
        fit_omics_cox(features[:90], time[:90], event[:90], seed=0).predict(features[90:]).reason
    )
    monkeypatch.setattr(logistic, "MAX_STEPS", 1)
    made_classes = fit_omics_logistic(features[:90], classes[:90], "abc", seed=0).predict(features[90:])
    assert made_classes.reason == "the logistic model did not converge in 1 steps"
    monkeypatch.setattr(LogisticRegression, "fit", raising(RuntimeError("another fault")))
    with pytest.raises(RuntimeError, match="another fault"):  # only convergence is caught
        fit_omics_logistic(features[:90], classes[:90], "abc", seed=0).predict(features[90:])


@pytest.mark.parametrize(("events", "columns", "fit"), [(1, 1, False), (2, 1, True), (2, 0, False), (0, 3, False)])
def test_a_cox_model_needs_two_events_and_a_feature_that_varies(events, columns, fit):
    assert (unfit_for_cox(np.arange(5) < events, columns) is None) == fit
