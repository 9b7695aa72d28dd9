from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.inference.compatibility import _require_same_tiles
from pipeline.inference.trained import _require_one_recipe
from preprocessing.features.precomputed import PrecomputedRecipe
from preprocessing.io.errors import InputError
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
