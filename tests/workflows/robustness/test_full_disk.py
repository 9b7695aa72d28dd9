"""A disk that is full, or may only be read: the run says so, nothing is harmed, and the same command goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from preprocessing.features.store import FeatureStore

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root of Linux mounts a disk of its own"
)


@pytest.fixture
def disk(tmp_path):
    """A disk of 150 KiB: enough for the tiles of a few slides."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def groups(store):
    return sorted(path.name for path in Path(store, "tiles").iterdir() if path.is_dir())


def test_a_store_that_fills_up_ends_the_run_and_with_more_room_it_goes_on(cohort, walk, tmp_path, disk, capsys):
    command = (cohort.slides, "none", "--until", "tile", "--store", disk / "store", "--out", tmp_path / "run")
    assert walk(*command) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert f"error: store {disk}/store: tiles/" in message
    assert "cannot be written (No space left on device); free some space" in message
    assert "the same command continues from what is finished" in message
    before = groups(disk / "store")
    store = FeatureStore(disk / "store")
    assert 0 < len(before) < 13
    assert all(store.has_tiles(key) for key in before)
    remount(disk, "size=8m")
    assert walk(*command) == 0
    slides = pd.read_csv(tmp_path / "run" / "slides.csv").set_index("tiles")
    assert len(slides) == 13
    assert set(slides.index[slides["status"] == "reused"]) == set(before)


def test_a_store_that_may_only_be_read_is_refused_before_the_work_unless_all_is_in_it(
    cohort, walk, tmp_path, disk, capsys
):
    remount(disk, "size=8m")
    command = (cohort.slides, "none", "--until", "tile", "--store", disk / "store")
    assert walk(*command, "--out", tmp_path / "run") == 0
    remount(disk, "ro")
    assert walk(*command, "--out", tmp_path / "again") == 0
    assert set(pd.read_csv(tmp_path / "again" / "slides.csv")["status"]) == {"reused"}
    capsys.readouterr()
    assert walk(*command, "--tile-px", "128", "--out", tmp_path / "other") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"error: --store {disk}/store cannot be written (Read-only file system); free some space or grant" in message


def test_a_run_folder_that_may_only_be_read_is_refused(cohort, walk, tmp_path, disk, capsys):
    remount(disk, "ro")
    command = (cohort.slides, "none", "--until", "tile", "--store", tmp_path / "store")
    assert walk(*command, "--out", disk) == 2
    assert walk(*command, "--out", disk / "run") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"error: --out {disk} cannot be written (Read-only file system)" in message
    assert f"error: --out {disk}/run cannot be made (Read-only file system)" in message
    assert not (tmp_path / "store").exists()
