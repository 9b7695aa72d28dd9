import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict

from pipeline.baselines.genomic import principal_components
from pipeline.baselines.logistic import best_logistic, fit_logistic
from pipeline.baselines.predictors import PENALTIES, inner_folds, stratified_folds


def cases(n_classes, columns=400, n=90):
    """Cases on their principal components, and their classes."""
    rng = np.random.default_rng(n_classes)
    labels = rng.integers(0, n_classes, n)
    signal = np.eye(n_classes)[labels] @ rng.standard_normal((n_classes, columns))
    return principal_components(signal / 3 + rng.standard_normal((n, columns)))[0], labels


@pytest.mark.parametrize("names", [[0, 1], [0, 2], [1, 2, 4]], ids=str)
def test_the_penalty_is_the_one_that_a_search_by_scikit_learn_chooses(names):
    x, numbers = cases(len(names))
    labels = np.array(names)[numbers]
    best = best_logistic(x, labels, "abcde", seed=3)
    search = GridSearchCV(
        LogisticRegression(max_iter=5000),
        {"C": list(1 / (PENALTIES * (x**2).sum(axis=1).mean()))},
        scoring="neg_log_loss",
        cv=StratifiedKFold(5, shuffle=True, random_state=3),
    ).fit(x, labels)
    assert pytest.approx(search.best_params_["C"]) == best.C
    assert best.classes_.tolist() == names
    np.testing.assert_allclose(best.coef_, search.best_estimator_.coef_)


def test_two_classes_are_those_of_scikit_learn(cohort: tuple) -> None:
    *_, features, classes = cohort
    two, x = (classes > 0).astype(int), features[:, :5]
    made = fit_logistic(x, two, classes="ab", seed=0, directions=np.eye(5), centre=np.zeros(5)).predict(x)
    penalties = [1 / (penalty * (x**2).sum(axis=1).mean()) for penalty in PENALTIES]
    losses = []
    for penalty in penalties:  # of five inner folds
        held_out = cross_val_predict(
            LogisticRegression(C=penalty, max_iter=5000), x, two, cv=inner_folds(two, 0), method="predict_proba"
        )
        losses.append(np.mean([log_loss(two[held], held_out[held]) for _, held in inner_folds(two, 0)]))
    expected = LogisticRegression(C=penalties[int(np.argmin(losses))], max_iter=5000).fit(x, two).predict_proba(x)
    np.testing.assert_allclose(made.probabilities, expected, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 7])
def test_inner_folds_are_those_of_scikit_learn(seed):
    labels = np.random.default_rng(seed).choice([4, 0, 2], 90, p=[0.5, 0.3, 0.2])
    expected = StratifiedKFold(5, shuffle=True, random_state=seed).split(labels, labels)
    held_by = stratified_folds(labels, 5, seed)
    for number, (_, held) in enumerate(expected):
        np.testing.assert_array_equal(np.flatnonzero(held_by == number), held)


def test_a_class_of_one_case_is_divided_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = inner_folds(np.array([0, 0, 0, 1]), 0)
    assert sorted(held for _, part in folds for held in part) == [0, 1, 2, 3]


def test_every_inner_fold_has_its_share_of_each_class_and_there_are_as_many_as_the_rarest_allows() -> None:
    labels = np.repeat([0, 1], [40, 5])
    folds = inner_folds(labels, 0)
    assert [np.bincount(labels[held]).tolist() for _, held in folds] == [[8, 1]] * 5
    assert [np.bincount(labels[fitted]).tolist() for fitted, _ in folds] == [[32, 4]] * 5
    assert sorted(held for _, part in folds for held in part) == list(range(45))
    assert len(inner_folds(np.repeat([0, 1], [40, 3]), 0)) == 3
    assert [list(held) for _, held in folds] == [list(held) for _, held in inner_folds(labels, 0)]
    assert [list(held) for _, held in folds] != [list(held) for _, held in inner_folds(labels, 1)]
