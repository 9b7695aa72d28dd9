import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from workflows.report.class_charts import counts_above, precision_recall, roc


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_curves_are_those_of_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    truth, score = rng.random(80) < 0.3, rng.integers(levels, size=80) / levels
    hits, others = counts_above(truth, score)
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    np.testing.assert_allclose(others / others[-1], fpr)
    np.testing.assert_allclose(hits / hits[-1], tpr)
    assert np.trapezoid(hits / hits[-1], others / others[-1]) == pytest.approx(roc_auc_score(truth, score))
    precision, recall, _ = precision_recall_curve(truth, score)
    np.testing.assert_allclose((hits / hits[-1])[::-1], recall)
    np.testing.assert_allclose((hits[1:] / (hits + others)[1:])[::-1], precision[:-1])
    average = np.diff(hits / hits[-1]) @ (hits[1:] / (hits + others)[1:])
    assert average == pytest.approx(average_precision_score(truth, score))


@pytest.mark.parametrize(("folds", "has_folds"), [([0, 1, 0, 1], True), ([None] * 4, False)])
def test_captions_speak_of_folds_only_where_there_are_some(folds, has_folds):
    table = pd.DataFrame({"label": ["2", "3", "2", "3"], "probability_3": [0.1, 0.9, 0.4, 0.3], "fold": folds})
    text = roc("r", table, ["3"]).text
    assert ("pairs across folds" in text) == ("folds" in text) == has_folds
    assert "he mean of these AUCs is the macro AUC" in text
    assert ("pooled" in precision_recall("p", table, ["3"]).text) == has_folds


def test_the_legend_of_precision_and_recall_gives_the_prevalence_as_chance():
    table = pd.DataFrame({"label": ["3", "2", "2", "2", "2"], "probability_3": [0.9, 0.8, 0.7, 0.6, 0.5]})
    (curve,) = precision_recall("p", table, ["3"]).figure["data"]
    assert curve["name"] == "3: AP 1.000 (chance 0.200)"
