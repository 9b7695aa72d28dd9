import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.metrics import Bootstrap
from pipeline.tasks import TaskSpec, make_task
from pipeline.tasks.regression import FittedRegression
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable

TASK = make_task("purity", TaskSpec(column=("Purity",), kind="regression", unit="%"))
FITTED = FittedRegression("purity", 50.0, 10.0)


def labels(*values):
    return pd.DataFrame({"purity": np.array(values, float)}, index=[f"c{i}" for i in range(len(values))])


def predictions(truth, predicted):
    return pd.DataFrame(
        {
            "label": [repr(float(t)) for t in truth],
            "value": np.array(predicted, float),
            "train_mean": 50.0,
            "expected_error": 1.0,
        }
    )


def test_targets_and_predictions_are_in_standard_deviations_of_the_training_cases():
    fitted = TASK.fit(labels(40, 60), ())
    assert fitted == FITTED
    assert fitted.encode(labels(40, 50, 75))[:, 0].tolist() == [-1, 0, 2.5]
    assert fitted.decode(np.array([[-1.0], [2.5]]))["value"].tolist() == [40, 75]
    assert fitted.output(torch.tensor([[-1.0]]), torch.tensor([-1.0])).item() == 40


def test_the_loss_is_the_mean_squared_error_and_the_score_one_for_a_perfect_prediction():
    logits, targets = torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [0.0]], dtype=torch.float64)
    assert FITTED.loss(logits, targets).item() == 2
    assert FITTED.score(logits, targets) == pytest.approx(1 + np.exp(-2))


def test_numbers_are_read_and_text_is_refused():
    table = LabelTable(pd.DataFrame({"Purity": ["12.5", None, "7"]}, index=["a", "b", "c"]), "clinical.csv")
    assert TASK.read(table)["purity"].tolist()[::2] == [12.5, 7]
    worded = LabelTable(pd.DataFrame({"Purity": ["12.5", "high"]}, index=["a", "b"]), "clinical.csv")
    with pytest.raises(InputError, match='column Purity, case b: "high" is not understood; give a plain number'):
        TASK.read(worded)


def test_a_constant_is_refused_and_few_numbers_are_doubted():
    with pytest.raises(InputError, match="every one of the 4 labelled cases has 3: nothing to learn"):
        TASK.check(labels(3, 3, 3, 3), folds=2)
    with pytest.raises(InputError, match="every training case of fold 1 has 3"):
        TASK.check_fold(labels(3, 3), labels(1, 2), number=1)
    (warning,) = TASK.check(labels(0, 1, 0, 1), folds=2)
    assert "if they are classes, use --task purity=Purity:classification" in warning


def test_folds_are_stratified_by_fifths_of_the_label():
    strata = TASK.strata(labels(*np.random.default_rng(0).permutation(20)))
    assert strata.value_counts().to_dict() == dict.fromkeys("01234", 4)
    values = labels(*np.random.default_rng(0).permutation(20))["purity"]
    assert values[strata == "4"].min() == 16


def test_metrics_are_those_of_the_libraries():
    from scipy.stats import spearmanr
    from sklearn.metrics import mean_absolute_error, r2_score

    rng = np.random.default_rng(1)
    truth = rng.normal(50, 10, 40)
    cases = predictions(truth, np.round(truth + rng.normal(0, 8, 40)))
    found = FITTED.evaluate(cases, cases, folds=None, bootstrap=Bootstrap(50, 0)).pooled
    assert found.r2.value == pytest.approx(r2_score(truth, cases["value"]))
    assert found.spearman.value == pytest.approx(spearmanr(truth, cases["value"]).statistic)
    assert found.mae.value == pytest.approx(mean_absolute_error(truth, cases["value"]))
    assert found.calibration_slope.value == pytest.approx(np.polyfit(cases["value"], truth, 1)[0])
    assert found.r2.low < found.r2.value < found.r2.high
    assert found.trivial.metrics["r2"].value == pytest.approx(r2_score(truth, np.full(40, 50.0)))
    assert found.trivial.metrics["spearman"].value is None  # every prediction is the same
    by_fold = FITTED.evaluate(cases, cases, folds=np.arange(40) % 2, bootstrap=Bootstrap(50, 0))
    assert len(by_fold.folds) == by_fold.n_folds == 2


def test_a_constant_of_each_fold_has_no_rank_correlation_over_the_folds():
    cases = predictions(np.arange(40.0), np.arange(40.0)).assign(train_mean=np.arange(40) % 2)
    found = FITTED.evaluate(cases, cases, folds=np.arange(40) % 2, bootstrap=Bootstrap(50, 0)).pooled.trivial
    assert found.metrics["spearman"].value is None
    assert found.metrics["spearman"].reason == "a constant has no rank correlation"
    assert found.metrics["mae"].value is not None


def test_over_folds_the_rank_correlation_is_that_within_them():
    from scipy.stats import rankdata

    rng = np.random.default_rng(3)
    folds = np.arange(30) % 3
    truth, predicted = rng.normal(size=30) - 9 * folds, rng.normal(size=30) + 5 * folds
    ranks = np.array([np.zeros(30)] * 2)
    for one in (folds == 0, folds == 1, folds == 2):
        ranks[:, one] = [rankdata(values[one]) - 5.5 for values in (truth, predicted)]
    cases = predictions(truth, predicted)
    found = FITTED.evaluate(cases, cases, folds=folds, bootstrap=Bootstrap(200, 0)).pooled.spearman
    assert found.value == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert found.low < found.value < found.high


@pytest.mark.parametrize("n", [20, 150])
def test_a_model_that_has_learned_nothing_has_no_rank_correlation_over_folds(n):
    """Ranked over all folds, means of the training cases are against the labels: in a third of such runs significantly."""
    rng = np.random.default_rng(n)
    values, below = [], 0
    for _ in range(40):
        truth, folds = rng.normal(size=n), rng.permutation(n) % 5
        means = np.array([truth[folds != fold].mean() for fold in folds])
        cases = predictions(truth, means + rng.normal(0, 0.05, n))
        found = FITTED.evaluate(cases, cases, folds=folds, bootstrap=Bootstrap(200, 0)).pooled.spearman
        values.append(found.value)
        below += found.high < 0
    assert abs(np.mean(values)) < 0.1
    assert below <= 4


def test_a_resample_counts_a_case_as_often_as_it_is_drawn():
    from scipy.stats import spearmanr

    from pipeline.metrics.regression import calibration_slope, r_squared, spearman

    rng = np.random.default_rng(2)
    truth, predicted = rng.normal(size=12).round(1), rng.normal(size=12).round(1)
    drawn = rng.integers(0, 12, 12)
    weights = np.bincount(drawn, minlength=12)[None].astype(float)
    y, x = truth[drawn], predicted[drawn]
    assert spearman(truth, predicted).of(weights)[0] == pytest.approx(spearmanr(y, x).statistic)
    assert r_squared(truth, predicted).of(weights)[0] == pytest.approx(
        1 - ((y - x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    )
    assert calibration_slope(truth, predicted).of(weights)[0] == pytest.approx(np.polyfit(x, y, 1)[0])


def test_intervals_cover_nine_of_ten_new_cases():
    rng = np.random.default_rng(3)
    truth = rng.normal(50, 10, 2000)
    cases = predictions(truth, truth + rng.normal(0, 5, 2000))
    from pipeline.metrics.conformal import threshold

    limit = threshold(FITTED.sets.scores(cases[:1000]))
    sets = FITTED.sets.sets(cases[1000:], np.full(1000, limit))
    assert FITTED.sets.covered(sets, cases[1000:]).mean() == pytest.approx(0.9, abs=0.03)
    assert FITTED.sets.sizes(sets) == pytest.approx(2 * limit, rel=1e-3)
    assert FITTED.sets.sets(cases[:1], np.array([np.inf])) == ["any"]
    assert FITTED.sets.covered(["any"], cases[:1]).all()
    assert FITTED.sets.sets(predictions([0], [-4.0]), np.array([2.0])) == ["-6 to -2"]


def test_a_case_of_a_model_that_is_twice_as_wrong_counts_half_in_the_calibration():
    cases = predictions([50, 50], [56, 44]).assign(expected_error=[3.0, 6.0])
    assert FITTED.sets.scores(cases).tolist() == [2.0, 1.0]


def test_intervals_are_as_wide_as_the_errors_of_left_out_training_cases():
    """Of a model that is twice as wrong, the same threshold gives intervals twice as wide."""
    left_out = labels(40, 60)
    better, worse = (FITTED.calibrated(np.array([[-1 + off], [1 + off]]), left_out) for off in (0.1, 0.2))
    assert (better.error, worse.error) == (pytest.approx(0.1), pytest.approx(0.2))
    widths = [
        one.sets.sizes(one.sets.sets(one.decode(np.zeros((1, 1))), np.array([1.5])))[0] for one in (better, worse)
    ]
    assert widths == [pytest.approx(2 * 1.5 * 1), pytest.approx(2 * 1.5 * 2)]
    assert FITTED.calibrated(np.zeros((2, 1)), None) == FITTED


def test_the_baselines_find_a_number_that_is_linear_in_genes_and_come_back_from_json():
    rng = np.random.default_rng(4)
    genes = rng.normal(size=(120, 30))
    train = labels(*(50 + 10 * genes[:80, 0] - 5 * genes[:80, 1])).assign(age=rng.uniform(20, 80, 80), is_female=True)
    baselines = FITTED.fit_baselines(train, genes[:80], None, seed=0)
    found = baselines.predict(train.head(40), genes[80:], None)
    truth = 50 + 10 * genes[80:, 0] - 5 * genes[80:, 1]
    assert np.corrcoef(found["genes"]["value"], truth)[0, 1] > 0.99
    assert found["clinical"]["value"].std() < 5
    again = FITTED.restore_baselines(baselines.to_json()).predict(train.head(40), genes[80:], None)
    for name, table in found.items():
        pd.testing.assert_frame_equal(again[name], table)


def test_the_linear_risk_of_a_case_comes_from_a_fit_without_it():
    """A fit of 200 genes to 60 labels of chance is perfect; predictions of cases that it did not see are worth nothing."""
    rng = np.random.default_rng(5)
    genes, chance = rng.normal(size=(60, 200)), rng.normal(50, 10, 60)
    found = FITTED.gene_scores(genes, labels(*chance), seed=0)
    assert np.corrcoef(found.held_out[:, 0], chance)[0, 1] < 0.3
    learned = FITTED.gene_scores(genes[:, :3], labels(*(50 + 10 * genes[:, :3].sum(axis=1))), seed=0)
    assert np.corrcoef(learned.held_out[:, 0], genes[:, :3].sum(axis=1))[0, 1] > 0.99


def test_an_unsound_description_is_refused():
    assert TASK.restore(FITTED.to_json()) == FITTED
    for changed in ({"sd": 0}, {"mean": float("nan")}, {"column": "other"}, {"error": 0}):
        with pytest.raises(ValueError, match="standard deviation"):
            TASK.restore(FITTED.to_json() | changed)


def test_an_ensemble_pools_numbers_and_tells_how_far_its_members_differ():
    parts = [FITTED.decode(np.array([[0.0], [1.0]])), FITTED.decode(np.array([[2.0], [1.0]]))]
    pooled = FITTED.pool(parts)
    assert pooled["value"].tolist() == [60, 60]
    assert FITTED.with_ensemble_sd(pooled, parts)["ensemble_sd"].round(3).tolist() == [14.142, 0]
    assert FITTED.joined([FittedRegression("purity", 70.0, 5.0)]).mean == 60
    assert FITTED.agrees_with(FITTED)


def test_the_cases_worth_explaining_are_extreme_or_wrong():
    table = predictions([10, 20, 30], [12, 20, 5]).set_index(pd.Index(["a", "b", "c"]))
    found = dict(TASK.worth_explaining(table))
    assert found["highest prediction"][0] == "b"
    assert found["lowest prediction"][0] == "c"
    assert found["prediction too high"] == ["a"]
    assert found["prediction too low"] == ["c"]


def test_late_fusion_is_the_mean_of_slides_and_genes():
    rng = np.random.default_rng(0)
    train = labels(*rng.normal(50, 10, 60)).assign(age=rng.normal(60, 9, 60))
    genes = rng.normal(size=(64, 5))
    baselines = FITTED.fit_baselines(train, genes[:60], None, seed=0)
    slides = pd.DataFrame({"value": [10.0, 20, 30, 40]})
    found = baselines.predict(train.head(4), genes[60:], slides)
    assert list(found) == ["clinical", "genes", "slides", "late fusion"]
    assert found["slides"]["value"].tolist() == [10, 20, 30, 40]
    expected = (found["genes"]["value"] + [10, 20, 30, 40]) / 2
    assert found["late fusion"]["value"].tolist() == pytest.approx(expected.tolist())
    assert list(baselines.predict(train.head(4), None, slides)) == ["clinical", "slides"]
    without = FITTED.fit_baselines(train, None, None, seed=0)
    assert list(without.predict(train.head(4), genes[60:], slides)) == ["clinical", "slides"]
    assert FITTED.restore_baselines(without.to_json()).genes is None
