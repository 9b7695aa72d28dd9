from dataclasses import replace

import numpy as np
import pytest

from preprocessing.tiling.slide_stats import STAINS, measure_slide, measure_stain
from preprocessing.tiling.tiles import TileConfig, sample_rows, tile_slide

CONFIG = TileConfig(tile_px=64)


def look(scan, image):
    slide = scan(image)
    return measure_slide(slide, tile_slide(slide, CONFIG))


def pixels(density):
    return np.round(255 * 10.0 ** -np.asarray(density, float)).astype(np.uint8)


def test_amounts_of_stain_are_those_that_were_mixed():
    haematoxylin, eosin = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    stats = measure_stain(pixels([0.6 * haematoxylin + 0.2 * eosin, 0.2 * haematoxylin + 0.4 * eosin]))
    assert stats["haematoxylin"] == pytest.approx(0.4, abs=0.01)
    assert stats["eosin"] == pytest.approx(0.3, abs=0.01)
    assert stats["other_colour"] == pytest.approx(0, abs=0.02)


def test_brown_is_a_colour_of_neither_stain():
    assert measure_stain(pixels([[0.27, 0.57, 0.78]]))["other_colour"] > 0.3


def test_density_and_contrast_leave_bare_glass_out():
    stats = measure_stain(pixels([[0.4, 0.4, 0.4], [0.6, 0.6, 0.6], [0.01, 0.01, 0.01]]))
    assert stats["density"] == pytest.approx(0.5, abs=0.01)
    assert stats["contrast"] == pytest.approx(0.1, abs=0.01)


def test_of_bare_glass_there_is_no_stain():
    assert all(np.isnan(value) for value in measure_stain(pixels([[0.01, 0.01, 0.01]])).values())


def test_tissue_is_measured_in_square_millimetres(scan, paint):
    stats = look(scan, paint(1200, 700, (200, 100, 1000, 600)))
    assert stats.tissue_mm2 == pytest.approx(800 * 500 * 0.25 / 1e6, rel=0.1)  # at 0.5 µm a pixel
    assert stats.ink == pytest.approx(0, abs=0.01)


def test_tissue_of_a_scan_that_is_finer_along_one_side_is_measured_by_both(scan, paint):
    slide = replace(scan(paint(1200, 700, (200, 100, 1000, 600))), mpp_xy=(0.3, 0.7))
    stats = measure_slide(slide, tile_slide(slide, CONFIG))
    assert stats.tissue_mm2 == pytest.approx(800 * 500 * 0.3 * 0.7 / 1e6, rel=0.1)


def test_ink_is_a_share_of_what_lies_on_the_glass(scan, paint):
    image = paint(1200, 700, (100, 100, 600, 600))
    image[100:600, 700:950] = (60, 150, 70)  # green pen, half as large as the tissue
    assert look(scan, image).ink == pytest.approx(1 / 3, abs=0.06)


def test_a_blurred_scan_is_less_sharp(scan, paint):
    sharp = look(scan, paint(700, 700, (50, 50, 650, 650), grain_px=1.5))
    blurred = look(scan, paint(700, 700, (50, 50, 650, 650), grain_px=6))
    assert blurred.sharpness < sharp.sharpness - 0.5


def test_a_sample_is_spread_from_the_first_to_the_last():
    assert sample_rows(5, 3).tolist() == [0, 2, 4]
    assert sample_rows(2, 3).tolist() == [0, 1]
