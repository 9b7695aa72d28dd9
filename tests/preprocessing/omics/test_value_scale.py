import numpy as np
import pytest

from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.value_scale import describe_features, guess_scale

RNG = np.random.default_rng(0)
TPM = RNG.gamma(0.5, size=(4, 1001))
TPM *= 1e6 / TPM.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([[0, 1], [1, 0]], "0/1 (mutations)"),
        ([[0, 0.5], [1, 0]], "beta values"),
        ([[0, 1], [1, 2]], "log2"),
        ([[0, 1], [-1, 0]], "copy numbers (GISTIC)"),
        ([[0, -2], [2, 1]], "copy numbers (GISTIC)"),
        ([[0, -3], [2, 1]], "log2 ratios"),
        (RNG.normal(size=(50, 4)), "z-scores"),
        (RNG.normal(0.6, 1, size=(50, 4)), "log2 ratios"),
        (RNG.normal(0, 0.25, size=(50, 4)), "log2 ratios"),
        (RNG.normal(0, 2.5, size=(50, 4)), "log2 ratios"),
        ([[0.1, 30.0], [2.0, 3.0]], "log2"),
        ([[0, 31], [2, 3]], "counts"),
        ([[0.5, 31], [2, 3]], "FPKM, TPM or intensities"),
        (TPM, "TPM"),
        (TPM[:, :1000], "FPKM, TPM or intensities"),
        (TPM * 1.2, "FPKM, TPM or intensities"),
        (TPM * 0.8, "FPKM, TPM or intensities"),
        (np.where(np.arange(4)[:, None] == 0, TPM * 1.2, TPM), "FPKM, TPM or intensities"),
    ],
)
def test_the_scale_is_guessed_from_range_and_whole_numbers(values, name):
    values = np.array(values, float)
    assert guess_scale(values).name == name
    with_gap = np.vstack([values, np.full(values.shape[1], np.nan)])
    if "TPM" not in name:  # the total of a case without values is no million
        assert guess_scale(with_gap).name == name


def test_range_and_share_of_missing_values_are_those_of_the_table():
    scale = guess_scale(np.array([[np.nan, -3.5], [4.25, 0.5]]))
    assert (scale.low, scale.high, scale.missing) == (-3.5, 4.25, 0.25)
    assert (
        guess_scale(np.array([[7.25, 40], [31, 33]]))
        .describe()
        .startswith("values 7.25 to 40, 0.0 % missing, probably ")
    )
    nothing = guess_scale(np.full((2, 2), np.nan))
    assert (nothing.name, nothing.missing) == ("unknown", 1)
    assert (guess_scale(np.empty((0, 2))).name, guess_scale(np.empty((0, 2))).missing) == ("unknown", 0)


def test_each_kind_is_described_and_what_is_empty_is_warned_of():
    values = np.array([[1.5, np.nan, 0, 60], [2.5, np.nan, 1, 50], [np.nan, np.nan, 1, 40]])
    matrix = OmicsMatrix(values, ("a", "b", "c"), ("A", "B", "T_mut", "age"), ("rna", "rna", "mutation", "covariate"))
    assert describe_features(matrix) == [
        "rna: 3 cases (a, b, c) × 2 features (A, B), values 1.5 to 2.5, 66.7 % missing, probably log2",
        "warning: rna: 1 of 3 cases have no value at all",
        "warning: rna: 1 of 2 features have no value at all",
        "mutation: 3 cases (a, b, c) × 1 feature (T_mut), values 0 to 1, 0.0 % missing, probably 0/1 (mutations)",
    ]


@pytest.mark.parametrize(
    ("kind", "values", "name"),
    [
        ("cnv", [[-2, 0], [1, 2]], "copy numbers (GISTIC)"),
        ("cnv", [[0, 2], [3, 8]], "numbers of copies"),
        ("cnv", [[0, 1], [1, 0]], "0/1"),
        ("cnv", [[-0.4, 0.1], [0.2, 0.3]], "log2 ratios"),
        ("methylation", [[0.1, 0.9], [0.5, 1]], "beta values"),
        ("methylation", [[10, 90], [0.5, 100]], "percent"),
        ("methylation", [[-3, 2], [0.5, 1]], "M-values"),
        ("methylation", [[300, 9000], [20, 10]], "intensities"),
        ("mutation", [[0, 1], [1, 0]], "0/1 (mutations)"),
        ("mutation", [[0, 3], [1, 0]], "numbers of mutations"),
        ("mutation", [[0, 0.3], [0.25, 0]], "fractions of alleles"),
        ("rna", [[10, 90], [0.5, 100]], "FPKM, TPM or intensities"),
    ],
)
def test_the_scale_is_one_of_the_kind_of_feature(kind, values, name):
    assert guess_scale(np.array(values, dtype=float), kind=kind).name == name
