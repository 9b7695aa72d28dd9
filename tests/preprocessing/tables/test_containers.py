import numpy as np
import pandas as pd
import pytest

from preprocessing.tables.containers import read_anndata


def test_an_anndata_file_without_annotations_has_a_row_for_each_case(tmp_path):
    anndata = pytest.importorskip("anndata")
    genes = pd.DataFrame(index=["TP53", "IDH1"])
    cases = pd.DataFrame(index=["a", "b", "c"])
    anndata.AnnData(np.eye(3, 2), obs=cases, var=genes).write_h5ad(tmp_path / "x.h5ad")
    table, annotations = read_anndata(tmp_path / "x.h5ad")
    assert table["case_id"].tolist() == annotations.index.tolist() == ["a", "b", "c"]
    assert annotations.columns.empty
