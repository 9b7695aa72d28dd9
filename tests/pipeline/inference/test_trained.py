"""What a model folder is read into, as far as no trained model is needed; see also tests/workflows/test_trained.py."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.inference.metadata import ModelMetadata, TrainingSummary
from pipeline.inference.trained import Predictor, _require_width, _with_stain_target, gene_imputer
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.tiles import TileConfig


def metadata(**stain):
    training = TrainingSummary(n=3, validated={}, conformal=None)
    tiles = TileConfig(stain=stain or {"method": "none"})
    return ModelMetadata(encoder=None, tiles=tiles, slide_kind="DX", covariates=(), defining=(), training=training)


@pytest.mark.parametrize(
    ("model", "encoder", "reads_slides"),
    [
        ("umeml", "an encoder", True),
        ("umeml", None, False),
        ("abmil", "an encoder", True),
        ("snn", "an encoder", False),
    ],
)
def test_a_model_reads_slides_where_it_can_and_was_trained_with_some(model, encoder, reads_slides):
    member, trained_on = SimpleNamespace(model_name=model), SimpleNamespace(encoder=encoder)
    predictor = Predictor("grade", (member,), trained_on, "f", Path("folder"), (), None, None)
    assert predictor.reads_slides is reads_slides


def test_the_stain_target_is_the_copy_in_the_model_folder(tmp_path, monkeypatch):
    trained = metadata(method="macenko", target=Path("/where/it/was/stain_target.png"))
    with pytest.raises(InputError, match=r"lacks the image to which it normalises the stain, stain_target\.png"):
        _with_stain_target(trained, tmp_path)
    (tmp_path / "stain_target.png").touch()
    monkeypatch.chdir(tmp_path.parent)
    found = _with_stain_target(trained, Path(tmp_path.name)).tiles
    assert found.stain.target == tmp_path / "stain_target.png"
    assert found.stain.method == "macenko"
    assert found.model_copy(update={"stain": trained.tiles.stain}) == trained.tiles
    foreign = metadata(method="macenko", target=Path("/where/it/was/other.png"))
    (tmp_path / "other.png").touch()
    with pytest.raises(InputError, match=r"other\.png"):
        _with_stain_target(foreign, tmp_path)


def test_without_a_target_of_its_own_the_stain_stays_as_it_is(tmp_path):
    for trained in (metadata(), metadata(method="macenko")):
        assert _with_stain_target(trained, tmp_path) == trained


def test_the_reference_cohort_must_be_as_wide_as_the_model():
    reference = SimpleNamespace(slides=SimpleNamespace(centre=np.zeros(5)))
    _require_width(reference, 5)
    _require_width(reference, None)
    _require_width(None, 5)
    _require_width(SimpleNamespace(slides=None), 5)
    with pytest.raises(ValueError, match="the reference cohort has patch features of 5 values, the model 4"):
        _require_width(reference, 4)


def test_missing_genes_are_estimated_in_the_scale_of_the_reference_without_covariates():
    table = pd.DataFrame(np.random.default_rng(0).normal(5, 2, (8, 3)), [f"c{i}" for i in range(8)], ["A", "B", "age"])
    matrix = OmicsMatrix(table.to_numpy(), tuple(table.index), ("A", "B", "age"), ("rna", "rna", "covariate"))
    scaler = OmicsScaler.fit(matrix, None)
    genes = SimpleNamespace(
        centre=np.array([0.5, -0.5], np.float32),
        axes=np.eye(2),
        variances=np.array([2, 1], np.float32),
        residual_variance=0.25,
    )
    imputer = gene_imputer(SimpleNamespace(genes=genes), scaler)
    assert imputer is not None
    assert imputer.features == ("A", "B")
    at = [scaler.features.index(name) for name in ("A", "B")]
    np.testing.assert_array_equal(imputer.centre, scaler.centre[at])
    np.testing.assert_array_equal(imputer.scale, scaler.scale[at])
    assert imputer.mean.tolist() == [0.5, -0.5]
    assert (imputer.variances.tolist(), imputer.residual_variance) == ([2, 1], 0.25)
    assert gene_imputer(None, scaler) is gene_imputer(SimpleNamespace(genes=None), scaler) is None
    assert gene_imputer(SimpleNamespace(genes=genes), None) is None
    few = SimpleNamespace(genes=SimpleNamespace(centre=np.zeros(3)))
    with pytest.raises(ValueError, match="the reference cohort has 3 genes, the model 2"):
        gene_imputer(few, scaler)
