import pandas as pd

from pipeline.config.loading import load_config
from pipeline.explanation.inputs import ExplanationInputs


def test_slides_with_features_are_sorted_by_id_and_options_are_kept(tmp_path):
    rows = [("s2", "a", "k2"), ("s3", "b", ""), ("s1", "a", "k1")]
    pd.DataFrame(rows, columns=["slide_id", "case_id", "features"]).to_csv(tmp_path / "slides.csv", index=False)
    config = load_config({"slides": "slides", "genes": "genes.csv", "store": "store"}, sets=["train.max_patches=9"])
    found = ExplanationInputs.of_run(tmp_path, config, pd.DataFrame(), device="cpu", max_missing=0.25)
    assert found.slides["slide_id"].tolist() == ["s1", "s2"]
    assert (found.store, found.omics, found.device, found.max_missing) == ("store", tmp_path / "omics.npz", "cpu", 0.25)
    assert found.max_patches == 9
