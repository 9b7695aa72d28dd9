"""Bags beyond what a process keeps in memory: files that the processes share."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.training import bag_files
from pipeline.training.bag_files import BagFiles, bag_folder
from pipeline.training.dataset import Bags, Dataset
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.atomic import sweep
from preprocessing.io.errors import RunError

WIDTH, CASES, ROWS = 8, [f"c{i}" for i in range(6)], 40
OF_A_BAG = ROWS * (2 * WIDTH + 4 * 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Each case has two slides of together 40 tiles; the last one has none."""
    folder, rng = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    for number, case in enumerate(CASES):
        for slide, rows in (("a", 15), ("b", 25)):
            cells = rng.integers(0, 99, (rows, 2)).astype(np.int32)
            features = rng.normal(number, 1, (rows, WIDTH)).astype(np.float32)
            FeatureStore(folder).write_features(f"{case}{slide}", Bag(features, cells, cells), {})
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The groups that are read from the store."""
    found, original = [], FeatureStore.read_features
    monkeypatch.setattr(FeatureStore, "read_features", lambda self, key: found.append(key) or original(self, key))
    return found


@pytest.fixture
def disk(monkeypatch):
    """Bytes that are free on it."""
    free = [1 << 40]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    bag_files._warn_of_slow_reading.cache_clear()
    return free


def bags_of(store, **settings):
    return Bags(store, {case: (f"{case}a", f"{case}b") for case in CASES} | {"none": ()}, **settings)


def small(store, folder):
    """Room for two of the six."""
    return bags_of(store, keep_bytes=2 * OF_A_BAG, files=BagFiles(folder))


def read_all(bags):
    return {case: [np.array(part) for part in bags.read(case)] for case in [*CASES, "none"]}


def test_bags_that_are_not_kept_are_read_once_from_the_store_whoever_reads_them_again(store, tmp_path, reads, disk):
    everything = read_all(bags_of(store))
    reads.clear()
    bags = small(store, tmp_path)
    for _ in range(3):
        for case, (features, cells) in read_all(bags).items():
            assert (features.dtype, cells.dtype) == (np.float16, np.int32)
            np.testing.assert_array_equal(features, everything[case][0])
            np.testing.assert_array_equal(cells, everything[case][1])
        assert bags._bytes <= 2 * OF_A_BAG
    assert len(reads) == 2 * len(CASES)
    reads.clear()
    read_all(small(store, tmp_path))  # another process
    assert len(reads) <= 2 * 2  # the two that the first one keeps
    assert {path.name[64:] for path in tmp_path.iterdir()} == {".features.npy", ".cells.npy"}  # no temporary ones


def test_features_whose_cells_were_never_written_are_written_again(store, tmp_path, reads, disk):
    """A worker was killed between the two files."""
    everything = read_all(small(store, tmp_path))
    for cells in tmp_path.glob("*.cells.npy"):
        cells.unlink()
    for _ in range(2):
        reads.clear()
        for case, (features, cells) in read_all(small(store, tmp_path)).items():
            np.testing.assert_array_equal(features, everything[case][0])
            np.testing.assert_array_equal(cells, everything[case][1])
    assert len(reads) <= 2 * 2  # the two that a process keeps
    assert len(list(tmp_path.glob("*.cells.npy"))) == len(list(tmp_path.glob("*.features.npy"))) > 0


def test_bags_that_memory_has_room_for_stay_there(store, tmp_path, disk):
    read_all(bags_of(store, files=BagFiles(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_mapped_bag_can_be_written_to_without_changing_the_file(store, tmp_path, disk, recwarn):
    bags = small(store, tmp_path)
    read_all(bags)
    features, _ = BagFiles(tmp_path).read(bags.keys["c0"])
    before = features.copy()
    torch.from_numpy(features).fill_(0)
    np.testing.assert_array_equal(BagFiles(tmp_path).read(bags.keys["c0"])[0], before)
    assert not recwarn.list


def test_samples_of_bags_are_the_same(store, tmp_path, disk):
    batches = []
    for bags in (bags_of(store), small(store, tmp_path)):
        data = Dataset(replace(bags, max_patches=7), WIDTH, {}, ())
        for _ in range(2):
            data.batch(CASES)
        rng = np.random.default_rng(3)
        batches.append([data.batch(CASES), data.batch(CASES, rng=rng), data.batch(CASES, rng=rng)])
    for one, other in zip(*batches, strict=True):
        assert [len(bag) for bag in other.bags] == [7] * len(CASES)
        assert all(map(torch.equal, one.bags, other.bags))
        assert all(map(torch.equal, one.cells, other.cells))


@pytest.mark.parametrize("failure", ["little room", errno.ENOSPC, errno.ENOENT])
def test_without_room_on_the_disk_bags_are_read_again_and_that_is_said_once(
    failure, store, tmp_path, reads, disk, caplog, monkeypatch
):
    folder = tmp_path / "bags"
    folder.mkdir()
    if failure == "little room":
        disk[0] = bag_files.LEFT_FREE + OF_A_BAG - 1
    elif failure == errno.ENOENT:  # the run that made the folder has ended
        folder.rmdir()
    else:

        def fill(path, array):
            """A disk or a quota that is full with the cells of a bag."""
            path.write_bytes(b"some of it")
            if array.dtype == np.int32:
                raise OSError(failure, os.strerror(failure))

        monkeypatch.setattr(np, "save", fill)
    bags, expected = small(store, folder), read_all(bags_of(store))
    reads.clear()
    for _ in range(2):
        for case, (features, _) in read_all(bags).items():
            np.testing.assert_array_equal(features, expected[case][0])
    assert len(reads) == 4 * len(CASES)
    (record,) = caplog.records
    assert "are read from the feature store again in each epoch, which takes longer" in record.getMessage()
    assert not folder.exists() or not list(folder.iterdir())


def test_the_folder_is_removed_in_the_end_also_of_a_run_that_failed(tmp_path):
    with bag_folder(tmp_path / "folds") as folder:
        (folder / "x.npy").touch()
        assert list((tmp_path / "folds").iterdir()) == [folder]
        assert folder.name.startswith(".bags.")
        sweep(tmp_path.rglob(".*"))  # as another run does: this process lives
        assert folder.exists()
    assert not list((tmp_path / "folds").iterdir())
    with pytest.raises(KeyError), bag_folder(tmp_path / "folds"):
        raise KeyError
    assert not list((tmp_path / "folds").iterdir())


def test_the_folder_of_a_run_that_was_killed_is_swept_by_the_next(tmp_path):
    code = (
        "import os, pathlib, sys; from pipeline.training.bag_files import bag_folder\n"
        "with bag_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'x.npy').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "folds")], check=False)
    assert len(list((tmp_path / "folds").rglob("x.npy"))) == 1
    sweep(tmp_path.rglob(".*"))
    assert not list((tmp_path / "folds").iterdir())


def test_the_folder_of_a_run_that_was_killed_on_another_host_is_removed_by_the_next_training(tmp_path):
    left = tmp_path / "folds" / ".bags.0123456789.elsewhere.1"
    left.mkdir(parents=True)
    (left / "x.npy").touch()
    with bag_folder(tmp_path / "folds") as folder:
        assert list((tmp_path / "folds").iterdir()) == [folder]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "folds").touch()
    with pytest.raises(RunError, match=r"\.bags\..* cannot be written"), bag_folder(tmp_path / "folds"):
        pass


def test_the_folder_of_bags_is_made_where_the_run_folder_is_not_there_yet_and_goes_in_the_end(tmp_path):
    with bag_folder(tmp_path / "run" / "folds") as folder:
        assert folder.is_dir()
        assert folder.parent == tmp_path / "run" / "folds"
        (folder / "a.npy").touch()
    assert not folder.exists()
