import numpy as np
import pytest
from PIL import Image

from pipeline.explanation.overlays import Thumbnail, draw_thumbnail, over_tissue, save_jpeg
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.tiles import TileConfig, TileGrid, tile_slide

RED, BLUE = np.array([255.0, 0, 0]), np.array([0.0, 0, 255])


def grid(coords, span):
    coords = np.array(coords, np.int32)
    return TileGrid(coords, np.zeros_like(coords), 0, span, span, 256, 0.5)


def test_a_tile_is_drawn_where_it_lies_and_nowhere_else():
    """1000 × 500 px at a quarter: a tile of 100 px at (200, 40) takes columns 50 to 74 and rows 10 to 34."""
    thumbnail = Thumbnail(np.full((125, 250, 3), 200, np.uint8), (1000, 500))
    drawn = over_tissue(thumbnail, grid([[200, 40]], (100.0, 100.0)), RED[None], opacity=1.0)
    is_red = (drawn == RED).all(2)
    rows, columns = np.nonzero(is_red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 34, 50, 74)
    assert is_red.sum() == 25 * 25
    assert (drawn[~is_red] == 200).all()


def test_a_scan_that_is_finer_along_one_side_has_tiles_that_are_longer_there():
    thumbnail = Thumbnail(np.zeros((100, 100, 3), np.uint8), (1000, 1000))
    drawn = over_tissue(thumbnail, grid([[100, 100]], (400.0, 200.0)), RED[None], opacity=1.0)
    rows, columns = np.nonzero(drawn[..., 0])
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (40, 20)


def test_where_tiles_overlap_their_colours_are_mixed():
    thumbnail = Thumbnail(np.zeros((10, 30, 3), np.uint8), (300, 100))
    drawn = over_tissue(thumbnail, grid([[0, 0], [100, 0]], (200.0, 100.0)), np.stack([RED, BLUE]), opacity=1.0)
    assert drawn[5, [5, 15, 25]].tolist() == [[255, 0, 0], [128, 0, 128], [0, 0, 255]]


def test_tissue_shines_through():
    thumbnail = Thumbnail(np.full((10, 10, 3), 100, np.uint8), (10, 10))
    assert over_tissue(thumbnail, grid([[0, 0]], (10.0, 10.0)), RED[None], opacity=0.6)[5, 5].tolist() == [193, 40, 40]


@pytest.mark.parametrize(("mpp", "stride"), [(0.5, None), (0.25, None), (0.5, 100)])
def test_tiles_of_a_real_scan_lie_on_its_tissue(paint, scan, mpp, stride):
    """Whatever the scan's resolution and the stride: all that is drawn is tissue, and every tile's middle is in its colour."""
    slide = scan(paint(2400, 1400, (1300, 120, 2300, 960)), mpp=mpp)
    config = TileConfig(tile_px=128, stride_px=stride, min_tissue=0.9)
    tiles = tile_slide(slide, config).grid
    with SlideReader(slide.path) as reader:
        thumbnail = draw_thumbnail(reader)
    assert max(thumbnail.pixels.shape) == 1024
    drawn = over_tissue(thumbnail, tiles, np.repeat(RED[None], len(tiles), 0), opacity=1.0)
    is_red = (drawn == RED).all(2)
    rows, columns = (np.nonzero(is_red)[i] * (2400 / 1024) for i in (0, 1))
    margin = 0.15 * 128 * 0.5 / mpp + 3  # a tile may lie off the tissue by a tenth, and the detector smoothes
    assert columns.min() > 1300 - margin
    assert columns.max() < 2300 + margin
    assert rows.min() > 120 - margin
    assert rows.max() < 960 + margin
    middle = np.rint((tiles.coords + np.array(tiles.span_px) / 2) * (1024 / 2400)).astype(int)
    assert is_red[middle[:, 1], middle[:, 0]].all()
    area = is_red.sum() * (2400 / 1024) ** 2
    assert area == pytest.approx(len(tiles) * np.prod(tiles.span_px), rel=0.03) or stride


def test_a_picture_is_written_whole(tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # the second replaces the first
        save_jpeg(folder / "a.jpg", np.full((20, 30, 3), (10, 200, 30), np.uint8))
    assert [path.name for path in folder.iterdir()] == ["a.jpg"]
    with Image.open(folder / "a.jpg") as image:
        assert image.size == (30, 20)
        np.testing.assert_allclose(np.asarray(image)[10, 10], (10, 200, 30), atol=3)
