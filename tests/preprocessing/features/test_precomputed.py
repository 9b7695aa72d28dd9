from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from preprocessing.features.precomputed import PrecomputedRecipe, precomputed_recipe, precomputed_slide
from preprocessing.io.errors import InputError, SlideError
from preprocessing.slides.slide import SlideFile
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


ATTRIBUTES = {
    "slide_mpp_xy": [0.25, 0.26],
    "slide_mpp_source": "manifest",
    "slide_size_px": [900, 700],
    "slide_fingerprint": "scan",
    "slide_hash": "full",
    "recipe": {"mpp": 0.5, "tile_px": 256},
    "encoder": {"name": "lite", "fingerprint": "f"},
    "stain": {"method": "macenko", "target": None},
}


def store(**by_key):
    return SimpleNamespace(place="s.zarr", describe_features=by_key.get)


def test_a_slide_is_as_the_attributes_of_its_features_describe_it():
    file = SlideFile("S", "C", Path("S.svs"), features="k")
    slide = precomputed_slide(file, store(k=ATTRIBUTES))
    assert (slide.slide_id, slide.case_id, slide.path, slide.features) == ("S", "C", Path("S.svs"), "k")
    assert (slide.mpp_xy, slide.mpp_source, slide.size_px) == ((0.25, 0.26), "manifest", (900, 700))
    assert (slide.fingerprint, slide.hashed) == ("scan", "full")
    older = {name: value for name, value in ATTRIBUTES.items() if name != "slide_hash"} | {"slide_size_px": None}
    slide = precomputed_slide(file, store(k=older))
    assert (slide.size_px, slide.hashed) == ((0, 0), "sampled")


def test_the_recipe_is_that_of_all_slides_and_differences_are_refused_with_both():
    other = ATTRIBUTES | {"encoder": {"name": "uni", "fingerprint": "g", "imported_from": "clam"}, "stain": None}
    slides = [precomputed_slide(SlideFile(key, "C", Path("S.svs"), features=key), store(a=ATTRIBUTES)) for key in "a"]
    assert precomputed_recipe(slides, store(a=ATTRIBUTES)) == RECIPE
    slides.append(replace(slides[0], slide_id="T", features="b"))
    assert precomputed_recipe(slides, store(a=ATTRIBUTES, b=ATTRIBUTES)) == RECIPE
    message = (
        "a has precomputed features: lite, tiles of 256 pixels at 0.5 µm per pixel, stain macenko; .*; "
        r"T has precomputed features: uni \(imported from clam files\), tiles of 256 pixels at 0.5 µm per pixel; nothing"
    )
    with pytest.raises(InputError, match=message):
        precomputed_recipe(slides, store(a=ATTRIBUTES, b=other))
    with pytest.raises(InputError, match=r"store s\.zarr: b is no longer complete; import it again"):
        precomputed_recipe(slides, store(a=ATTRIBUTES))
