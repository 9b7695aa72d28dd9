from dataclasses import replace
from types import SimpleNamespace

import pytest

from preprocessing.features.precomputed import PrecomputedRecipe, precomputed_slide
from preprocessing.io.errors import SlideError
from preprocessing.tiling.tiles import TileConfig

RECIPE = PrecomputedRecipe(TileConfig(mpp=0.5, tile_px=256), {"name": "lite", "fingerprint": "f"}, ("macenko", None))


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, encoder={"name": "lite", "fingerprint": "g"}),
        replace(RECIPE, tiles=TileConfig(mpp=1.0, tile_px=256)),
        replace(RECIPE, tiles=TileConfig(mpp=0.5, tile_px=512)),
        replace(RECIPE, tiles=TileConfig(mpp=0.5, tile_px=256, stride_px=128)),
        replace(RECIPE, stain=None),
        replace(RECIPE, stain=("macenko", "a target")),
        replace(RECIPE, stain=("reinhard", None)),
    ],
    ids=["encoder", "resolution", "size", "stride", "no stain", "target", "method"],
)
def test_features_of_which_one_part_of_the_recipe_differs_are_not_one_cohorts(other):
    assert other.identity() != RECIPE.identity()


def test_a_stride_of_a_tile_is_no_stride():
    assert replace(RECIPE, tiles=TileConfig(mpp=0.5, tile_px=256, stride_px=256)).identity() == RECIPE.identity()


def test_a_slide_without_features_is_left_out_with_the_reason():
    file = SimpleNamespace(features="")
    with pytest.raises(SlideError, match="the manifest names no features of it"):
        precomputed_slide(file, store=None)
    gone = SimpleNamespace(place="s.zarr", describe_features=lambda key: None)
    with pytest.raises(SlideError, match=r"store s\.zarr: its features k1 are not there"):
        precomputed_slide(SimpleNamespace(features="k1"), gone)
