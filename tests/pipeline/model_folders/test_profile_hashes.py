import numpy as np

from pipeline.model_folders.profile_hashes import FEWEST, N_FEATURES, distinctive_features, profile_hashes
from preprocessing.omics.matrix import OmicsMatrix


def matrix(values, kinds=None):
    cases, genes = values.shape
    names = tuple(f"G{i:02d}" for i in range(genes))
    return OmicsMatrix(values, tuple(f"P{i}" for i in range(cases)), names, tuple(kinds or ("rna",) * genes))


def test_a_profile_is_recognised_under_another_id_among_other_genes_and_after_rounding():
    values = np.random.default_rng(0).normal(8, 2, (12, 30)).round(5)
    trained = matrix(values)
    features = distinctive_features(trained)
    assert len(features) == N_FEATURES
    known = set(profile_hashes(trained, features, "salt").values())
    assert len(known) == 12
    other = OmicsMatrix(
        np.vstack([values[3], values[4] + 0.05])[:, ::-1], ("X", "Y"), trained.features[::-1], trained.kinds
    )
    assert [case for case, mark in profile_hashes(other, features, "salt").items() if mark in known] == ["X"]
    assert not set(profile_hashes(trained, features, "pepper").values()) & known


def test_mutations_gaps_and_covariates_are_not_hashed():
    rng = np.random.default_rng(0)
    values = np.hstack([rng.integers(0, 2, (12, 15)), rng.normal(size=(12, 12))])
    values[0, 15] = np.nan
    kinds = ["mutation"] * 15 + ["rna"] * 11 + ["covariate"]
    assert set(distinctive_features(matrix(values, kinds))) == {f"G{i}" for i in range(16, 26)}
    assert distinctive_features(matrix(values[:, : 15 + FEWEST])) == ()  # of ten genes one has a gap
    assert profile_hashes(matrix(values), (), "salt") == {}
    assert profile_hashes(matrix(values), ("G15",), "salt").keys() == {f"P{i}" for i in range(1, 12)}
    assert profile_hashes(matrix(values), ("absent",), "salt") == {}
