import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.inference.compatibility import _require_same_tiles, check_cohort, require_encoder
from pipeline.inference.metadata import EncoderMetadata
from pipeline.inference.trained import _require_one_recipe
from preprocessing.features.precomputed import PrecomputedRecipe
from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.stain import StainConfig
from preprocessing.tiling.tiles import TileConfig

TILES = TileConfig(mpp=0.5, tile_px=256)
STORED = PrecomputedRecipe(TILES, {"name": "lite", "fingerprint": "f"})


def predictor(task="grade", tiles=TILES, encoder="lite", kind="DX"):
    return SimpleNamespace(
        task=task, folder=task, metadata=SimpleNamespace(tiles=tiles, encoder=encoder, slide_kind=kind)
    )


def test_features_made_as_the_model_asks_are_taken():
    _require_same_tiles(predictor(), STORED)
    stained = predictor(tiles=TILES.model_copy(update={"stain": StainConfig(method="macenko")}))
    _require_same_tiles(stained, replace(STORED, stain=("macenko", None)))


@pytest.mark.parametrize(
    ("stored", "what"),
    [
        (replace(STORED, tiles=TileConfig(mpp=1.0, tile_px=256)), "resolution"),
        (replace(STORED, tiles=TileConfig(mpp=0.5, tile_px=128)), "tile size"),
        (replace(STORED, tiles=TileConfig(mpp=0.5, tile_px=256, stride_px=128)), "stride"),
        (replace(STORED, stain=("macenko", None)), "stain"),
    ],
)
def test_features_of_another_recipe_are_refused_with_what_differs(stored, what):
    with pytest.raises(InputError, match=rf"the features of the manifest have another {what} "):
        _require_same_tiles(predictor(), stored)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"encoder": "other"}, "encoder"),
        ({"kind": "all"}, "slide kind"),
        ({"tiles": TileConfig(mpp=1.0, tile_px=256)}, "tiles"),
        ({"tiles": TILES.model_copy(update={"stain": StainConfig(method="macenko")})}, "tiles"),
    ],
)
def test_models_of_different_recipes_do_not_predict_together(changed, what):
    _require_one_recipe([predictor(), predictor("subtype")])
    with pytest.raises(InputError, match=rf"the models for grade and subtype were trained with different {what};"):
        _require_one_recipe([predictor(), predictor("subtype", **changed)])


# What a model reads, and what a cohort has

GENES = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 3)), [f"c{i}" for i in range(6)], ["G0", "G1", "G2"])
SCALER = OmicsScaler.fit(OmicsMatrix.from_frame(GENES), None)
ENCODER = {
    **{"name": "uni", "dim": 8, "fingerprint": "f", "pooling": "cls", "precision": "float32"},
    **{"weights_fingerprint": "w", "transform": {"size": 224}},
}
IMPORTED = {"name": "UNI", "dim": 8, "fingerprint": "g", "imported_from": "clam"}


def trained(*, slides=True, genes=True, encoder=ENCODER, known=(), identified=True, reference=None):
    return SimpleNamespace(
        task="grade",
        folder="models/grade",
        reads_slides=slides,
        reads_genes=genes,
        members=[SimpleNamespace(scaler=SCALER if genes else None)],
        reference=reference,
        trained_on=lambda cases: [case for case in cases if case in known],
        metadata=SimpleNamespace(
            tiles=TILES,
            encoder=encoder and EncoderMetadata(**encoder),
            training=SimpleNamespace(cases=() if identified else None),
        ),
    )


def cohort(*, slides=True, genes=GENES, left_out=(), stored=None):
    omics = OmicsMatrix.from_frame(GENES.iloc[:, :0] if genes is None else genes)
    return SimpleNamespace(
        slides=["a slide"] if slides else [],
        left_out=left_out,
        omics=omics,
        precomputed=stored,
        used_cases=lambda: ["c0", "c1", "c2"],
    )


def check(predictors, new, **options):
    check_cohort(load_config({"slides": "s", "genes": "g.csv", **options}), predictors, new)


def test_genes_that_differ_in_capitals_only_are_named():
    with pytest.raises(
        InputError, match=r"2 of them differ in capitals only \(g0 for G0, g2 for G2\); write them as there"
    ):
        check([trained()], cohort(genes=GENES[["G0", "G2"]].set_axis(["g0", "g2"], axis=1)))
    with pytest.raises(InputError, match="use the same gene names"):
        check([trained()], cohort(genes=GENES.set_axis(["x", "y", "z"], axis=1)))


def test_a_model_of_both_predicts_from_either(caplog):
    with caplog.at_level(logging.WARNING):
        check([], cohort(slides=False, genes=None))
        check([trained()], cohort())
        check([trained()], cohort(genes=None))
        check([trained()], cohort(slides=False))
        check([trained(slides=False, encoder=None)], cohort(slides=False))
        check([trained(slides=False, encoder=None), trained()], cohort())
    assert not caplog.records


@pytest.mark.parametrize(
    ("model", "new", "message"),
    [
        ({"slides": False}, {"genes": None}, "reads genes only, and GENES is none; give a gene table"),
        ({"slides": False}, {"slides": False, "left_out": ["broken"], "genes": None}, "reads genes only, and GENES is"),
        ({"genes": False}, {"slides": False}, "reads slides only, and SLIDES is none; give slides"),
        ({"slides": False}, {}, "was trained without slides; give none instead of SLIDES"),
        ({}, {"genes": GENES.set_axis(["A", "B", "C"], axis=1)}, "G0"),
        ({}, {"slides": False, "genes": GENES.set_axis(["A", "B", "C"], axis=1)}, "G0"),
        ({"encoder": IMPORTED}, {}, r"trained on imported features \(UNI, 8 features, imported from clam files\)"),
    ],
)
def test_a_cohort_that_lacks_what_a_model_needs_is_refused(model, new, message):
    with pytest.raises(InputError, match=message):
        check([trained(**model)], cohort(**new))


def test_genes_that_no_model_reads_and_training_cases_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check([trained(genes=False, known=("c1", "c2", "c9"))], cohort())
        check([trained(identified=False)], cohort())
    assert [record.getMessage() for record in caplog.records] == [
        "task grade: 2 cases known from the model's training set, predicted but excluded from all metrics: c1, c2",
        "the model was trained without genes: the gene table is ignored",
        "task grade: the model folder does not identify its training cases; metrics would be optimistically biased if any of "
        "them are in this cohort",
    ]


def test_weights_that_are_not_here_are_refused_before_anything_is_computed(tmp_path):
    config = load_config({"slides": "s", "genes": "g.csv"})
    encoder = config.encoder.model_copy(update={"weights": tmp_path / "w.safetensors"})
    config = config.model_copy(update={"encoder": encoder})
    with pytest.raises(InputError, match=r"trained with uni and the weights .*w.safetensors, which do not exist here"):
        check_cohort(config, [trained()], cohort())
    check_cohort(config, [trained()], cohort(stored=PrecomputedRecipe(TILES, ENCODER)))
    check_cohort(config, [trained()], cohort(slides=False))
    encoder.weights.touch()
    check_cohort(config, [trained()], cohort())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "virchow"}, r"come from another encoder \(virchow, 8 features\)"),
        ({"dim": 9}, r"come from another encoder \(uni, 9 features\)"),
        (
            {"weights_fingerprint": "v"},
            r"computed by uni with other weights \(v\) than those of the model models/grade \(w\)",
        ),
        ({"transform": {"size": 256}}, "with other transform"),
        ({"pooling": "mean"}, "with other pooling"),
        ({"precision": "bfloat16"}, "with other precision"),
    ],
)
def test_features_of_another_encoder_are_refused_with_what_differs(changed, message, caplog):
    check([trained()], cohort(stored=PrecomputedRecipe(TILES, ENCODER)))
    check(
        [trained()],
        cohort(stored=PrecomputedRecipe(TILES, ENCODER | {"fingerprint": "an older network", "name": "Uni"})),
    )
    check([trained()], cohort(stored=PrecomputedRecipe(TILES, ENCODER | changed)))  # the fingerprint decides
    with pytest.raises(InputError, match=message):
        check([trained()], cohort(stored=PrecomputedRecipe(TILES, ENCODER | {"fingerprint": "g"} | changed)))
    assert not caplog.records


@pytest.mark.parametrize(("model", "stored"), [(ENCODER, IMPORTED), (IMPORTED, ENCODER)])
def test_imported_features_of_the_same_name_are_taken_with_a_warning(model, stored, caplog):
    with caplog.at_level(logging.WARNING):
        check([trained(encoder=model)], cohort(stored=PrecomputedRecipe(TILES, stored)))
        check([trained(encoder=model, reference="a cohort")], cohort(stored=PrecomputedRecipe(TILES, stored)))
    first, second = (record.getMessage() for record in caplog.records)
    assert "but weights and preprocessing of imported features cannot be verified" in first
    assert second == first + "; check distribution_shift in predictions.csv"


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("weights_fingerprint", "v", "weights"),
        ("transform", {"size": 256}, "transform"),
        ("pooling", "mean", "pooling"),
        ("dim", 9, "width"),
        ("precision", "bfloat16", "precision"),
    ],
)
def test_the_encoder_here_is_the_models(key, value, what, caplog):
    require_encoder([], ENCODER | {key: value})
    require_encoder([trained(encoder=None)], ENCODER | {key: value})
    with caplog.at_level(logging.WARNING):
        require_encoder([trained()], ENCODER)
        assert not caplog.records
        require_encoder([trained()], ENCODER | {"fingerprint": "another"})
    assert "the installed version of timm defines the network differently" in caplog.text
    with pytest.raises(InputError, match=f"uni has other {what} here"):
        require_encoder([trained()], ENCODER | {key: value})
