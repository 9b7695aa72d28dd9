import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from preprocessing.formats.geojson import TileObjects, outline, to_geojson
from preprocessing.tiling.masks import read_mask

CORNER = (30, 50)  # of the scanned part


@pytest.fixture
def mask():
    rng = np.random.default_rng(3)
    mask = rng.random((35, 60)) < 0.5  # specks, holes, pixels that touch at a corner
    mask[5:20, 10:40] = True
    mask[10:12, 20:25] = False
    return mask


def write(mask, *, size_px=(1200, 700), corner_px=CORNER, values=None, coords=((700, 60), (828, 60))):
    tiles = TileObjects(np.array(coords), (128.0, 128.0), values or {}, {2: "#010203"})
    text = to_geojson("S", tiles, mask=mask, size_px=size_px, corner_px=corner_px)
    return json.loads(text)["features"]


def test_tissue_reads_back_as_the_very_mask_that_it_was_made_from(mask, corner_slide, tmp_path):
    (tmp_path / "corner.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": write(mask)}))
    found = read_mask(corner_slide, tmp_path, mask.shape, corner_px=CORNER)
    assert np.array_equal(found, mask)
    with_odd_scale = replace(corner_slide, size_px=(1237, 711))
    features = write(mask, size_px=with_odd_scale.size_px)
    (tmp_path / "corner.geojson").write_text(json.dumps(features))
    assert np.array_equal(read_mask(with_odd_scale, tmp_path, mask.shape, corner_px=CORNER), mask)


def test_polygons_are_valid_and_cover_as_much_as_the_mask(mask):
    polygons = [shape(one["geometry"]) for one in write(mask) if one["properties"]["objectType"] == "annotation"]
    assert all(polygon.is_valid and polygon.exterior.is_ccw for polygon in polygons)
    assert sum(polygon.area for polygon in polygons) == pytest.approx(mask.sum() * 20 * 20)  # pixels of 20 × 20
    assert shapely.union_all(polygons).area == pytest.approx(mask.sum() * 20 * 20)


def test_outlines_are_those_of_a_mask_drawn_by_hand():
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    (polygon,) = outline(ring)
    assert polygon.equals(shapely.Polygon([(0, 0), (3, 0), (3, 3), (0, 3)], [[(1, 1), (2, 1), (2, 2), (1, 2)]]))
    assert outline(np.zeros((2, 2), bool)) == []


def test_tiles_are_squares_from_the_scanned_corner_with_what_the_model_sees(mask):
    values = {"prototype": np.array([2, 3]), "attention": np.array([0.25, np.nan])}
    first, second = [one for one in write(mask, values=values) if one["properties"]["objectType"] == "tile"]
    assert shape(first["geometry"]).bounds == (670, 10, 798, 138)
    assert first["properties"]["classification"] == {"name": "prototype 2", "color": [1, 2, 3]}
    assert first["properties"]["measurements"] == {"prototype": 2.0, "attention": 0.25}
    assert second["properties"]["classification"]["name"] == "prototype 3"
    assert second["properties"]["measurements"] == {"prototype": 3.0}  # a gap is no number


def test_the_same_slide_gives_the_same_file_and_no_id_twice(mask):
    features = write(mask)
    assert write(mask) == features
    assert len({one["id"] for one in features}) == len(features)


def test_tiles_of_a_scan_that_is_finer_along_one_side_are_longer_there():
    tiles = TileObjects(np.array([(100, 50)]), (256.0, 128.0))
    (tile,) = json.loads(to_geojson("S", tiles, mask=None, size_px=(1200, 700), corner_px=(0, 0)))["features"]
    assert shape(tile["geometry"]).bounds == (100, 50, 356, 178)
