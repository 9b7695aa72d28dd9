from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.loading import load_config
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.io.errors import InputError
from preprocessing.tiling.stain import StainConfig, fit_normaliser
from preprocessing.tiling.tiles import TileConfig, slide_normaliser, tile_slide

METHODS = ("reinhard", "macenko", "vahadane")


def keys(slide, **stain):
    config = TileConfig(tile_px=64, stain=StainConfig(**stain))
    return tile_key(slide, config), feature_key(slide, config, "encoder")


def test_stain_changes_the_key_of_the_features_and_not_that_of_the_tiles(corner_slide, tmp_path):
    image = tmp_path / "target.png"
    Image.new("RGB", (8, 8), (200, 100, 150)).save(image)
    found = [keys(corner_slide, method=method) for method in ("none", *METHODS)]
    found.append(keys(corner_slide, method="macenko", target=image))
    Image.new("RGB", (8, 8), (200, 100, 151)).save(image)
    found.append(keys(corner_slide, method="macenko", target=image))  # the same name, other bytes
    assert len({tiles for tiles, _ in found}) == 1
    assert len({features for _, features in found}) == len(found)


def test_without_normalisation_the_key_does_not_depend_on_the_target(corner_slide):
    assert keys(corner_slide) == keys(corner_slide, method="none", target=Path("gone.png"))


def test_a_missing_target_is_refused_before_anything_is_computed():
    with pytest.raises(InputError, match=r"tiles.stain.target=gone.png: it is not a file"):
        load_config({"slides": "s", "genes": "g", "tiles.stain.target": "gone.png"})


def tissue(paint, *, strength=1.0, tint=(0.0, 0.0, 0.0), seed=0):
    """A tile of painted tissue, its stain so many times as strong and its light tinted."""
    image = paint(128, 128, (0, 0, 128, 128), seed=seed).astype(float) / 255
    return np.round(255 * 10.0 ** (strength * np.log10(image) - np.array(tint))).clip(0, 255).astype(np.uint8)


@pytest.mark.slow  # TIAToolbox takes half a minute to import
@pytest.mark.parametrize("method", METHODS)
def test_a_shifted_stain_comes_back_to_the_targets(paint, tmp_path, method):
    Image.fromarray(tissue(paint, seed=1)).save(tmp_path / "target.png")
    config = StainConfig(method=method, target=tmp_path / "target.png")
    plain, shifted = tissue(paint), tissue(paint, strength=1.5)
    to_target, doubt = fit_normaliser(config, plain[None])
    from_shifted, other_doubt = fit_normaliser(config, shifted[None])
    assert (doubt, other_doubt) == ("", "")
    before = np.abs(shifted.astype(float) - plain).mean()
    after = np.abs(from_shifted(shifted).astype(float) - to_target(plain)).mean()
    assert after < before / 4
    assert from_shifted(shifted).shape == shifted.shape
    assert from_shifted(shifted).dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_blank_tile_of_a_stained_slide_stays_pale(paint, method):
    normalise, _ = fit_normaliser(StainConfig(method=method), tissue(paint)[None])
    assert normalise(np.full((64, 64, 3), 243, np.uint8)).min() > 180


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_slide_of_one_colour_keeps_it_and_gives_the_reason(method):
    normalise, doubt = fit_normaliser(StainConfig(method=method), np.full((3, 64, 64, 3), 255, np.uint8))
    assert normalise is None
    assert doubt.startswith(f"stain not normalised: {method} cannot separate two stains (")


def test_a_slide_is_read_only_where_its_stain_is_normalised(corner_slide):
    grid = tile_slide(corner_slide, TileConfig(tile_px=64)).grid
    gone = replace(corner_slide, path=corner_slide.path.with_name("gone.svs"))
    assert slide_normaliser(gone.path, grid, StainConfig()) == (None, "")
