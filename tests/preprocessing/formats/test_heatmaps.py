import json

import numpy as np
import openslide
import pytest
import tifffile

from preprocessing.formats.colours import SHARES, SIGNED, Scale, rgb
from preprocessing.formats.h5 import Geometry
from preprocessing.formats.heatmaps import SMALLEST_PX, TileValues, draw, write_heatmap

GEOMETRY = Geometry(256, 0.5, 256, (0.25, 0.26))
SIZE = (9001, 7003)
SPAN = np.array(GEOMETRY.span_px)
CELLS = np.array([(0, 0), (5, 2), (6, 2)])
COORDS = np.rint(CELLS * SPAN).astype(np.int32)


def test_openslide_opens_it_at_the_slides_physical_size(tmp_path):
    path = tmp_path / "h.tiff"
    shares = np.array([0.1, 0.2, 0.7])
    scale = Scale.of_shares(shares, even=1 / 3)
    write_heatmap(path, TileValues("attention", shares, scale), COORDS, GEOMETRY, size_px=SIZE)
    with openslide.OpenSlide(path) as slide:
        mpp = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
        for axis in (0, 1):
            assert abs(slide.dimensions[axis] * mpp[axis] - SIZE[axis] * GEOMETRY.slide_mpp_xy[axis]) < mpp[axis]
        assert slide.level_count == 3
        assert max(slide.level_dimensions[-1]) <= 256
        assert json.loads(slide.properties["openslide.comment"]) == {"name": "attention"} | scale.legend()
        at = np.rint((COORDS[2] + SPAN / 2) * np.array(GEOMETRY.slide_mpp_xy) / mpp).astype(int)
        assert slide.read_region(tuple(at), 0, (1, 1)).getpixel((0, 0))[:3] == rgb(
            SHARES[-1]
        )  # the highest, at its place
        assert slide.read_region((slide.dimensions[0] - 1, 0), 0, (1, 1)).getpixel((0, 0))[:3] == (255, 255, 255)
    with tifffile.TiffFile(path) as tiff:
        assert all(page.is_tiled for page in tiff.pages)
        for page in tiff.pages:  # of each level, the size of its pixels, to which halves are rounded
            per_cm = [page.tags[f"{axis}Resolution"].value for axis in "XY"]
            for side, n, mpp, (above, below) in zip(
                SIZE, page.shape[1::-1], GEOMETRY.slide_mpp_xy, per_cm, strict=True
            ):
                assert n * 10_000 * below / above == pytest.approx(side * mpp, rel=0.01)


def test_a_picture_that_is_no_larger_than_the_smallest_level_has_no_other(tmp_path):
    """At 8 level-0 pixels to one of the picture."""
    geometry, side = Geometry(256, 0.5, 256, (0.5, 0.5)), 8 * SMALLEST_PX
    values = TileValues("prototype", np.array([1]), {1: "#010203"})
    for size, levels in ((side, 1), (side + 8, 2)):
        path = tmp_path / f"{size}.tiff"
        write_heatmap(path, values, np.zeros((1, 2), np.int32), geometry, size_px=(size, size))
        with openslide.OpenSlide(path) as slide:
            assert slide.level_count == levels


def test_prototypes_have_the_colours_that_are_given(tmp_path):
    path = tmp_path / "p.tiff"
    seen = np.array([1, 2, 2])
    write_heatmap(path, TileValues("prototype", seen, {1: "#010203", 2: "#0a0b0c"}), COORDS, GEOMETRY, size_px=SIZE)
    picture = tifffile.imread(path)
    assert {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0)} == {
        (1, 2, 3),
        (10, 11, 12),
        (255, 255, 255),
    }
    with tifffile.TiffFile(path) as tiff:
        assert json.loads(tiff.pages[0].description)["colours"] == {"1": "#010203", "2": "#0a0b0c"}


def test_of_tiles_that_overlap_the_higher_value_is_on_top():
    geometry = Geometry(256, 0.5, 128, (0.5, 0.5))
    coords = np.array([(0, 0), (128, 0)])
    scale = Scale(0.0, 0.5, 1.0, SHARES)
    low_first = draw(TileValues("attention", np.array([0.1, 1.0]), scale), coords, geometry, size_px=(512, 512))
    high_first = draw(TileValues("attention", np.array([1.0, 0.1]), scale), coords, geometry, size_px=(512, 512))
    middle = (slice(4, 28), slice(18, 30))  # of both tiles: level-0 pixels 144 to 240, at 8 a pixel
    assert (low_first[middle] == rgb(SHARES[-1])).all()
    assert (high_first[middle] == rgb(SHARES[-1])).all()


def test_contributions_that_are_all_zero_are_white():
    palette = Scale.signed(np.zeros(1))
    picture = draw(
        TileValues("attention", np.zeros(1), palette), np.zeros((1, 2), np.int32), GEOMETRY, size_px=(512, 512)
    )
    assert picture[0, 0].tolist() == list(rgb(SIGNED[1]))


def test_attention_that_is_nearly_even_has_nearly_one_colour_and_says_so_in_the_picture(tmp_path):
    path, even = tmp_path / "even.tiff", 1 / 400
    cells = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2)
    coords, size = np.rint(cells * SPAN).astype(np.int32), tuple(np.ceil(20 * SPAN).astype(int).tolist())
    shares = even * np.linspace(0.97, 1.03, 400)
    scale = Scale.of_shares(shares, even=even)
    write_heatmap(path, TileValues("attention", shares, scale), coords, GEOMETRY, size_px=size)
    with tifffile.TiffFile(path) as tiff:
        picture = tiff.pages[0].asarray()
        assert json.loads(tiff.pages[0].description)["note"] == "nearly even: not informative"
    label = (picture == 255).all(axis=2)
    rows, columns = np.nonzero(label)
    assert 0 < rows.max() < 0.1 * len(picture)
    assert columns.max() > 0.3 * picture.shape[1]
    tiles = picture[rows.max() + 1 :].reshape(-1, 3).astype(int)
    assert np.ptp(tiles, axis=0).max() < 20  # of the 255 that the scale spans
