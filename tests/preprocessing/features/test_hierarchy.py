"""Any reader of Zarr lists and opens the store."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from preprocessing.features.group_attributes import signed
from preprocessing.features.maintenance import entries, upgrade
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.tiling.tiles import TiledSlide, TileGrid

N = 5


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    place = tmp_path / "features.zarr" if request.param == "folder" else f"memory://{tmp_path.name}.zarr"
    store = FeatureStore(place)
    store.prepare()
    cells = np.arange(2 * N, dtype=np.int32).reshape(N, 2)
    grid = TileGrid(256 * cells, cells, 0, (256.0, 256.0), (256.0, 256.0), 256, 0.5)
    store.write_tiles("A-k", TiledSlide(grid, np.ones((4, 6), bool), 16.0), {"slide_id": "A"})
    features = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
    store.write_features("A-k", Bag(features, 256 * cells, cells), {"slide_id": "A", "encoder": {"name": "uni"}})
    store.write_part("B-k", range(0, N), features)
    return store


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def without_axes(store):
    """Turns a store into what earlier versions wrote: folders that are no groups, and axes without names."""
    for path in Path(store.place).rglob("zarr.json"):
        metadata = json.loads(path.read_text())
        if metadata["node_type"] == "array":
            del metadata["dimension_names"]
            path.write_text(json.dumps(metadata))
        elif not metadata.get("attributes") and path.parent != Path(store.place):
            path.unlink()
    for name in ("tiles/A-k", "features/A-k"):  # whose content, in files and bytes, has changed
        path = Path(store.place, name, "zarr.json")
        attributes = json.loads(path.read_text())["attributes"] | {"content": store._content(name)}
        path.write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": signed(name, attributes)}))


def test_zarr_lists_every_group_and_array_from_the_root(store):
    root = zarr.open_group(store.place, mode="r")
    assert set(root.keys()) >= {"tiles", "features", "parts"}
    names = {name for name, _ in root.members(max_depth=None)}
    assert {"features/A-k/features", "features/A-k/coords", "tiles/A-k/mask", f"parts/B-k/0-{N}/features"} <= names
    assert root["features/A-k"].attrs["slide_id"] == "A"


def test_zarr_and_xarray_read_what_the_store_reads(store):
    expected = store.read_features("A-k")
    group = zarr.open_group(store.place, mode="r")["features/A-k"]
    opened = xarray.open_zarr(f"{store.place}/features/A-k")
    assert opened.features.dims == ("tile", "feature")
    assert opened["coords"].dims == ("tile", "xy")
    for name in ("features", "coords", "cells"):
        np.testing.assert_array_equal(group[name][...], getattr(expected, name))
        np.testing.assert_array_equal(opened[name].to_numpy(), getattr(expected, name))
    assert opened.attrs["encoder"] == {"name": "uni"}


def test_folders_are_no_groups_of_features(store):
    assert store.names("features") == ["A-k"]
    assert store.names("parts") == ["B-k"]
    assert {entry.name for entry in entries(store, stale_hours=24)} == {"tiles/A-k", "features/A-k", f"parts/B-k/0-{N}"}


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_store_of_earlier_versions_is_read_and_upgraded_under_the_same_keys(store):
    before = store.read_features("A-k")
    attributes = store.describe_features("A-k")
    without_axes(store)
    older = FeatureStore(store.place)
    np.testing.assert_array_equal(older.read_features("A-k").features, before.features)
    older.prepare()
    assert [upgrade(older, entry) for entry in entries(older, stale_hours=24)] == [True, True, False]
    assert [upgrade(older, entry) for entry in entries(older, stale_hours=24)] == [False, False, False]
    found = older.read_features("A-k")
    np.testing.assert_array_equal(found.features, before.features)
    assert found.features.dtype == before.features.dtype
    changed = {key for key, value in older.describe_features("A-k").items() if attributes[key] != value}
    assert changed <= {"content", "own_checksum"}
    assert xarray.open_zarr(f"{older.place}/features/A-k").features.dims == ("tile", "feature")
    assert "features" in zarr.open_group(older.place, mode="r")
