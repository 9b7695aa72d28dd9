import numpy as np
import pytest

from preprocessing.omics.doubtful_values import doubts
from preprocessing.omics.matrix import OmicsMatrix

CASES, GENES = 12, 60


def counts():
    """Of a library of uneven genes; the rarest have no more than a logarithm has."""
    rng = np.random.default_rng(0)
    return rng.poisson(np.geomspace(1, 20_000, GENES) * rng.uniform(0.5, 2, (CASES, 1))).astype(float)


def matrix(values, kind="rna"):
    cases, genes = values.shape
    return OmicsMatrix(
        values, tuple(f"P{i}" for i in range(cases)), tuple(f"G{i}" for i in range(genes)), (kind,) * genes
    )


@pytest.mark.parametrize(
    "values", [counts(), np.log2(counts() + 1), counts() - counts().mean(axis=0), counts()[:, :5], counts()[:0]]
)
def test_values_of_one_scale_raise_no_doubt(values):
    assert list(doubts(matrix(values))) == []


def test_cases_with_the_same_values_are_named_in_groups():
    values = counts()
    values[3, 7], values[5] = np.nan, values[2]
    values[[8, 9]] = values[3]
    (warning,) = doubts(matrix(values))
    assert warning.startswith(
        "warning: 5 cases have every value in common with another: P2 = P5, P3 = P8 = P9; if they are "
    )
    assert list(doubts(matrix((values > 30).astype(float), "mutation"))) == []  # few mutations are often alike


@pytest.mark.parametrize("logged", [[4], range(6)])
def test_cases_in_logarithms_among_others_are_named(logged):
    values = counts()
    values[logged] = np.log2(values[logged] + 1)
    (warning,) = doubts(matrix(values))
    assert f"the largest value of {len(logged)} of 12 cases (P{logged[0]}" in warning
    assert list(doubts(matrix(values[:, ::2]))) == []  # of few genes the largest may be anything


def test_genes_in_logarithms_among_others_are_named():
    mixed = np.concatenate([np.log2(counts() + 1)[:, 40:], 1000 + counts()[:, 40:]], axis=1)
    (warning,) = doubts(matrix(mixed))
    assert "the largest value of 20 of 40 features (G0, G1, G2, …)" in warning
    assert list(doubts(matrix(mixed[:, 11:29]))) == []  # nine of either are too few


def test_codes_for_missing_values_are_named():
    values = np.log2(counts() + 1)
    values[3, 7] = values[4, 9] = -999
    (warning,) = doubts(matrix(values))
    assert warning.startswith(
        "warning: 2 features (G7, G9) may have a code for missing values: of G7, -999 in 1 case lies far"
    )


def test_a_case_without_differences_between_its_genes_is_named():
    values = counts()
    values[5] = 0
    (warning,) = doubts(matrix(values))
    assert warning.startswith(
        "warning: 1 case (P5) has the same value for every feature, as of a failed sample; leave the row"
    )
    assert list(doubts(matrix(values, "mutation"))) == []
    values[5] = np.nan
    assert list(doubts(matrix(values))) == []
