import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression

from pipeline.baselines.genomic import (
    fit_omics_cox,
    fit_omics_logistic,
    log_partial_likelihood,
    omics_logits,
    omics_risk,
    principal_components,
    ridge_cox,
)
from pipeline.baselines.numbers import ridge_number
from pipeline.baselines.predictors import inner_folds
from pipeline.metrics import (
    Bootstrap,
    FollowUp,
    Metric,
    SurvivalPredictions,
    c_index,
    classification_by_fold,
    survival_by_fold,
    survival_metrics,
)


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
        risk[test] = fit_omics_cox(features[train], time[train], event[train], seed=0).predict(features[test]).risk
        made = fit_omics_logistic(features[train], classes[train], "abc", seed=0).predict(features[test])
        probabilities[test] = made.probabilities
    return [
        survival_by_fold(FollowUp(time, event), SurvivalPredictions(risk), folds).pooled.c_index,
        classification_by_fold(classes, probabilities, ["a", "b", "c"], folds).pooled.macro_auc,
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
    made = fit_omics_cox(features[train], time[train], event[train], seed=0).predict(features[~train])
    known, predicted = FollowUp(time, event), SurvivalPredictions(made.risk, made.curves, made.curve_times)
    report = survival_metrics(known.of(~train), predicted, train=known.of(train), bootstrap=Bootstrap(200))
    at_two_years = report.calibration["24"]
    assert at_two_years.slope.low < 1 < at_two_years.slope.high
    assert at_two_years.mean_difference.low < 0 < at_two_years.mean_difference.high


def test_training_risks_are_those_of_the_inner_folds_that_held_the_cases_out() -> None:
    """Genes of noise rank the cases that they were fitted to, and no others: those risks would promise too much."""
    generator = np.random.default_rng(0)
    noise, time, event = generator.normal(size=(80, 200)), generator.exponential(30, 80), np.ones(80, bool)
    found = fit_omics_cox(noise, time, event, seed=0)
    assert c_index(time, event, found.predict(noise).risk).value > 0.7
    assert c_index(time, event, found.train_risk).value < 0.65


class TestHeldOutScores:
    """They are of a model that is as stiff for each case as that of all: the penalty is scaled by the number of cases.

    The penalty is recovered from the model of all cases, where the gradient of the likelihood equals penalty × coefficients.
    """

    def test_of_a_risk(self, cohort: tuple) -> None:
        _, time, event, features, _ = cohort
        x = features[:, :10] - features[:, :10].mean(axis=0)
        found = omics_risk(x, time, event, seed=3)
        beta = found.coefficients[0]
        slope = approx_fprime(beta, lambda b: log_partial_likelihood(x @ b, time, event))
        for fitted, held in inner_folds(event.astype(int), 3):
            penalty = slope @ beta / (beta @ beta) * len(fitted) / len(x)
            expected = x[held] @ ridge_cox(x[fitted], time[fitted], event[fitted], penalty=penalty)
            np.testing.assert_allclose(found.held_out[held, 0], expected, rtol=1e-3, atol=1e-3)

    def test_of_classes(self, cohort: tuple) -> None:
        *_, features, classes = cohort
        labels, x = (classes > 1).astype(int), features[:, :10] - features[:, :10].mean(axis=0)
        found = omics_logits(x, labels, "ab", seed=3)
        beta = found.coefficients[0]
        intercepts = np.linspace(-5, 5, 200_001)
        rates = 1 / (1 + np.exp(-(x @ beta)[:, None] - intercepts[::1000]))
        intercept = np.interp(labels.mean(), rates.mean(axis=0), intercepts[::1000])  # residuals add up to 0
        slope = x.T @ (labels - 1 / (1 + np.exp(-x @ beta - intercept)))
        for fitted, held in inner_folds(labels, 3):
            penalty = slope @ beta / (beta @ beta) * len(fitted) / len(x)
            model = LogisticRegression(C=1 / penalty, max_iter=5000).fit(x[fitted], labels[fitted])
            np.testing.assert_allclose(found.held_out[held], x[held] @ model.coef_.T, rtol=0.02, atol=0.01)

    def test_of_a_number(self, cohort: tuple) -> None:
        clinical, _, _, features, _ = cohort
        x, y = features[:, :10] - features[:, :10].mean(axis=0), clinical["age"].to_numpy() + 10 * features[:, 0]
        y = y - y.mean()
        found = ridge_number(x, y, seed=3)
        beta = found.coefficients[0]
        slope = x.T @ (y - x @ beta)
        for held in np.array_split(np.random.default_rng(3).permutation(len(y)), 5):
            fitted = np.setdiff1d(np.arange(len(y)), held)
            middle, mean = x[fitted].mean(axis=0), y[fitted].mean()
            z, penalty = x[fitted] - middle, slope @ beta / (beta @ beta) * len(fitted) / len(y)
            coefficients = np.linalg.solve(z.T @ z + penalty * np.eye(10), z.T @ (y[fitted] - mean))
            np.testing.assert_allclose(found.held_out[held, 0], mean + (x[held] - middle) @ coefficients, rtol=1e-6)


def test_a_class_unseen_in_training_gets_no_probability(cohort: tuple) -> None:
    *_, features, classes = cohort
    seen = classes < 2
    made = fit_omics_logistic(features[seen], classes[seen], "abc", seed=0).predict(features[~seen])
    np.testing.assert_array_equal(made.probabilities[:, 2], 0)
    np.testing.assert_allclose(made.probabilities.sum(axis=1), 1)


def scaled(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    sd = values[train].std(axis=0)
    return (values - values[train].mean(axis=0)) / np.where(sd > 0, sd, 1)


@pytest.mark.slow
def test_ridge_cox_on_the_real_genes(real: tuple, five_folds) -> None:
    _, time, event, genes = real
    folds, risk = five_folds(event), np.zeros(len(time))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        x = scaled(genes, train)
        risk[test] = fit_omics_cox(x[train], time[train], event[train], seed=0).predict(x[test]).risk
    report = survival_by_fold(FollowUp(time, event), SurvivalPredictions(risk), folds, Bootstrap(10))
    assert report.mean == pytest.approx(0.808, abs=0.024)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "accuracy", "area"), [("subtype", 0.963, 0.994), ("grade", 0.693, 0.847)])
def test_logistic_regression_on_the_real_genes(
    real: tuple, five_folds, label: str, accuracy: float, area: float
) -> None:
    cases, _, _, genes = real
    known = cases[label].notna().to_numpy()
    labels, classes = pd.factorize(cases.loc[known, label], sort=True)
    folds, probabilities = five_folds(labels), np.zeros((known.sum(), 3))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        x = scaled(genes[known], train)
        probabilities[test] = fit_omics_logistic(x[train], labels[train], "abc", seed=0).predict(x[test]).probabilities
    report = classification_by_fold(labels, probabilities, [str(name) for name in classes], folds, Bootstrap(10))
    assert report.pooled.accuracy.value == pytest.approx(accuracy, abs=0.025)
    assert report.pooled.macro_auc.value == pytest.approx(area, abs=0.025)
