from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from preprocessing.io.errors import InputError
from preprocessing.omics.harmonisation.rescale import rescale, robust_mean_sd, targets_of
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

DATA = Path(__file__).resolve().parents[5] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")


def matrix(values, **kinds):
    features = tuple(f"G{i}" for i in range(values.shape[1]))
    return OmicsMatrix(values, tuple(f"c{i}" for i in range(len(values))), features, ("rna",) * len(features))


def test_of_several_models_the_first_that_has_a_gene_gives_its_distribution():
    random = np.random.default_rng(0)
    first, other = (OmicsScaler.fit(matrix(random.normal(at, 1, size=(30, n))), None) for at, n in ((0, 2), (9, 3)))
    found = targets_of([first, other])
    assert [found[name].centre for name in ("G0", "G1", "G2")] == [*first.centre, other.centre[2]]
    assert [found[name].scale for name in ("G0", "G1", "G2")] == [*first.scale, other.scale[2]]


@pytest.mark.parametrize("method", ["cohort", "rank"])
def test_another_scale_is_mapped_to_that_of_the_training_cases(method):
    random = np.random.default_rng(0)
    train, new = random.normal(size=(80, 6)), random.normal(size=(60, 6))
    scaler = OmicsScaler.fit(matrix(train), None)
    foreign = matrix(new * [1, 2, 3, 0.5, 1, 4] + [7, 8, 9, 10, 3, 2])
    foreign.values[3, 2] = np.nan
    mapped = rescale(foreign, targets_of([scaler]), method)
    np.testing.assert_allclose(np.nanmean(mapped.values, axis=0), scaler.centre, atol=0.1)
    np.testing.assert_allclose(np.nanstd(mapped.values, axis=0), scaler.scale, rtol=0.15)
    assert np.isnan(mapped.values[3, 2])
    np.testing.assert_array_equal(np.argsort(mapped.values[:, 0]), np.argsort(foreign.values[:, 0]))
    assert rescale(foreign, targets_of([scaler]), "none") is foreign


def test_counts_of_a_model_trained_on_counts_stay_counts_and_log_values_become_counts():
    random = np.random.default_rng(1)
    counts = np.round(np.exp2(random.normal(8, 2, size=(60, 5))))
    scaler = OmicsScaler.fit(matrix(counts), None)
    assert scaler.logged.all()
    for values in (counts * 3, np.log2(counts + 1)):
        mapped = rescale(matrix(values), targets_of([scaler]), "cohort")
        assert (mapped.values >= 0).all()
        np.testing.assert_allclose(scaler.scaled(mapped), scaler.scaled(matrix(counts)), atol=0.25)


def test_counts_near_zero_are_those_of_which_the_model_takes_the_logarithm():
    """Of values that have the training cases' distribution already, hardly anything changes, small counts included."""
    random = np.random.default_rng(2)
    counts = np.round(np.exp2(random.normal([1, 2, 8, 9], 0.5, size=(60, 4))))
    scaler = OmicsScaler.fit(matrix(counts), None)
    assert scaler.logged.all()
    mapped = rescale(matrix(counts), targets_of([scaler]), "cohort").values
    np.testing.assert_allclose(np.log2(mapped + 1), np.log2(counts + 1), atol=0.15)


def test_a_few_cases_are_no_cohort():
    scaler = OmicsScaler.fit(matrix(np.random.default_rng(0).normal(size=(30, 3))), None)
    with pytest.raises(InputError, match="--rescale cohort: 5 cases are too few to stand for a cohort"):
        rescale(matrix(np.zeros((5, 3))), targets_of([scaler]), "cohort")


@needs_data
@pytest.mark.parametrize("method", ["cohort", "rank"])
def test_classes_of_real_tumours_survive_another_platform_once_rescaled(method):
    """Trained on z-scores of RNA-seq; tested on other cases as an array would measure them: log2 intensities with a background
    that flattens low values, its own location and gain of each gene, and noise."""
    genes = pd.read_csv(DATA / "gbmlgg/genes.csv.gz", index_col=0)
    subtype = pd.read_csv(DATA / "gbmlgg/cases.csv", index_col=0).loc[genes.index, "subtype"]
    genes, subtype = genes[subtype.notna()], subtype.dropna()
    random = np.random.default_rng(0)
    order = random.permutation(len(genes))
    train, test = order[:300], order[300:]
    z_scores = genes.to_numpy()
    gain, location = random.uniform(0.3, 1.2, z_scores.shape[1]), random.uniform(4, 11, z_scores.shape[1])
    array = np.log2(np.exp2(location + gain * np.clip(z_scores, -4, 6)) + 2**5) + random.normal(
        scale=0.2, size=z_scores.shape
    )
    features = tuple(genes.columns)

    def table(values, rows):
        return OmicsMatrix(values[rows], tuple(genes.index[rows]), features, ("rna",) * len(features))

    scaler = OmicsScaler.fit(table(z_scores, train), None)
    model = LogisticRegression(C=0.01, max_iter=500).fit(scaler.scaled(table(z_scores, train)), subtype.iloc[train])

    def auc(given):
        probabilities = model.predict_proba(scaler.scaled(given))
        return roc_auc_score(subtype.iloc[test], probabilities, multi_class="ovr")

    same, foreign = auc(table(z_scores, test)), auc(table(array, test))
    rescaled = auc(rescale(table(array, test), targets_of([scaler]), method))
    print(f"AUC: same scale {same:.3f}, array as it is {foreign:.3f}, --rescale {method} {rescaled:.3f}")
    assert same > 0.97
    assert foreign < same - 0.1
    assert rescaled > same - 0.03


def test_a_value_far_off_counts_as_five_robust_standard_deviations():
    """The median is 0, the median absolute deviation 1, so that 100 is drawn in to 5 × 1.4826."""
    values = np.array([-1.0, 1.0] * 20 + [0.0, 0.0, 100.0])[:, None]
    expected = np.array([-1.0, 1.0] * 20 + [0.0, 0.0, 5 * 1.4826])
    mean, sd = robust_mean_sd(values)
    np.testing.assert_allclose([mean[0], sd[0]], [expected.mean(), expected.std()])
