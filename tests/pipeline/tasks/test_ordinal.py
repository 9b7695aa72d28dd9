import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from pipeline.metrics import Bootstrap
from pipeline.metrics.bootstrap import measure
from pipeline.metrics.ordinal import weighted_kappa
from pipeline.tasks import TaskSpec, make_task
from pipeline.tasks.ordinal import FittedOrdinal
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable

TASK = make_task("stage", TaskSpec(column=("Stage",), kind="ordinal"))
LABELS = pd.DataFrame({"stage": ["1", "2", "3"]})


def test_a_distant_class_costs_more_than_a_neighbour():
    fitted = TASK.fit(LABELS, ("1", "2", "3"))
    near, far = (torch.log(torch.tensor([row])) for row in ([0.2, 0.7, 0.1], [0.2, 0.1, 0.7]))
    target = torch.tensor([[0.0]], dtype=torch.float64)
    nominal = F.cross_entropy(near, torch.tensor([0]))
    assert fitted.loss(near, target).item() == pytest.approx(nominal.item() + 0.8**2 + 0.1**2, rel=1e-5)
    assert fitted.loss(far, target).item() == pytest.approx(nominal.item() + 0.8**2 + 0.7**2, rel=1e-5)


def test_metrics_are_the_nominal_ones_and_a_weighted_kappa():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    p = rng.dirichlet(np.ones(3), 60) + np.eye(3)[truth] * 0.4
    p /= p.sum(axis=1, keepdims=True)
    cases = pd.DataFrame(p, columns=["probability_1", "probability_2", "probability_3"]).assign(
        label=(truth + 1).astype(str)
    )
    fitted = TASK.fit(LABELS, ("1", "2", "3"))
    report = fitted.evaluate(cases, cases, folds=np.arange(60) % 2, bootstrap=Bootstrap(40, 0))
    expected = cohen_kappa_score(truth, p.argmax(axis=1), weights="quadratic")
    assert report.pooled.weighted_kappa.value == pytest.approx(expected)
    assert report.pooled.rank_error.value == pytest.approx(np.abs(truth - p.argmax(axis=1)).mean())
    assert report.pooled.accuracy.value == pytest.approx((truth == p.argmax(axis=1)).mean())
    assert report.pooled.trivial.metrics["weighted_kappa"].value == 0
    assert [one.metrics.n for one in report.folds] == [30, 30]
    assert report.mean is not None


def test_a_resample_counts_a_case_as_often_as_it_is_drawn():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(1)
    truth, predicted, drawn = (rng.integers(0, 3, 20) for _ in range(3))
    weights = np.bincount(drawn, minlength=20)[None].astype(float)
    expected = cohen_kappa_score(truth[drawn], predicted[drawn], weights="quadratic")
    assert weighted_kappa(truth, predicted).of(weights)[0] == pytest.approx(expected)


def test_words_need_an_order():
    table = LabelTable(pd.DataFrame({"Stage": ["low", "high"]}), "clinical.csv")
    with pytest.raises(
        InputError, match=r"words \(high, low\), whose order is unknown; give it as tasks\.stage\.classes"
    ):
        TASK.read(table)
    ordered = make_task("stage", TaskSpec(column=("Stage",), kind="ordinal", classes=("low", "high")))
    assert ordered.vocabulary(ordered.read(table)) == ("low", "high")


@pytest.mark.parametrize("column", [["V", "II", "I", "IV", "III"], ["IV", "I", "II", "III", "V"]])
def test_roman_numerals_have_their_order(column):
    labels = TASK.read(LabelTable(pd.DataFrame({"Stage": column}), "clinical.csv"))
    assert TASK.vocabulary(labels) == ("I", "II", "III", "IV", "V")


@pytest.mark.parametrize("other", ["IIb", "X", "low"])
def test_roman_numerals_among_other_words_need_an_order(other):
    with pytest.raises(InputError, match="whose order is unknown"):
        TASK.read(LabelTable(pd.DataFrame({"Stage": ["I", "II", other]}), "clinical.csv"))


def test_the_loss_weighs_each_case_by_its_own_class():
    """Two cases of unequal losses and weights, worked out one by one."""
    fitted = FittedOrdinal("grade", ("2", "3", "4"), (1, 3, 6))
    logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.0, 0.0]])
    truth, weights = [0, 2], np.array(fitted.weights)
    expected = 0.0
    for row, label in zip(logits, truth, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        ranked = sum((p[: k + 1].sum() - (label <= k)) ** 2 for k in range(3))
        expected += weights[label] * (ranked - np.log(p[label])) / len(truth)
    loss = fitted.loss(torch.tensor(logits), torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_the_kappa_of_one_class_for_all_has_no_interval():
    """It is 0 in every resample, but for the last digit."""
    truth = np.array([0, 2, 1, 2, 2, 0, 2, 1, 2, 0, 1, 2, 2])
    found = measure(weighted_kappa(truth, np.full(13, 2)), Bootstrap(300, 0).weights(13))
    assert found.value == pytest.approx(0, abs=1e-9)
    assert (found.low, found.high) == (None, None)
    assert found.reason == "no interval: the value is the same in every resample of 13 cases"
