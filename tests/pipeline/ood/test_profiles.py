import numpy as np
import pandas as pd

from pipeline.ood.profiles import SlideKeys, read_genes, read_profiles
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.omics.matrix import OmicsMatrix, concatenate, covariates
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.slide_stats import SlideStats

LOOK = SlideStats(80.0, 0.0, 0.05, 3.0, 0.2, 0.1, 0.2, 0.12, 0.1)


def test_slides_are_read_from_the_store_one_by_one(tmp_path):
    store = FeatureStore(tmp_path / "store")
    cells = np.zeros((40, 2), np.int32)
    features = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
    store.write_features("f", Bag(features, cells, cells), {})
    store.write_slide_stats("t", LOOK, {})
    one, two = read_profiles(store, {"C": [SlideKeys("S1", "f", "t"), SlideKeys("S2", "f", "")]})
    np.testing.assert_allclose(one.mean, features.mean(axis=0))
    assert len(one.tiles) == 16
    assert one.stats == LOOK
    assert two.stats is None


def test_a_cases_share_of_missing_genes_counts_absent_and_empty_ones_and_no_covariates():
    frame = pd.DataFrame({name: [0.0, 1.0, 2.0, 4.0] for name in ("A", "B", "C", "D")}, index=list("wxyz"))
    train = OmicsMatrix.from_frame(frame + np.eye(4))
    scaler = OmicsScaler.fit(train, {"all": ["A", "B", "C", "D"]})
    new = OmicsMatrix.from_frame(pd.DataFrame({"A": [1.0, np.nan], "B": [1.0, 2.0], "X": [0.0, 0.0]}, index=["p", "q"]))
    profiles = read_genes(scaler, new)
    np.testing.assert_allclose(profiles.missing, [0.5, 0.75])
    assert profiles.case_ids == ("p", "q")


def test_covariates_are_no_genes_of_a_profile():
    """The scaler has three genes and age; a case lacks a gene, another one its age."""
    genes = (
        pd.DataFrame({name: [0.0, 1.0, 2.0, 4.0] for name in ("A", "B", "C")}, index=list("wxyz")) + np.eye(4)[:, :3]
    )
    labels = pd.DataFrame({"age": [40.0, 50.0, 60.0, 75.0]}, index=list("wxyz"))
    matrix = concatenate([OmicsMatrix.from_frame(genes), covariates(labels, ["age"])])
    scaler = OmicsScaler.fit(matrix, {"all": ["A", "B", "C"]})
    matrix.values[1, 2], matrix.values[2, 3] = np.nan, np.nan
    profiles = read_genes(scaler, matrix)
    np.testing.assert_allclose(profiles.missing, [0, 1 / 3, 0, 0])
    np.testing.assert_allclose(profiles.values, scaler.scaled(matrix)[:, [scaler.features.index(one) for one in "ABC"]])
