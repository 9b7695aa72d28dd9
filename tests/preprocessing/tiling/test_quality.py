from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from preprocessing.tiling.quality import QualityConfig, find_glass, measure_empty, measure_sharpness

DATA = Path(__file__).parents[3].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real regions are not at ../shared/data")


def grey(levels):
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=2)


def tiles(path, *, sigma=0.0):
    image = np.array(Image.open(path).convert("RGB"), np.float32)
    image = gaussian_filter(image, (sigma, sigma, 0)) if sigma else image
    image = image.round().clip(0, 255).astype(np.uint8)
    return [image[y : y + 256, x : x + 256] for y in range(0, 1024, 256) for x in range(0, 1024, 256)]


def test_sharpness_is_the_variance_of_the_laplacian():
    tile = np.full((5, 5), 100)
    tile[2, 2] = 110
    # Inside the border the Laplacian is −40 at the point, 10 at its four neighbours and 0 at the four corners.
    assert measure_sharpness(grey(tile)) == pytest.approx((40**2 + 4 * 10**2) / 9)  # the mean is 0


def test_neither_brightness_nor_a_slope_is_sharpness():
    assert measure_sharpness(grey(np.full((32, 32), 77))) == 0
    assert measure_sharpness(grey(np.add.outer(np.arange(32), 2 * np.arange(32)))) == pytest.approx(0, abs=1e-6)


def test_empty_is_bare_glass_and_black_padding():
    tile = np.zeros((1, 10, 3), np.uint8)
    tile[0, :3] = (240, 242, 238)  # glass
    tile[0, 3] = (235, 225, 216)  # a little yellowed
    tile[0, 4] = (250, 225, 240)  # pale pink
    tile[0, 5] = (205, 205, 205)  # too dark for glass
    tile[0, 6] = (70, 30, 90)  # a nucleus
    tile[0, 7] = (3, 0, 26)  # not black
    assert measure_empty(tile) == pytest.approx(0.6)  # three of glass, one yellowed, two black


def test_glass_is_bright_in_every_channel_and_colourless():
    pixels = {
        (210, 210, 210): True,
        (209, 215, 220): False,  # the darkest channel counts
        (230, 220, 210): True,
        (231, 220, 210): False,  # pink beyond glass
        (255, 255, 255): True,
    }
    assert find_glass(np.array(list(pixels), np.uint8)).tolist() == list(pixels.values())


@pytest.mark.parametrize(
    ("settings", "on"),
    [({}, False), ({"min_sharpness": 5}, True), ({"max_empty": 0.0}, True), ({"max_empty": 1.0}, True)],
)
def test_filters_are_off_by_default(settings, on):
    assert QualityConfig(**settings).on is on


@needs_data
def test_real_glioma_has_the_sharpness_that_the_settings_tell():
    ranges = {0: (510, 2863), 1: (64, 197), 2: (10.5, 20), 4: (2.6, 4)}
    for sigma, (low, high) in ranges.items():
        values = [measure_sharpness(t) for p in (DATA / "rois/glioma").glob("*.png") for t in tiles(p, sigma=sigma)]
        assert len(values) == 48
        assert low <= min(values) <= 1.05 * low, sigma
        assert 0.95 * high <= max(values) <= high, sigma


@needs_data
def test_real_tissue_is_not_empty_and_real_glass_is():
    for path in (DATA / "rois/glioma").glob("*.png"):
        assert max(measure_empty(tile) for tile in tiles(path)) < 0.3
    for name in ("almost-white-1", "no-tissue", "no-tissue2"):
        picture = Image.open(DATA / f"rois/artefacts/{name}.png").convert("RGB")
        assert measure_empty(np.array(picture)) > 0.97
