from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.case_tables.gene_names import feature_kind
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix, concatenate, covariates, unknown_values

DATA = Path(__file__).resolve().parents[4] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
NAN = float("nan")


def test_take_orders_the_rows(matrix):
    taken = matrix(A=[1, 2, 3]).take(["p2", "p0"])
    assert taken.case_ids == ("p2", "p0")
    assert taken.values.tolist() == [[3], [1]]


def test_saved_and_loaded_is_the_same(tmp_path, matrix):
    saved = matrix(A=[1 / 3, NAN], B_cnv=[-2, 2])
    saved.save(tmp_path / "omics.npz")
    loaded = OmicsMatrix.load(tmp_path / "omics.npz")
    np.testing.assert_array_equal(loaded.values, saved.values)
    assert (loaded.case_ids, loaded.features, loaded.kinds) == (("p0", "p1"), ("A", "B_cnv"), ("rna", "cnv"))
    assert [path.name for path in tmp_path.iterdir()] == ["omics.npz"]


def test_kinds_by_suffix_and_by_table(matrix):
    assert feature_kind("EGFR_cnv") == ("EGFR", "cnv")
    assert feature_kind("RAS_mut") == ("RAS", "mutation")
    assert feature_kind("HLA-A") == ("HLA-A", "rna")
    assert feature_kind("EGFR-cnv") == ("EGFR", "cnv")
    assert feature_kind("NKX2-1-mut") == ("NKX2-1", "mutation")
    assert feature_kind("TGF-beta") == ("TGF-beta", "rna")
    for probe in ("cg00000029", "cg00000029_TC21", "ch.1.131529R"):
        assert feature_kind(probe) == feature_kind(probe, default="rna") == (probe, "methylation")
    table = matrix("mutation", TP53=[0, 1], EGFR_cnv=[1, 2])
    assert table.features == ("TP53_mut", "EGFR_cnv")
    assert table.kinds == ("mutation", "cnv")


def test_concatenated_cases_are_matched_by_id(matrix):
    one = matrix(A=[1, 2])
    other = OmicsMatrix(np.array([[7.0], [8.0]]), ("p1", "p9"), ("A_cnv",), ("cnv",))
    joined = concatenate([one, other])
    assert joined.case_ids == ("p0", "p1", "p9")
    np.testing.assert_array_equal(joined.values, [[1, NAN], [2, 7], [NAN, 8]])
    with pytest.raises(InputError, match="1 duplicate features: A"):
        concatenate([one, one])


def test_covariates_become_numbers():
    frame = pd.DataFrame(
        {
            "age": [50.0, NAN],
            "is_female": pd.array([True, None], "boolean"),
            "grade": pd.array([2, 4], "Int64"),
            "subtype": pd.array(["wt", None], "string"),
        },
        index=["p0", "p1"],
    )
    table = covariates(frame, ["age", "is_female", "grade", "subtype"])
    assert table.features == ("age", "is_female", "grade", "subtype=wt")
    assert set(table.kinds) == {"covariate"}
    np.testing.assert_array_equal(table.values, [[50, 1, 2, 1], [NAN, NAN, 4, NAN]])
    new = covariates(frame, ["subtype"], features=["subtype=mut", "subtype=wt"])
    assert new.values[0].tolist() == [0, 1]
    another = covariates(frame, ["subtype"], features=["subtype=wt", "subtype_2=mut", "subtypes=odd"])
    assert another.features == ("subtype=wt",)


def test_covariates_that_cannot_be_used():
    frame = pd.DataFrame({"age": [NAN], "subtype": ["odd"]}, index=["p0"])
    with pytest.raises(InputError, match='no column "agee"; did you mean "age"'):
        covariates(frame, ["agee"])
    with pytest.raises(InputError, match="column age is empty"):
        covariates(frame, ["age"])


def test_a_value_that_a_trained_model_does_not_know_is_missing():
    frame = pd.DataFrame({"site": ["a", "z", None, "y"], "age": [1, 2, 3, 4]}, index=list("pqrs"))
    known = ["EGFR", "site=a", "site=b", "age"]
    table = covariates(frame, ["site"], features=known)
    np.testing.assert_array_equal(table.values, [[1, 0], [NAN, NAN], [NAN, NAN], [NAN, NAN]])
    assert unknown_values(frame, ["site", "age", "gone"], known) == {"site": ["y", "z"]}
    assert unknown_values(frame, ["site"], ["site=a", "site=y", "site=z"]) == {}
    assert unknown_values(frame, ["site"], ["EGFR"]) == {}  # the model left it out


def test_words_where_a_model_was_trained_on_numbers_and_numbers_where_it_was_on_words_are_unknown():
    frame = pd.DataFrame({"karnofsky": ["good", "80"], "scanner": [1, 2], "age": [50, None]}, index=list("pq"))
    known = ["karnofsky", "scanner=A", "age", "scanner_2"]
    assert unknown_values(frame, list(frame), known) == {"karnofsky": ["80", "good"], "scanner": ["1", "2"]}
    table = covariates(frame, ["karnofsky", "scanner", "age"], features=known)
    assert set(table.features) & set(known) == {"age"}
