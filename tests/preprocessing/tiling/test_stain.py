import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from pipeline.config.loading import load_config
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.io.errors import InputError
from preprocessing.tiling.quality import find_glass
from preprocessing.tiling.stain import StainConfig, _ByColours, fit_normaliser
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


# With a stand-in for TIAToolbox, whose estimates are known

LIGHT = np.array([0.7, 0.5, 0.1])  # a stain of the slide, natural optical density
DARK = np.array([0.1, 0.6, 0.3])
OTHER_LIGHT, OTHER_DARK = np.array([0.6, 0.3, 0.3]), np.array([0.2, 0.7, 0.1])  # of the target


def stained(first, second, amounts, size=64):
    """A tile of two stains, the second least where the first is most."""
    rows, columns = 0.2 + 0.8 * np.indices((size, size)) / (size - 1)
    first_amount, second_amount = amounts[0] * rows, amounts[1] * columns
    density = first_amount[..., None] * first + second_amount[..., None] * second
    return np.round(255 * np.exp(-density)).astype(np.uint8), (first_amount, second_amount)


class Reinhard:
    """Statistics of the channels L, a and b, by scikit-image."""

    def get_mean_std(self, image):
        pixels = rgb2lab(image).reshape(-1, 3)
        return pixels.mean(axis=0), pixels.std(axis=0)


@pytest.fixture
def toolbox(monkeypatch):
    """Stands in for TIAToolbox; `stains` are what its Macenko finds in images, one after the other."""
    found = SimpleNamespace(stains=[], target=None)
    modules = {
        "tiatoolbox": {},
        "tiatoolbox.data": {"stain_norm_target": lambda: found.target},
        "tiatoolbox.tools": {},
        "tiatoolbox.tools.stainextract": {
            "MacenkoExtractor": lambda: SimpleNamespace(get_stain_matrix=lambda _: found.stains.pop(0))
        },
        "tiatoolbox.tools.stainnorm": {"ReinhardNormalizer": Reinhard},
        "tiatoolbox.utils": {},
        "tiatoolbox.utils.misc": {
            "get_luminosity_tissue_mask": lambda image, threshold: image.mean(axis=-1) < 255 * threshold
        },
    }
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    return found


def test_macenko_gives_each_amount_the_targets_colour_and_the_targets_maximum(toolbox):
    tile, (first, second) = stained(LIGHT, DARK, (1.0, 2.0))
    toolbox.target, _ = stained(OTHER_LIGHT, OTHER_DARK, (1.5, 1.0))
    toolbox.stains = [np.array([3 * LIGHT, DARK]), np.array([OTHER_LIGHT, 2 * OTHER_DARK])]  # of any length
    normalise, doubt = fit_normaliser(StainConfig(method="macenko"), tile[None])
    assert doubt == ""
    density = 1.5 * first[..., None] * OTHER_LIGHT + 0.5 * second[..., None] * OTHER_DARK
    np.testing.assert_allclose(normalise(tile), 255 * np.exp(-density), atol=4)


def test_vahadane_finds_the_stains_by_itself(toolbox, paint):
    toolbox.target = tissue(paint, seed=1)
    config = StainConfig(method="vahadane")
    plain, shifted = tissue(paint), tissue(paint, strength=1.5)
    to_target, _ = fit_normaliser(config, plain[None])
    from_shifted, doubt = fit_normaliser(config, shifted[None])
    assert doubt == ""
    difference = np.abs(from_shifted(shifted).astype(float) - to_target(plain)).mean()
    assert difference < np.abs(shifted.astype(float) - plain).mean() / 4


def test_vahadanes_first_stain_is_the_one_that_absorbs_more_red_in_slide_and_target(toolbox):
    tile, _ = stained(LIGHT, DARK, (1.0, 2.0))
    toolbox.target, _ = stained(DARK, LIGHT, (2.0, 1.0))  # of the same two stains, transposed
    normalise, _ = fit_normaliser(StainConfig(method="vahadane"), tile[None])
    assert np.abs(normalise(tile).astype(float) - tile).mean() < 5


def test_reinhard_gives_stained_pixels_the_targets_mean_and_deviation_and_leaves_glass(toolbox, tmp_path):
    tile = np.random.default_rng(0).integers(60, 120, (64, 64, 3)).astype(np.uint8)
    target = (tile / 2 + 90).astype(np.uint8)
    target[:32] = tile[:32] = 245
    Image.fromarray(target).save(tmp_path / "target.png")
    config = StainConfig(method="reinhard", target=tmp_path / "target.png")
    normalise, doubt = fit_normaliser(config, tile[None])
    assert doubt == ""
    assert (normalise(tile)[:32] == 245).all()
    found, expected = (rgb2lab(image[32:]).reshape(-1, 3) for image in (normalise(tile), target))
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=1)
    np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), atol=1)


@pytest.mark.parametrize("method", METHODS)
def test_a_normaliser_works_in_another_process(toolbox, method):
    tile, _ = stained(LIGHT, DARK, (1.0, 2.0))
    toolbox.target, _ = stained(OTHER_LIGHT, OTHER_DARK, (1.5, 1.0))
    toolbox.stains = [np.array([LIGHT, DARK]), np.array([OTHER_LIGHT, OTHER_DARK])]
    normalise, _ = fit_normaliser(StainConfig(method=method), tile[None])
    there = pickle.loads(pickle.dumps(normalise))
    np.testing.assert_array_equal(there(tile), normalise(tile))
    assert (there(tile) != tile).any()


@pytest.mark.slow  # TIAToolbox takes half a minute to import
def test_reinhards_colours_are_those_of_tiatoolbox(paint):
    from tiatoolbox.tools.stainnorm import ReinhardNormalizer

    image, toolbox = tissue(paint, strength=1.5), ReinhardNormalizer()
    toolbox.fit(tissue(paint, seed=1))
    (means, deviations), targets = toolbox.get_mean_std(image), (toolbox.target_means, toolbox.target_stds)
    normalise = _ByColours(means, np.divide(targets[1], deviations), targets[0])
    stained = ~find_glass(image)
    assert stained.mean() > 0.5
    np.testing.assert_array_equal(normalise(image)[stained], toolbox.transform(image)[stained])


@pytest.mark.parametrize(
    ("method", "stains", "reason"),
    [
        ("macenko", [[0, 0, 0], DARK], "a stain without a colour"),
        ("macenko", [[np.nan, 1, 1], DARK], "a stain without a colour"),
        ("macenko", [DARK, 2 * DARK], "both stains have the same colour"),
        ("macenko", [-LIGHT, -DARK], "the largest amounts are "),
        ("reinhard", [], "all pixels have the same colour"),
    ],
)
def test_stains_that_are_none_are_the_reason_to_leave_a_slide(toolbox, method, stains, reason):
    tile, _ = stained(LIGHT, DARK, (1.0, 2.0))
    toolbox.target = tile
    toolbox.stains = [np.array(stains), np.array([LIGHT, DARK])]
    plain = np.full((1, 64, 64, 3), 90, np.uint8)
    found = fit_normaliser(StainConfig(method=method), plain if method == "reinhard" else tile[None])
    assert found[0] is None
    assert found[1].startswith(f"stain not normalised: {method} cannot separate two stains ({reason}")


def test_a_slide_of_glass_only_has_no_stains_for_reinhard(toolbox):
    toolbox.target, _ = stained(LIGHT, DARK, (1.0, 2.0))
    found = fit_normaliser(StainConfig(method="reinhard"), np.full((3, 64, 64, 3), 250, np.uint8))
    assert found == (None, "stain not normalised: reinhard cannot separate two stains (only glass)")
