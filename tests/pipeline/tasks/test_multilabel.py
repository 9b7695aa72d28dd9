import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from pipeline.metrics import Bootstrap
from pipeline.metrics.conformal import thresholds
from pipeline.planning.splits import make_folds
from pipeline.tasks import TaskSpec, make_task
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable

TASK = make_task("genes", TaskSpec(column=("TP53", "ATRX"), kind="multilabel"))
TABLE = LabelTable(
    pd.DataFrame({"TP53": ["yes", "no", "1", None, None], "ATRX": [1.0, 0.0, None, 1.0, None]}, index=list("abcde")),
    "c.csv",
)


@pytest.fixture
def labels():
    return TASK.read(TABLE)


def test_labels_may_be_missing_one_by_one(labels):
    assert TASK.labelled(labels).tolist() == [True, True, True, True, False]
    assert TASK.describe(labels).tolist() == [
        "TP53=1;ATRX=1",
        "TP53=0;ATRX=0",
        "TP53=1;ATRX=?",
        "TP53=?;ATRX=1",
        "TP53=?;ATRX=?",
    ]
    fitted = TASK.fit(labels, ())
    assert fitted.encode(labels).tolist() == [[1, 1], [0, 0], [1, -1], [-1, 1], [-1, -1]]
    assert (fitted.positives, fitted.negatives) == ((2, 2), (1, 1))
    assert TASK.restore(fitted.to_json()) == fitted


def test_unknown_labels_have_no_part_in_the_loss(labels):
    fitted = TASK.fit(labels, ())
    logits = torch.tensor([[1.0, 5.0]])
    weight = 3 / (2 * 2)  # three known answers, two of them positive
    expected = weight * F.binary_cross_entropy_with_logits(torch.tensor(1.0), torch.tensor(1.0)) / 2
    assert fitted.loss(logits, torch.tensor([[1.0, -1.0]])).item() == pytest.approx(expected.item())
    assert fitted.score(logits, torch.tensor([[1.0, -1.0]])) == pytest.approx(torch.tensor(1.0).sigmoid().item() / 2)


def test_metrics_are_those_of_the_known_labels():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (40, 2)).astype(float)
    p = np.clip(truth * 0.3 + rng.uniform(size=(40, 2)) * 0.7, 0, 1)
    truth[:10, 1] = np.nan
    text = [f"TP53={a:.0f};ATRX={'?' if np.isnan(b) else f'{b:.0f}'}" for a, b in truth]
    cases = pd.DataFrame(p, columns=["probability_TP53", "probability_ATRX"]).assign(label=text)
    fitted = TASK.fit(TASK.read(TABLE), ())
    found = fitted.evaluate(cases, cases, folds=None, bootstrap=Bootstrap(30, 0)).pooled
    first, second = roc_auc_score(truth[:, 0], p[:, 0]), roc_auc_score(truth[10:, 1], p[10:, 1])
    assert found.label_auc["TP53"].value == pytest.approx(first)
    assert found.label_auc["ATRX"].value == pytest.approx(second)
    assert found.macro_auc.value == pytest.approx((first + second) / 2)
    right = (p > 0.5) == (truth == 1)
    assert found.label_accuracy.value == pytest.approx(right[~np.isnan(truth)].mean())
    assert found.exact_match.value == pytest.approx((right | np.isnan(truth)).all(axis=1).mean())


def test_predictions_name_the_labels_that_hold(labels):
    fitted = TASK.fit(labels, ())
    found = fitted.decode(np.array([[2.0, -2.0], [2.0, 2.0], [-1.0, -1.0]]))
    assert found["prediction"].tolist() == ["TP53", "TP53;ATRX", "none"]
    pooled = fitted.pool([fitted.decode(np.array([[2.0, -2.0]])), fitted.decode(np.array([[-1.0, -1.0]]))])
    assert pooled["prediction"].tolist() == ["TP53"]


def test_rare_labels_are_spread_over_folds():
    rare = pd.DataFrame({"genes_TP53": [True] * 30 + [False] * 10, "genes_ATRX": [True] * 4 + [False] * 36}).astype(
        "boolean"
    )
    rare.loc[39, "genes_ATRX"] = pd.NA
    strata = TASK.strata(rare)
    assert strata.sum().to_dict() == {"genes_TP53=1": 30, "genes_TP53=0": 10, "genes_ATRX=1": 4, "genes_ATRX=0": 35}
    for seed in range(5):
        for fold in make_folds(strata, n_folds=4, seed=seed):
            tested = strata.loc[list(fold.test)].sum()
            assert tested["genes_ATRX=1"] == 1
            assert 7 <= tested["genes_TP53=1"] <= 8
            assert 2 <= tested["genes_TP53=0"] <= 3


def test_a_label_without_two_answers_is_refused(labels):
    with pytest.raises(InputError, match="label TP53 is the same for every case"):
        TASK.check(labels.loc[["a", "c"]], folds=2)
    with pytest.raises(InputError, match="multilabel needs several columns"):
        make_task("one", TaskSpec(column=("TP53",), kind="multilabel")).read(TABLE)
    with pytest.raises(InputError, match="write 1 or 0"):
        TASK.read(LabelTable(TABLE.frame.assign(TP53="maybe"), "c.csv"))


def test_the_baselines_of_each_label_come_back_from_json():
    rng = np.random.default_rng(1)
    genes = rng.normal(size=(80, 5))
    train = pd.DataFrame({"genes_TP53": genes[:, 0] > 0, "genes_ATRX": genes[:, 1] > 0}).astype("boolean")
    train.loc[:9, "genes_ATRX"] = pd.NA
    fitted = TASK.fit(train, ())
    baselines = fitted.fit_baselines(train.assign(age=rng.uniform(20, 80, 80)), genes, None, seed=0)
    found = baselines.predict(train.assign(age=50.0), genes, None)
    assert ((found["genes"]["probability_TP53"] > 0.5) == train["genes_TP53"]).mean() > 0.9
    again = fitted.restore_baselines(baselines.to_json()).predict(train.assign(age=50.0), genes, None)
    pd.testing.assert_frame_equal(again["genes"], found["genes"])


def labelled_predictions(n, *, seed=0):
    """Calibrated probabilities of two labels, the second of which is unknown for every third case."""
    rng = np.random.default_rng(seed)
    p = rng.random((n, 2))
    truth = (rng.random((n, 2)) < p).astype(int)
    second = np.where(np.arange(n) % 3 == 0, "?", truth[:, 1].astype(str))
    text = [f"TP53={a};ATRX={b}" for a, b in zip(truth[:, 0], second, strict=True)]
    return pd.DataFrame({"label": text, "probability_TP53": p[:, 0], "probability_ATRX": p[:, 1]})


def test_each_label_has_a_set_with_the_coverage_that_is_promised(labels):
    sets = TASK.fit(labels, ()).sets
    known, new = labelled_predictions(4000), labelled_predictions(4000, seed=1)
    limits = np.tile(thresholds(sets.scores(known)), (len(new), 1))
    found = sets.sets(new, limits)
    covered = sets.covered(found, new)
    assert np.isnan(covered[::3, 1]).all()
    np.testing.assert_allclose(np.nanmean(covered, axis=0), 0.9, atol=0.02)
    answers = new["label"].str.extract(r"TP53=(.);ATRX=(.)")
    possible = pd.Series(found).str.extract(r"TP53=(.);ATRX=(.)")
    assert covered[:, 0].astype(bool).tolist() == ((possible[0] == "?") | (possible[0] == answers[0])).tolist()
    assert sets.sizes(["TP53=1;ATRX=?", "TP53=0;ATRX=1", "TP53=?;ATRX=?"]).tolist() == [1.5, 1, 2]


def test_a_set_leaves_open_what_the_threshold_does_not_decide(labels):
    sets = TASK.fit(labels, ()).sets
    one = pd.DataFrame({"probability_TP53": [0.8], "probability_ATRX": [0.3]})
    assert sets.sets(one, np.array([[0.7, 0.7]])) == ["TP53=1;ATRX=?"]
    assert sets.sets(one, np.array([[0.0, 0.0]])) == ["TP53=1;ATRX=0"]
    assert sets.sets(one, np.array([[np.inf, np.inf]])) == ["TP53=?;ATRX=?"]


def test_a_label_of_which_too_few_are_known_is_left_open(labels):
    sets = TASK.fit(labels, ()).sets
    known = labelled_predictions(20)
    known["label"] = known["label"].str.replace(r"ATRX=.", "ATRX=?", regex=True)
    assert np.isfinite(thresholds(sets.scores(known)))[0]
    assert np.isinf(thresholds(sets.scores(known)))[1]


def probabilities(*rows):
    return pd.DataFrame(rows, columns=["probability_TP53", "probability_ATRX"])


def test_members_are_averaged_and_their_spread_is_that_of_the_labels(labels):
    fitted = TASK.fit(labels, ())
    parts = [probabilities([0.9, 0.2]), probabilities([0.3, 0.4])]
    mean = fitted.mean_prediction(parts)
    assert mean[["probability_TP53", "probability_ATRX"]].to_numpy().tolist() == [
        [pytest.approx(0.6), pytest.approx(0.3)]
    ]
    assert mean["prediction"].tolist() == ["TP53"]
    spread = (np.std([0.9, 0.3], ddof=1) + np.std([0.2, 0.4], ddof=1)) / 2
    assert fitted.disagreement(mean, parts) == pytest.approx([spread])


def test_models_of_folds_are_joined_with_all_their_training_cases(labels):
    fitted = TASK.fit(labels, ())
    other = TASK.fit(labels.iloc[:2], ())
    joined = fitted.joined([other])
    assert (joined.positives, joined.negatives) == ((3, 3), (2, 2))
    assert joined.names == fitted.names
    assert fitted.agrees_with(other)
    renamed = make_task("genes", TaskSpec(column=("TP53", "IDH1"), kind="multilabel"))
    table = LabelTable(TABLE.frame.rename(columns={"ATRX": "IDH1"}), "c.csv")
    assert not fitted.agrees_with(renamed.fit(renamed.read(table), ()))
    assert not fitted.agrees_with(make_task("x", TaskSpec(column=("TP53",), kind="classification")))


def test_ranks_are_compared_within_folds():
    fitted = TASK.fit(TASK.read(TABLE), ())
    cases = probabilities([0.1, 0.6], [0.2, 0.7], [0.8, 0.1], [0.9, 0.2]).assign(
        label=["TP53=0;ATRX=0", "TP53=1;ATRX=1", "TP53=0;ATRX=0", "TP53=1;ATRX=1"]
    )
    folds = np.array([0, 0, 1, 1])
    report = fitted.evaluate(cases, cases, folds=folds, bootstrap=Bootstrap(5, 0))
    assert report.pooled.macro_auc.value == 1
    assert [one.metrics.macro_auc.value for one in report.folds] == [1, 1]
    whole = fitted.evaluate(cases, cases, folds=None, bootstrap=Bootstrap(5, 0))
    assert whole.pooled.macro_auc.value == 0.75  # for either label three of four pairs are in order
    assert whole.folds == ()
    ones = np.ones((1, 4))
    assert fitted.headline_statistic(cases, cases, folds=folds).of(ones) == pytest.approx([1])
    assert fitted.headline_statistic(cases, cases, folds=None).of(ones) == pytest.approx([0.75])


def test_evidence_and_output_speak_of_the_answers_that_are_predicted(labels):
    fitted = TASK.fit(labels, ())
    logits, of = torch.tensor([[2.0, -1.0], [-3.0, 0.5]]), torch.tensor([0.7, -0.1])
    assert fitted.evidence(logits, of).tolist() == pytest.approx([(2 + 1) / 2, (-3 - 0.5) / 2])
    expected = [torch.tensor(pair).sigmoid().mean().item() for pair in ([2.0, 1.0], [-3.0, -0.5])]
    assert fitted.output(logits, of).tolist() == pytest.approx(expected)


def test_rare_answers_are_warned_of_and_a_constant_label_of_a_fold_too():
    labels = pd.DataFrame({"genes_TP53": [True] * 7 + [False] * 3, "genes_ATRX": [True] * 5 + [False] * 5})
    labels = labels.astype("boolean")
    assert TASK.check(labels, folds=3) == []
    (rare,) = TASK.check(labels, folds=4)
    assert rare.startswith("task genes: label TP53 has 3 cases of one answer for 4 folds, so some folds test none;")
    train = labels.iloc[:6]
    assert TASK.check_fold(train, labels, number=2) == [
        "task genes: every training case of fold 2 has the same answer to TP53"
    ]
    assert TASK.summary(labels) == "TP53 7, ATRX 5"


def test_the_most_and_the_least_certain_cases_are_worth_explaining():
    predictions = probabilities([0.6, 0.5], [0.1, 0.9], [0.9, 0.1], [0.7, 0.8])
    assert TASK.certainty(predictions).tolist() == pytest.approx([0.55, 0.9, 0.9, 0.75])
    assert dict(TASK.worth_explaining(predictions)) == {"most certain": [1, 2, 3, 0], "least certain": [0, 3, 2, 1]}


def test_one_column_is_no_multilabel_task_and_unlike_fitted_labels_are_refused(labels):
    one = make_task("genes", TaskSpec(column=("TP53",), kind="multilabel"))
    with pytest.raises(InputError, match="multilabel needs several columns"):
        one.read(TABLE)
    fitted = TASK.fit(labels, ()).to_json()
    for change in ({"names": ("TP53", "IDH1")}, {"columns": ("a", "b")}, {"positives": (2,)}, {"negatives": (1, 1, 1)}):
        with pytest.raises(ValueError, match="labels"):
            TASK.restore(fitted | change)
    with pytest.raises(ValueError, match="training cases of the labels"):
        TASK.restore(fitted | {"positives": (2, -1)})
    assert TASK.restore(fitted | {"positives": (0, 2)}).positives == (0, 2)
    assert TASK.labelled(labels.drop(columns="genes_TP53")).tolist() == [False] * 5
