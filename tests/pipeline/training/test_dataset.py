from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.training.dataset import Bags, Dataset, _has_genes, dataset_for
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

WIDTH = 6
A, B, C, D = "angiogenesis", "hypoxia", "repair", "covariate"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Slides s1 (5 patches), s2 (3), s3 (4); every feature tells its slide and its row."""
    folder = tmp_path_factory.mktemp("store")
    for number, rows in ((1, 5), (2, 3), (3, 4)):
        features = (100 * number + np.arange(rows))[:, None] * np.ones((1, WIDTH), np.float32)
        cells = np.column_stack([np.arange(rows), 10 * number + np.arange(rows)]).astype(np.int32)
        FeatureStore(folder).write_features(f"s{number}", Bag(features, cells * 256, cells), {})
    return folder


@pytest.fixture
def bags(store):
    return Bags(store, {"none": (), "two": ("s1", "s2"), "one": ("s3",)})


@pytest.fixture
def data(bags):
    groups = [np.arange(6, dtype=np.float32).reshape(2, 3) + 1, np.array([[7.0], [8.0]], np.float32)]
    return Dataset(bags, bags.width(), {"one": 1, "none": 0}, groups)


def test_a_case_is_all_of_its_slides_in_their_order(bags):
    features, cells = bags.read("two")
    assert features[:, 0].tolist() == [100, 101, 102, 103, 104, 200, 201, 202]
    assert cells.tolist() == [[0, i, 10 + i] for i in range(5)] + [[1, i, 20 + i] for i in range(3)]


def test_width_is_that_of_the_first_case_with_patches(bags, store):
    assert bags.width() == WIDTH
    assert Bags(store, {"none": ()}).width() == 1


def test_a_batch_holds_the_bags_as_they_are_stored_in_the_order_of_the_cases(data):
    batch = data.batch(["one", "two", "none"])
    assert [len(bag) for bag in batch.bags] == [4, 8, 0]
    assert batch.bags[0][:, 0].tolist() == [300, 301, 302, 303]
    assert batch.bags[1][:, 0].tolist() == [100, 101, 102, 103, 104, 200, 201, 202]
    assert batch.cells[0][3].tolist() == [0, 3, 33]
    assert batch.cells[1][7].tolist() == [1, 2, 22]
    assert batch.has_slides.tolist() == [True, True, False]
    features, cells = data.bags.read("two")
    assert batch.bags[1].data_ptr() == features.__array_interface__["data"][0]
    assert batch.bags[1].dtype == torch.float16
    assert batch.cells[1].data_ptr() == cells.__array_interface__["data"][0]


def test_genes_stand_by_their_case_and_are_zero_where_there_are_none(data):
    batch = data.batch(["one", "two", "none"])
    assert batch.has_omics.tolist() == [True, False, True]
    assert batch.omics[0].tolist() == [[4, 5, 6], [0, 0, 0], [1, 2, 3]]
    assert batch.omics[1].tolist() == [[8], [0], [7]]
    assert data.genes(["none", "two", "one"]).tolist() == [[1, 2, 3, 7], [0, 0, 0, 0], [4, 5, 6, 8]]


def test_cases_without_any_slide_make_an_empty_bag(data):
    batch = data.batch(["none"])
    assert len(batch.bags[0]) == 0
    assert not batch.has_slides.any()


def test_a_cut_bag_is_a_random_sample_that_keeps_patch_and_cell_together(data):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        batch = data.batch(["two", "one"], max_patches=4, rng=rng)
        assert [len(bag) for bag in batch.bags] == [4, 4]
        assert batch.bags[1][:, 0].tolist() == [300, 301, 302, 303]
        values, cells = batch.bags[0][:, 0], batch.cells[0]
        assert len(set(values.tolist())) == 4
        slide, row = cells[:, 0], cells[:, 1]
        assert torch.equal(values, 100.0 * (slide + 1) + row)
        seen |= set(values.tolist())
    assert seen == {100, 101, 102, 103, 104, 200, 201, 202}


def test_without_a_generator_a_case_is_always_cut_to_the_same_sample(data):
    bounded = replace(data, bags=replace(data.bags, max_patches=5))
    alone, beside = bounded.batch(["two"]).bags[0], bounded.batch(["one", "two"]).bags[1]
    assert len(alone) == 5
    assert torch.equal(alone, beside)
    assert len(bounded.batch(["two"], max_patches=3).bags[0]) == 3
    assert bounded.cut(["one", "two", "none"]) == ["two"]
    assert data.cut(["one", "two"]) == []


def test_bags_are_kept_up_to_the_bound_and_the_oldest_goes_first(bags, monkeypatch):
    reads = []
    original = FeatureStore.read_features
    monkeypatch.setattr(FeatureStore, "read_features", lambda self, key: reads.append(key) or original(self, key))
    one, two = (sum(array.nbytes for array in bags.read(case)) for case in ("one", "two"))
    assert reads == ["s3", "s1", "s2"]
    bags.read("one"), bags.read("two")
    assert len(reads) == 3
    assert bags._bytes == one + two
    small = Bags(bags.store, bags.keys, keep_bytes=two)
    reads.clear()
    for case in ("one", "two", "two", "one"):
        features, _ = small.read(case)
        assert len(features)
    assert reads == ["s3", "s1", "s2", "s3"]
    assert small._bytes == one


def test_a_bag_larger_than_the_bound_is_still_read(bags):
    bags = Bags(bags.store, bags.keys, keep_bytes=1)
    assert len(bags.read("two")[0]) == len(bags.read("two")[0]) == 8


@pytest.mark.parametrize(
    ("groups", "absent", "there"),
    [
        ([A, B, C], [0, 0, 0], True),
        ([A, B, C], [1, 0, 0], True),
        ([A, B, C], [1, 1, 0], False),  # most groups are absent
        ([A, B], [1, 0], True),
        ([A, B], [1, 1], False),
        ([A, B, D], [1, 1, 0], False),  # covariates are no genes
        ([A, B, D], [0, 0, 1], True),
        ([D], [0], True),  # a model of covariates alone
        ([D], [1], False),
    ],
)
def test_where_most_groups_of_genes_are_absent_the_genes_are(groups, absent, there):
    assert _has_genes(np.array([absent], bool), groups).tolist() == [there]


def test_a_gene_group_that_a_case_lacks_has_the_training_cases_average_and_not_a_neutral_zero():
    """The median, for which a missing value stands, is not the mean: two groups, of which the second case lacks one."""
    frame = pd.DataFrame({"A": [0.0, 0, 0, 1, 9], "B": [0.0, 1, 2, 3, 50], "C": [1.0, 2, 3, 4, 5]}, list("vwxyz"))
    scaler = OmicsScaler.fit(
        OmicsMatrix.from_frame(frame), {"one": ["A", "B"], "two": ["C"]}, OmicsConfig(axes="genes")
    )
    new = OmicsMatrix.from_frame(pd.DataFrame({"A": [1.0, np.nan], "B": [2.0, 7.0], "C": [3.0, 4.0]}, ["p", "q"]))
    whole, absent = (dataset_for(scaler, new, Bags("store", {}), patch_dim=1, max_missing=most) for most in (0.9, 0.4))
    average = scaler.average()[0]
    assert np.abs(average).min() > 0.1
    np.testing.assert_array_equal(absent.omics[0][1], average)
    assert (whole.omics[0][1] != average).any()  # B was measured
    np.testing.assert_array_equal(absent.omics[0][0], whole.omics[0][0])
    np.testing.assert_array_equal(absent.omics[1], whole.omics[1])
    assert absent.rows == {"p": 0, "q": 1}
