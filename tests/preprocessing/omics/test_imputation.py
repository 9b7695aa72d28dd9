import numpy as np
import pytest

from preprocessing.omics.imputation import GeneImputer
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

NAMES = ("A", "B", "C", "D")


@pytest.fixture
def imputer():
    """Of four genes in two directions that two pairs share, with another centre and scale of each."""
    axes = np.array([[1.0, 1, 0, 0], [0, 0, 1, -1]]) / np.sqrt(2)
    return GeneImputer(
        features=NAMES,
        centre=np.array([5.0, 0, 2, 1]),
        scale=np.array([2.0, 1, 3, 1]),
        keeps_zero=np.zeros(4, dtype=bool),
        mean=np.full(4, 0.1),
        axes=axes,
        variances=np.array([3.0, 2.0]),
        residual_variance=0.2,
    )


def test_missing_genes_are_their_expectation_given_the_measured_ones(imputer):
    """By the conditional mean of a normal distribution: μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o)."""
    covariance = imputer.axes.T @ np.diag(imputer.variances - 0.2) @ imputer.axes + 0.2 * np.eye(4)
    z = np.array([1.5, np.nan, np.nan, -0.7])
    measured, missing = [0, 3], [1, 2]
    expected = 0.1 + covariance[np.ix_(missing, measured)] @ np.linalg.solve(
        covariance[np.ix_(measured, measured)], z[measured] - 0.1
    )
    values = (imputer.centre + imputer.scale * z)[None]
    (found,) = imputer.filled(values, NAMES)
    np.testing.assert_allclose(found[missing], imputer.centre[missing] + imputer.scale[missing] * expected)
    np.testing.assert_array_equal(found[measured], values[0][measured])
    assert np.isnan(values[0][missing]).all()  # a copy was filled


def test_cases_without_a_gene_and_other_features_stay_as_they_are(imputer):
    values = np.array([[np.nan, np.nan, 70.0], [8.0, np.nan, np.nan]])
    found = imputer.filled(values, ("A", "B", "age"))
    np.testing.assert_array_equal(found[0], values[0])
    assert found[1, 1] > 0.5  # as A is high
    assert np.isnan(found[1, 2])


def test_an_outlier_does_not_carry_the_missing_genes_with_it(imputer):
    far, further = imputer.filled(np.array([[5 + 2 * 5.0, np.nan], [3515.0, np.nan]]), ("A", "B"))
    assert far[1] == further[1]
    assert further[0] == 3515


def test_a_scaler_with_an_imputer_uses_it_and_never_writes_it(matrix, imputer):
    train = matrix(A=[1, 2, 3, 6, 4], B=[2, 1, 4, 5, 4], C=[0, 3, 1, 2, 2], D=[1, 5, 2, 4, 0])
    scaler = OmicsScaler.fit(train, {"all": list(NAMES)})
    estimating = OmicsScaler(**{**vars(scaler), "imputer": imputer})
    part = OmicsMatrix(np.array([[9.0]]), ("p",), ("A",), ("rna",))
    filled = (imputer.filled(np.array([[9.0, np.nan]]), ("A", "B"))[0, 1] - scaler.centre[1]) / scaler.scale[1]
    assert estimating.scaled(part)[0, 1] == pytest.approx(filled)
    assert estimating.to_json() == scaler.to_json()
