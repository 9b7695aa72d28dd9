import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from preprocessing.features import maintenance
from preprocessing.features.group_attributes import FORMAT
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.fingerprints import fingerprint
from preprocessing.tiling.slide_stats import SlideStats
from preprocessing.tiling.tiles import TiledSlide, TileGrid
from workflows.commands import store as command
from workflows.commands.store import main

LOOK = SlideStats(1.0, 0.0, 0.1, 3.0, 0.2, 0.1, 0.2, 0.1, 0.2)
RECIPE = {"recipe": {"tile_px": 256, "mpp": 0.5}}


def fill(store, slide, encoders=("uni",)):
    cells = np.array([[0, 0], [1, 0], [2, 0]], np.int32)
    attributes = {"slide_id": slide, **RECIPE}
    grid = TileGrid(cells * 256, cells, 0, (256, 256), (256, 256), 256, 0.5)
    store.write_tiles(f"{slide}-t", TiledSlide(grid, np.ones((4, 4), bool), 16.0), attributes)
    store.write_slide_stats(f"{slide}-t", LOOK, attributes)
    for encoder in encoders:
        bag = Bag(np.ones((3, 8), np.float32), cells * 256, cells)
        store.write_features(f"{slide}-{encoder}", bag, attributes | {"encoder": {"name": encoder}})


@pytest.fixture
def store(tmp_path):
    """Two slides, embedded by two encoders."""
    store = FeatureStore(tmp_path / "store.zarr")
    store.prepare()
    for slide in ("S1", "S2"):
        fill(store, slide, ("uni", "virchow2"))
    return store


@pytest.fixture(params=["folder", "memory"])
def anywhere(request, tmp_path):
    place = tmp_path / "store.zarr" if request.param == "folder" else f"memory://{tmp_path.name}.zarr"
    store = FeatureStore(place)
    store.prepare()
    fill(store, "S1")
    return store


def groups(store):
    return {f"{kind}/{key}" for kind in ("tiles", "slide_stats", "features", "parts") for key in store.names(kind)}


def lose_chunk(store, name):
    (Path(store.place) / name / "features" / "c" / "0" / "0").unlink()


def test_ls_reports_encoders_recipes_and_slides(store, capsys):
    assert main(["ls", store.place]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"features +uni +256 px at 0.5 µm +whole +2 +2 ", printed)
    assert re.search(r"features +virchow2 +256 px at 0.5 µm +whole +2 +2 ", printed)
    assert "2 slides, 8 groups" in printed
    files = [path for kind in ("tiles", "slide_stats", "features") for path in Path(store.place, kind).rglob("*")]
    size = sum(path.stat().st_size for path in files if path.is_file() and path.parent.parent != Path(store.place))
    assert f"{size / 1024:.1f} KiB" in printed


def test_ls_reports_group_by_group(store, capsys):
    assert main(["ls", store.place, "--slides"]) == 0
    assert re.search(r"features/S2-virchow2 +S2 +virchow2 ", capsys.readouterr().out)


def test_check_finds_a_lost_file_and_prune_removes_that_group_alone(store, capsys):
    before = groups(store)
    assert main(["check", store.place]) == 0
    lose_chunk(store, "features/S1-uni")
    assert main(["check", store.place]) == command.DAMAGED
    printed = capsys.readouterr().out
    assert "damaged: features/S1-uni" in printed
    assert "7 groups complete (contents not read; use --deep to verify them), 1 damaged" in printed
    assert ", 0 left behind; prune removes" in printed
    assert main(["prune", store.place, "--dry-run"]) == 0
    assert groups(store) == before
    assert main(["prune", store.place, "--yes"]) == 0
    assert groups(store) == before - {"features/S1-uni"}
    assert main(["check", store.place]) == 0


def test_check_says_that_contents_are_read_by_a_deep_check_only(store, capsys):
    chunk = Path(store.place) / "features/S1-uni/features/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[-4:] = b"\0\1\2\3"
    chunk.write_bytes(content)
    assert main(["check", store.place]) == 0
    assert "8 groups complete (contents not read; use --deep to verify them), 0 damaged" in capsys.readouterr().out
    assert main(["check", store.place, "--deep"]) == command.DAMAGED
    printed = capsys.readouterr().out
    assert "7 groups whole, 1 damaged" in printed
    assert "not read" not in printed


def test_what_a_disk_does_not_let_be_read_is_reported_and_never_removed(store, monkeypatch, capsys):
    def fails(self, key):
        raise OSError(errno.EIO, "Input/output error")

    before = sorted(store.names("features"))
    monkeypatch.setattr(FeatureStore, "read_features", fails)
    assert main(["check", store.place, "--deep"]) == command.DAMAGED
    printed = capsys.readouterr().out
    assert f"unreadable: features/{before[0]}" in printed
    assert "4 groups whole, 0 damaged, 4 unreadable, 0 left behind" in printed
    assert main(["prune", store.place, "--deep", "--yes"]) == 0
    assert sorted(store.names("features")) == before


def test_a_group_whose_description_a_disk_does_not_let_be_read_is_reported_and_stays(store, monkeypatch, capsys):
    cat_file, before = LocalFileSystem.cat_file, groups(store)

    def fails(self, path, *args, **options):
        if "features/S1-uni/" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return cat_file(self, path, *args, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", fails)
    assert main(["check", store.place]) == command.DAMAGED
    assert "unreadable: features/S1-uni" in capsys.readouterr().out
    assert main(["prune", store.place, "--yes"]) == 0
    assert groups(store) == before


def test_only_a_deep_check_finds_bytes_that_were_changed(store):
    chunk = Path(store.place, "features/S1-uni/features/c/0/0")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    assert main(["check", store.place]) == 0
    assert main(["check", store.place, "--deep"]) == command.DAMAGED


def test_only_a_deep_check_finds_features_that_are_not_as_many_as_their_tiles(store, capsys):
    coords = np.zeros((3, 2), np.int32)
    store.write_features("S9-uni", Bag(np.ones((2, 4), np.float32), coords, coords), {})
    assert main(["check", store.place]) == 0
    capsys.readouterr()
    assert main(["check", store.place, "--deep"]) == command.DAMAGED
    assert "damaged: features/S9-uni" in capsys.readouterr().out


def test_groups_without_checksums_get_them_by_a_deep_check(store, capsys):
    description = Path(store.place, "features/S1-uni/zarr.json")
    group = json.loads(description.read_text())
    attributes = {
        name: value for name, value in group["attributes"].items() if "checksum" not in name and name != "name"
    }
    description.write_text(json.dumps(group | {"attributes": attributes | {"format": 2}}))
    assert main(["check", store.place]) == 0
    assert "1 of an older format: without checksums, which check --deep adds" in capsys.readouterr().out
    assert main(["check", store.place, "--deep"]) == 0
    assert "1 of an older format: checksums of what they hold now were added" in capsys.readouterr().out
    assert main(["check", store.place, "--deep"]) == 0
    assert "older format" not in capsys.readouterr().out
    assert json.loads(description.read_text())["attributes"]["checksums"].keys() == {"features", "coords", "cells"}


def test_prune_keeps_what_a_running_process_writes(store):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    drafts = Path(store.place, "temporary")
    for process in (os.getpid(), gone.pid):
        (drafts / f"{socket.gethostname()}-{process}-{'a' * 32}").mkdir(parents=True)
    elsewhere = drafts / f"elsewhere-1-{'a' * 32}"
    elsewhere.mkdir()
    assert main(["prune", store.place, "--yes"]) == 0
    assert set(store.names("temporary")) == {f"{socket.gethostname()}-{os.getpid()}-{'a' * 32}", elsewhere.name}


def test_prune_removes_parts_of_finished_slides_and_keeps_those_a_run_goes_on_from(store):
    part = np.ones((2, 8), np.float32)
    store.write_part("S1-uni", range(0, 2), part)
    store.write_part("S3-uni", range(0, 2), part)
    assert main(["prune", store.place, "--yes"]) == 0
    assert not store.has_part("S1-uni", range(0, 2))
    assert store.has_part("S3-uni", range(0, 2))
    chunk = Path(store.place, "parts/S3-uni/0-2")
    for path in chunk.rglob("*"):
        os.utime(path, (0, 0))
    assert main(["prune", store.place, "--yes"]) == 0
    assert not store.has_part("S3-uni", range(0, 2))


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        (("--encoder", "uni"), {"features/S1-uni", "features/S2-uni"}),
        (("--slide", "S1"), {"tiles/S1-t", "slide_stats/S1-t", "features/S1-uni", "features/S1-virchow2"}),
        (("--slide", "S1", "--encoder", "uni"), {"features/S1-uni"}),
        (("--key", "*-virchow2"), {"features/S1-virchow2", "features/S2-virchow2"}),
    ],
)
def test_rm_takes_what_fits_and_nothing_else(store, what, gone):
    before = groups(store)
    assert main(["rm", store.place, *what, "--dry-run"]) == 0
    assert groups(store) == before
    assert main(["rm", store.place, *what, "--yes"]) == 0
    assert groups(store) == before - gone
    assert store.names("temporary") == []


def test_rm_keeps_a_part_that_a_run_may_be_writing(store, capsys):
    store.write_part("S1-uni2", range(0, 2), np.ones((2, 8), np.float32))
    assert main(["rm", store.place, "--slide", "S1", "--yes"]) == 0
    assert store.has_part("S1-uni2", range(0, 2))
    assert "kept: parts/S1-uni2/0-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rm",), "select what to delete with --encoder, --slide or --key"),
        (("rm", "--encoder", "uni"), "2 groups would be removed; give --yes"),
        (("rm", "--slide", "S9", "--yes"), "nothing in .* fits .*S9"),
    ],
)
def test_what_is_not_clear_is_not_removed(store, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115  # closed with the process; no terminal
    before = groups(store)
    command, *options = arguments
    assert main([command, store.place, *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert groups(store) == before


@pytest.mark.parametrize("verb", ["ls", "check", "prune", "rm"])
def test_a_folder_that_is_no_store_is_refused_and_stays(tmp_path, capsys, verb):
    precious = tmp_path / "thesis" / "features"
    precious.mkdir(parents=True)
    (tmp_path / "thesis" / "text.txt").write_text("mine")
    for place in (tmp_path / "thesis", tmp_path / "nowhere", tmp_path / "thesis" / "text.txt"):
        assert main([verb, str(place)]) == 2
        assert str(place) in capsys.readouterr().err
    assert precious.is_dir()


def test_groups_of_another_format_are_reported_and_stay(store, capsys):
    description = Path(store.place, "features/S1-uni/zarr.json")
    group = json.loads(description.read_text())
    attributes = group["attributes"] | {"format": 99}
    del attributes["own_checksum"]
    group["attributes"] = attributes | {"own_checksum": fingerprint(attributes)}
    description.write_text(json.dumps(group))
    assert main(["check", store.place]) == 0
    assert "other format: features/S1-uni" in capsys.readouterr().out
    assert main(["prune", store.place, "--yes"]) == 0
    assert description.is_file()


def test_every_command_works_where_nothing_can_be_renamed(anywhere, capsys):
    assert main(["ls", anywhere.place]) == 0
    assert "1 slide, 3 groups" in capsys.readouterr().out
    assert main(["check", anywhere.place, "--deep"]) == 0
    assert main(["prune", anywhere.place, "--yes"]) == 0
    assert main(["rm", anywhere.place, "--encoder", "uni", "--yes"]) == 0
    assert groups(anywhere) == {"tiles/S1-t", "slide_stats/S1-t"}


def test_what_may_be_being_written_to_an_object_store_is_not_damaged(tmp_path):
    store = FeatureStore(f"memory://{tmp_path.name}-busy.zarr")
    store.prepare()
    fill(store, "S1")
    store._files.rm_file(f"{store._root}/features/S1-uni/zarr.json")
    assert main(["check", store.place]) == 0
    assert main(["prune", store.place, "--yes"]) == 0
    assert main(["check", store.place, "--stale-hours", "0"]) == command.DAMAGED
    assert main(["prune", store.place, "--yes", "--stale-hours", "0"]) == 0
    assert store.names("features") == []


def test_a_group_that_was_made_anew_meanwhile_stays(store, monkeypatch, capsys):
    lose_chunk(store, "features/S1-uni")
    inspect_entry = maintenance.inspect_entry

    def made_anew(place, name, **options):
        fill(store, "S1")
        return inspect_entry(place, name, **options)

    listed = inspect_entry(store, "features/S1-uni", stale_hours=24)
    monkeypatch.setattr("preprocessing.features.maintenance.entries", lambda *_, **__: iter([listed]))
    monkeypatch.setattr("preprocessing.features.maintenance.inspect_entry", made_anew)
    assert main(["prune", store.place, "--yes"]) == 0
    assert "kept: features/S1-uni is whole by now" in capsys.readouterr().out
    assert store.has_features("S1-uni")


def test_help_loads_no_library():
    code = (
        "import sys\nfrom workflows.commands.store import main\n"
        "try:\n    main(['--help'])\nfinally:\n    print('LOADED', *sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "zarr", "rich", "torch", "pydantic"} & set(printed.partition("LOADED")[2].split())


def test_a_store_without_its_own_description_is_a_store_still(store):
    Path(store.place, "zarr.json").unlink()
    shutil.rmtree(Path(store.place, "temporary"), ignore_errors=True)
    assert main(["check", store.place]) == 0


def test_upgrade_writes_groups_of_earlier_versions_again(store, capsys):
    description = Path(store.place, "features/S1-uni/zarr.json")
    group = json.loads(description.read_text())
    for key in ("name", "checksums", "own_checksum"):
        del group["attributes"][key]
    group["attributes"]["format"] = 2
    description.write_text(json.dumps(group))
    before = FeatureStore(store.place).read_features("S1-uni")
    assert main(["upgrade", store.place]) == 0
    assert "1 of 8 groups written again, 0 failed" in capsys.readouterr().out
    assert store.attributes("features/S1-uni")["format"] == FORMAT
    np.testing.assert_array_equal(store.read_features("S1-uni").features, before.features)
    assert main(["check", store.place, "--deep"]) == 0
