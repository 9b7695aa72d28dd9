"""Trained models bring their tiles, encoder and slide kind; options that contradict them are refused."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config.loading import load_config
from pipeline.inference.fixed_settings import with_recipe
from pipeline.inference.metadata import EncoderMetadata
from preprocessing.io.errors import InputError
from preprocessing.tiling.tiles import TileConfig

ENCODER = {
    **{"name": "uni", "dim": 1024, "fingerprint": "f", "pooling": "cls", "precision": "float32"},
    **{"weights": "/w/uni.safetensors", "weights_fingerprint": "w", "transform": {"size": 224}},
}


def predictor(*, encoder=ENCODER, model_name="umeml", slide_kind="all", endpoint=None, **tiles):
    tiles = TileConfig(**{"tile_px": 128, "mpp": 0.75, **tiles})
    encoder = EncoderMetadata(**encoder) if encoder else None
    metadata = SimpleNamespace(tiles=tiles, encoder=encoder, slide_kind=slide_kind, endpoint=endpoint)
    return SimpleNamespace(metadata=metadata, model_name=model_name, folder=Path("models/grade"))


def config(*sets, **options):
    return load_config({"slides": "s", "genes": "g.csv", **options}, sets=sets)


def test_the_models_recipe_replaces_what_no_option_sets():
    found = with_recipe(config(), [predictor(), predictor(model_name="abmil"), predictor()])
    assert (found.tiles.tile_px, found.tiles.mpp, found.slide_kind, found.cases) == (128, 0.75, "all", "any")
    assert found.model == ("umeml", "abmil")
    encoder = found.encoder
    assert (encoder.name, encoder.weights, encoder.pooling, encoder.precision) == (
        *("uni", Path("/w/uni.safetensors"), "cls", "float32"),
    )


def test_cases_weights_and_masks_are_the_users(tmp_path):
    tile_masks = tmp_path / "masks"
    tile_masks.mkdir()
    weights = tmp_path / "w.safetensors"
    weights.touch()
    options = {"encoder.weights": str(weights), "tiles.tissue.masks": str(tile_masks), "cases": "both"}
    found = with_recipe(config(**options), [predictor(tissue={"masks": Path("elsewhere")})])
    assert (found.cases, found.encoder.weights, found.tiles.tissue.masks) == ("both", weights, tile_masks)
    assert with_recipe(config(), [predictor(tissue={"masks": Path("elsewhere")})]).tiles.tissue.masks is None


def test_the_endpoint_is_that_of_the_model_and_another_one_is_warned_of(caplog):
    trained = [predictor(), predictor(endpoint="PFI")]
    assert with_recipe(config(), trained).endpoint == "PFI"
    assert with_recipe(config(endpoint="PFI"), trained).endpoint == "PFI"
    assert with_recipe(config(), [predictor()]).endpoint == "OS"
    assert caplog.messages == []
    assert with_recipe(config(endpoint="OS"), trained).endpoint == "OS"
    assert caplog.messages[0].startswith(
        "--endpoint OS: the survival model learned PFI; its risks are compared with OS"
    )


@pytest.mark.parametrize("encoder", [None, {"name": "theirs", "dim": 8, "fingerprint": "f", "imported_from": "clam"}])
def test_an_encoder_that_cannot_compute_here_is_not_configured(encoder):
    before = config()
    assert with_recipe(before, [predictor(encoder=encoder)]).encoder == before.encoder


def test_a_local_folder_of_weights_may_have_moved():
    moved = config("encoder.name=local-dir:/here/vit")
    trained = predictor(encoder=ENCODER | {"name": "local-dir:/there/vit", "weights": None})
    found = with_recipe(moved, [trained]).encoder
    assert (found.name, found.weights) == ("local-dir:/here/vit", None)
    assert with_recipe(config(), [trained]).encoder.name == "local-dir:/there/vit"
    with pytest.raises(InputError, match="--encoder is local-dir:/here/vit, but models/grade was trained with uni"):
        with_recipe(moved, [predictor()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiles.tile_px": 256}, "--tile-px is 256, but models/grade was trained with 128; omit the option"),
        ({"tiles.mpp": 0.5}, "--mpp is 0.5, but models/grade was trained with 0.75"),
        ({"slide_kind": "DX"}, "--slide-kind is DX, but models/grade was trained with all"),
        ({"model": "abmil"}, "--model is abmil, but models/grade was trained with umeml"),
        ({"encoder.name": "resnet18"}, "--encoder is resnet18, but models/grade was trained with uni"),
        ({"encoder.precision": "bfloat16"}, "bfloat16, but models/grade was trained with float32"),
    ],
)
def test_what_contradicts_any_of_the_models_is_refused(options, message):
    agreeing = predictor(tile_px=256, mpp=0.5, slide_kind="DX", model_name="abmil", encoder=None)
    with pytest.raises(InputError, match=message):
        with_recipe(config(**options), [agreeing, predictor()])
    with_recipe(config(**options), [agreeing])


def test_what_agrees_is_accepted():
    options = {"tiles.tile_px": 128, "slide_kind": "all", "model": "umeml,abmil", "encoder.name": "uni"}
    assert with_recipe(config(**options, **{"encoder.precision": "auto"}), [predictor()]).tiles.mpp == 0.75


def test_a_stain_target_is_compared_by_its_bytes(tmp_path):
    paths = [tmp_path / name for name in ("one.png", "same.png", "other.png")]
    for path, content in zip(paths, (b"a", b"a", b"b"), strict=True):
        path.write_bytes(content)
    one, same, other = map(str, paths)
    trained = predictor(stain={"method": "macenko", "target": Path(one)})
    found = with_recipe(config(**{"tiles.stain.method": "macenko", "tiles.stain.target": same}), [trained])
    assert found.tiles.stain.target == Path(one)
    with pytest.raises(InputError, match=r"other\.png, but models/grade was trained with another image"):
        with_recipe(config(**{"tiles.stain.method": "macenko", "tiles.stain.target": other}), [trained])


def test_files_that_only_training_reads_are_not_opened(tmp_path):
    given = {"gene_sets": tmp_path / "no.gmt", "defining_features": tmp_path / "no.csv", "splits": tmp_path / "none"}
    found = with_recipe(config(**given, tumour_genes=["no.txt"], microenvironment_genes=["no.txt"]), [predictor()])
    assert (found.gene_sets, found.defining_features, found.splits) == (None, None, None)
    assert (found.tumour_genes, found.microenvironment_genes) == ((), ())


def test_options_of_training_are_ignored_with_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        with_recipe(config("train.epochs=3", folds=4), [predictor()])
    assert [record.getMessage() for record in caplog.records] == [
        "ignored with --trained, since they concern training only: folds, train.epochs"
    ]
    caplog.clear()
    with_recipe(config("train.max_patches=500", seed=4), [predictor()])  # they apply to prediction, too
    assert not caplog.records
