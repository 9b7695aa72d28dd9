from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.explanation.inputs import ExplanationInputs
from preprocessing.omics.harmonisation.batch import CohortScales
from preprocessing.omics.matrix import OmicsMatrix


def test_slides_with_features_are_sorted_by_id_and_options_are_kept(tmp_path):
    rows = [("s2", "a", "k2"), ("s3", "b", ""), ("s1", "a", "k1")]
    pd.DataFrame(rows, columns=["slide_id", "case_id", "features"]).to_csv(tmp_path / "slides.csv", index=False)
    config = load_config({"slides": "slides", "genes": "genes.csv", "store": "store"}, sets=["train.max_patches=9"])
    found = ExplanationInputs.of_run(tmp_path, config, pd.DataFrame(), device="cpu", max_missing=0.25)
    assert found.slides["slide_id"].tolist() == ["s1", "s2"]
    assert (found.store, found.omics, found.device, found.max_missing) == ("store", tmp_path / "omics.npz", "cpu", 0.25)
    assert found.max_patches == 9


@pytest.mark.parametrize("brought_to_one_scale", [True, False])
def test_genes_of_several_cohorts_are_read_as_the_model_was_trained_on_them(tmp_path, brought_to_one_scale):
    """The second cohort has the values of the first, times 3 plus 10; a case of no cohort is not read."""
    values = np.random.default_rng(0).normal(size=(30, 2))
    table = pd.DataFrame(np.concatenate([values, values * 3 + 10, [[0, 0]]]), [f"c{i}" for i in range(61)], ["A", "B"])
    matrix, cohort_of = OmicsMatrix.from_frame(table), {f"c{i}": "one" if i < 30 else "two" for i in range(60)}
    matrix.save(tmp_path / "omics.npz")
    known = matrix.take(list(cohort_of))
    scales = CohortScales.fit(known, cohort_of, known.case_ids).to_json() if brought_to_one_scale else None
    trained = SimpleNamespace(scaler=None, metadata={"cohort_scales": scales})
    inputs = ExplanationInputs(
        "store",
        tmp_path / "omics.npz",
        pd.DataFrame(index=list(table.index)),
        pd.DataFrame(),
        "cpu",
        cohort_of=cohort_of,
    )
    found = inputs.omics_matrix(trained, ["c40", "c60", "c3"])
    if brought_to_one_scale:
        assert found.case_ids == ("c40", "c3")
        np.testing.assert_allclose(found.values, values[[10, 3]])
    else:
        assert found.case_ids == ("c40", "c60", "c3")
        np.testing.assert_array_equal(found.values, table.loc[list(found.case_ids)])


@pytest.mark.parametrize("reads_genes", [True, False])
def test_covariates_of_cases_that_were_left_out_are_no_obstacle(tmp_path, reads_genes):
    """No case with genes has a value of one covariate; of another the model knows two values, and a case left out a third."""
    OmicsMatrix.from_frame(pd.DataFrame({"A": [1.0, 2.0]}, ["c0", "c1"])).save(tmp_path / "omics.npz")
    labels = pd.DataFrame({"site": ["x", "y", "z"], "age": [None, None, 40.0]}, ["c0", "c1", "c2"])
    scaler = SimpleNamespace(features=("A", "site=x", "site=y", "age")) if reads_genes else None
    trained = SimpleNamespace(scaler=scaler, metadata={"covariates": ["site", "age"]})
    inputs = ExplanationInputs("store", tmp_path / "omics.npz", labels, pd.DataFrame(), "cpu")
    found = inputs.omics_matrix(trained, ["c0", "c1", "c2"])
    assert found.case_ids == ("c0", "c1")
    assert found.features == (("A", "site=x", "site=y") if reads_genes else ("A",))
