"""What is in the store is what was written, or it does not count."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from preprocessing.features.arrays import DamagedError, checksum
from preprocessing.features.group_attributes import CHECKED, FORMAT
from preprocessing.features.groups import GroupStore
from preprocessing.features.maintenance import add_checksums, entries, upgrade
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.fingerprints import fingerprint
from preprocessing.tiling.tiles import TiledSlide, TileGrid

N = 700


def make_bag(seed=0):
    rng = np.random.default_rng(seed)
    cells = rng.permutation(2 * N).reshape(N, 2).astype(np.int32)
    return Bag(rng.standard_normal((N, 8)).astype(np.float32), 256 * cells, cells)


def make_tiled(bag):
    grid = TileGrid(bag.coords, bag.cells, 0, (256.0, 256.0), (256.0, 256.0), 256, 0.5)
    mask = np.random.default_rng(1).random((64, 40)) < 0.5
    return TiledSlide(grid, mask, 16.0)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Tiles and features of two slides, in several chunks each."""
    monkeypatch.setattr("preprocessing.features.arrays.CHUNK_BYTES", 4096)
    store = FeatureStore(tmp_path / "store")
    store.prepare()
    for seed, slide in enumerate(("A", "B")):
        store.write_tiles(f"{slide}-k", make_tiled(make_bag(seed)), {"slide_id": slide})
        store.write_features(f"{slide}-k", make_bag(seed), {"slide_id": slide, "encoder": {"name": "uni"}})
    return store


def write_as_format_2(store, name):
    """Turns a group into what earlier versions wrote: no name, no checksums."""
    path = Path(store.place, name, "zarr.json")
    group = json.loads(path.read_text())
    for key in ("name", "checksums", "own_checksum"):
        del group["attributes"][key]
    group["attributes"]["format"] = 2
    path.write_text(json.dumps(group))


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


READERS = {"tiles": FeatureStore.read_tiles, "features": FeatureStore.read_features}
FILES = [
    *(("tiles", name) for name in ("coords/c/0/0", "cells/c/1/0", "mask/c/0/0", "coords/zarr.json", "zarr.json")),
    *(
        ("features", name)
        for name in ("features/c/1/0", "coords/c/0/0", "cells/c/0/0", "features/zarr.json", "zarr.json")
    ),
]


def same(one, other):
    """Whether tiles or features are equal in all that they hold."""
    arrays = [(one.features, one.coords, one.cells), (other.features, other.coords, other.cells)] if hasattr(one, "features") \
        else [(x.grid.coords, x.grid.cells, x.mask) for x in (one, other)]  # fmt: skip
    plain = [str(getattr(x, "grid", "")).partition("level")[2] for x in (one, other)]
    return plain[0] == plain[1] and all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_no_flipped_bit_changes_what_is_read(store, kind, file):
    """At 40 places of each kind of file: it is noticed, or what is read is what was written."""
    path, read = Path(store.place, kind, "A-k", file), READERS[kind]
    before, written, noticed = read(store, "A-k"), path.read_bytes(), 0
    about = Path(store.place, kind, "A-k", "zarr.json")
    attributes = about.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(written), 40):
        about.write_bytes(attributes)
        path.write_bytes(written)
        flip(path, int(bit))
        try:
            found = read(store, "A-k")
        except DamagedError as error:
            noticed += "run again, and it is recomputed" in str(error)
        else:
            assert same(found, before)
    assert noticed >= (40 if "/c/" in file else 10)  # blanks and unused words of a description change nothing


def test_a_group_whose_chunk_was_changed_does_not_count_any_more_and_is_recomputed(store):
    flip(Path(store.place, "features/A-k/features/c/0/0"), 8000)
    assert store.has_features("A-k")  # nobody has read it
    message = (
        r"features/A-k \(slide A\) is damaged: array features does not have the checksum .*; run again, and it is rec"
    )
    with pytest.raises(DamagedError, match=message):
        store.read_features("A-k")
    assert not store.has_features("A-k")
    store.write_features("A-k", make_bag(0), {"slide_id": "A"})
    np.testing.assert_array_equal(store.read_features("A-k").coords, make_bag(0).coords)


@pytest.mark.parametrize("kind", ["tiles", "features"])
def test_groups_that_were_exchanged_do_not_count(store, kind, caplog):
    one, other = (Path(store.place, kind, f"{slide}-k") for slide in "AB")
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)
    for key in ("A-k", "B-k"):
        assert not (store.has_tiles if kind == "tiles" else store.has_features)(key)
        with pytest.raises(DamagedError, match=rf"{kind}/{key} .* under another name; run again"):
            READERS[kind](store, key)
    assert f"{kind}/A-k (slide B) is {kind}/B-k under another name; it is recomputed" in caplog.text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A-k/features/c/0/0", "A-k/features/c/1/0"),  # chunks of an array
        ("A-k/features/c/0/0", "B-k/features/c/0/0"),  # of two slides
        ("A-k/coords", "A-k/cells"),  # arrays of a slide
        ("A-k/coords", "B-k/coords"),
    ],
)
def test_exchanged_chunks_and_arrays_are_noticed(store, one, other):
    one, other = (Path(store.place, "features", name) for name in (one, other))
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    with pytest.raises(DamagedError, match=r"does not have the checksum|is incomplete"):
        store.read_features("A-k")


def test_zeros_in_the_place_of_a_chunk_are_noticed(store):
    chunk = Path(store.place, "tiles/A-k/mask/c/0/0")
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert store.find_tiles("A-k") is None
    assert not store.has_tiles("A-k")
    assert store.has_tiles("B-k")


def test_tiles_that_are_damaged_are_logged_and_not_found(store, caplog):
    flip(Path(store.place, "tiles/A-k/coords/c/0/0"), 900)
    with caplog.at_level(logging.WARNING):
        assert store.find_tiles("A-k") is None
    assert "tiles/A-k (slide A) is damaged" in caplog.text
    assert store.find_tiles("none") is None


@pytest.mark.parametrize("change", [{"n_tiles": 3}, {"mpp": 0.25}, {"slide_id": "B"}, {"note": "mine"}])
def test_attributes_that_were_changed_make_a_group_not_count(store, change):
    path = Path(store.place, "tiles/A-k/zarr.json")
    group = json.loads(path.read_text())
    group["attributes"] |= change
    path.write_text(json.dumps(group))
    assert not store.has_tiles("A-k")
    assert store.count_tiles("A-k") is None
    with pytest.raises(DamagedError, match="has attributes that are not those with which it was written"):
        store.read_tiles("A-k")


def test_imported_features_that_are_damaged_are_to_be_imported_again(store):
    store.write_features("C-k", make_bag(), {"slide_id": "C", "encoder": {"name": "uni", "imported_from": "clam"}})
    flip(Path(store.place, "features/C-k/coords/c/0/0"), 900)
    with pytest.raises(DamagedError, match="import it again from its clam file"):
        store.read_features("C-k")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_damage_in_a_store_that_cannot_be_written_is_reported(store):
    flip(Path(store.place, "features/A-k/coords/c/0/0"), 900)
    Path(store.place, "features/A-k").chmod(0o500)
    with pytest.raises(DamagedError, match="remove it: it could not be marked"):
        store.read_features("A-k")


def test_damage_that_cannot_be_marked_is_reported(store, monkeypatch):
    def fails(*_):
        raise OSError(30, "Read-only file system")

    flip(Path(store.place, "features/A-k/coords/c/0/0"), 900)
    monkeypatch.setattr(GroupStore, "_replace_attributes", fails)
    with pytest.raises(DamagedError, match=r"remove it: it could not be marked \(.*Read-only file system\)"):
        store.read_features("A-k")


@pytest.mark.parametrize("version", CHECKED)
def test_a_group_of_every_format_with_checksums_is_compared_with_them(store, version):
    """The features of another slide are whole in themselves, and as long."""
    path = Path(store.place, "features/A-k/zarr.json")
    group = json.loads(path.read_text())
    attributes = group["attributes"] | {"format": version}
    del attributes["own_checksum"]
    group["attributes"] = attributes | {"own_checksum": fingerprint(attributes)}
    path.write_text(json.dumps(group))
    np.testing.assert_array_equal(store.read_features("A-k").coords, make_bag(0).coords)
    shutil.copytree(
        Path(store.place, "features/B-k/features"), Path(store.place, "features/A-k/features"), dirs_exist_ok=True
    )
    with pytest.raises(DamagedError, match="array features does not have the checksum"):
        store.read_features("A-k")


class TestOlderFormat:
    @pytest.fixture
    def older(self, store):
        """Every group as format 2 had it, and the store's description too."""
        for kind in ("tiles", "features"):
            for key in store.names(kind):
                write_as_format_2(store, f"{kind}/{key}")
        root = json.loads(Path(store.place, "zarr.json").read_text())
        root["attributes"] = {"holds": root["attributes"]["content"], "format": 2}
        Path(store.place, "zarr.json").write_text(json.dumps(root))
        return FeatureStore(store.place)

    def test_is_read_and_counted_as_unchecked(self, older):
        older.check()
        assert older.has_features("A-k")
        np.testing.assert_array_equal(older.read_features("A-k").coords, make_bag(0).coords)
        assert older.read_tiles("A-k").mask.shape == (64, 40)
        assert [(entry.state, entry.has_checksums) for entry in entries(older, stale_hours=24)] == [
            ("whole", False)
        ] * 4

    def test_gets_checksums_that_notice_a_change(self, older):
        for entry in entries(older, stale_hours=24, deep=True):
            add_checksums(older, entry)
        assert all(entry.has_checksums for entry in entries(older, stale_hours=24))
        np.testing.assert_array_equal(older.read_features("A-k").coords, make_bag(0).coords)
        shutil.copytree(
            Path(older.place, "features/B-k/coords"), Path(older.place, "features/A-k/coords"), dirs_exist_ok=True
        )
        with pytest.raises(DamagedError):
            older.read_features("A-k")

    def test_of_another_slide_under_this_name_does_not_count(self, older):
        Path(older.place, "features/A-k").rename(Path(older.place, "features/C-k"))
        assert not older.has_features("C-k")

    def test_is_raised_when_a_run_prepares_the_store(self, older):
        older.prepare()
        assert dict(zarr.open_group(older.place, mode="r").attrs)["format"] == FORMAT
        assert older.has_features("A-k")


def test_a_group_of_format_3_is_read_and_upgraded_to_bytes_that_are_not_packed(tmp_path, monkeypatch):
    """It had names and checksums, and all of its arrays were packed."""
    store = FeatureStore(tmp_path / "store.zarr")
    with monkeypatch.context() as earlier:
        earlier.setattr("preprocessing.features.arrays._is_worth_packing", lambda array: True)
        store.write_features("A-k", make_bag(0), {"slide_id": "A"})
    path = Path(store.place, "features/A-k/zarr.json")
    group = json.loads(path.read_text())
    attributes = {name: value for name, value in group["attributes"].items() if name != "own_checksum"} | {"format": 3}
    path.write_text(json.dumps(group | {"attributes": attributes | {"own_checksum": fingerprint(attributes)}}))
    before = store.read_features("A-k")
    (entry,) = entries(store, stale_hours=24, deep=True)
    assert (entry.state, entry.has_checksums) == ("whole", True)
    assert upgrade(store, entry)
    assert store.attributes("features/A-k")["format"] == FORMAT
    array = json.loads(Path(store.place, "features/A-k/features/zarr.json").read_text())
    assert [codec["name"] for codec in array["codecs"]] == ["bytes", "crc32c"]
    np.testing.assert_array_equal(store.read_features("A-k").features, before.features)
    assert not upgrade(store, next(entries(store, stale_hours=24)))


def test_a_store_whose_description_a_power_cut_has_emptied_is_a_store_still(store):
    for content in (b"", bytes(300)):
        Path(store.place, "zarr.json").write_bytes(content)
        store.check()
        store.prepare()
        assert dict(zarr.open_group(store.place, mode="r").attrs)["format"] == FORMAT
        assert store.has_features("A-k")


def test_a_group_is_on_the_disk_before_it_has_its_name(store, monkeypatch):
    synced, rename = [], os.rename

    def renamed(old, new):
        files = {path for path in Path(old).rglob("*")} | {Path(old)}
        assert files <= set(synced), "renamed before it was on the disk"
        synced.clear()
        rename(old, new)

    monkeypatch.setattr("preprocessing.io.atomic.sync", synced.append)
    monkeypatch.setattr("preprocessing.features.groups.sync", synced.append)
    monkeypatch.setattr("preprocessing.features.groups.os.rename", renamed)
    store.write_features("D-k", make_bag(), {})
    assert synced == [Path(store.place, "features")]  # the new name


def test_zarr_itself_reads_what_is_written(store):
    group = zarr.open_group(Path(store.place, "features/A-k"), mode="r")
    for name in ("features", "coords", "cells"):
        np.testing.assert_array_equal(group[name][...], getattr(store.read_features("A-k"), name))
    assert group["features"].nchunks > 1


def test_the_checksum_is_of_bytes_shape_and_type():
    array = np.arange(12, dtype=np.int32).reshape(6, 2)
    sums = {checksum(array), checksum(array.reshape(2, 6)), checksum(array.view(np.float32)), checksum(array[::-1])}
    assert len(sums) == 4
    assert checksum(np.asfortranarray(array)) == checksum(array.copy()) == checksum(array)
