import errno
import os
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from preprocessing.io.atomic import (
    atomic_file,
    atomic_folder,
    process_start,
    sweep,
    sync,
    sync_tree,
    temporary_name,
    write_text,
)
from preprocessing.io.errors import RunError


@pytest.fixture
def dead():
    """The number of a process that is dead."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.csv"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


def test_the_draft_itself_becomes_the_file_so_that_no_reader_meets_half_of_it(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    with atomic_file(path) as temporary:
        temporary.write_text("new and longer")
        written = temporary.stat().st_ino
    with path.open() as new:
        assert (os.fstat(new.fileno()).st_ino, new.read()) == (written, "new and longer")
    with path.open() as reader:
        write_text(path, "a third")
        assert reader.read() == "new and longer"  # who had opened it reads on in what it was


def interrupt(temporary, name, error):
    (temporary / name if temporary.is_dir() else temporary).write_text("half")
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_leaves_what_was_there(tmp_path, error):
    write_text(tmp_path / "a.csv", "old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    for whole in (atomic_file(tmp_path / "a.csv"), atomic_folder(tmp_path / "model")):
        with pytest.raises(error), whole as temporary:
            interrupt(temporary, "new", error)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a.csv", "model", "model/old"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path, whole = tmp_path / "table.csv", Path.write_text
    write_text(path, "old")

    def full_disk(self, text, **options):
        whole(self, text[: len(text) // 2], **options)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(
        RunError, match=r"table.csv cannot be written \(disk full\); free some space .* the same command continues"
    ):
        write_text(path, "a new text")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_with_nothing_of_it(tmp_path):
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "deep" / "model") as temporary:
            (temporary / name).touch()
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["model", "new"]


def test_a_folder_is_whole_at_every_moment_of_its_replacement(tmp_path, monkeypatch):
    """Until the new one has its name, the old one is there with everything in it, if under another name for a moment."""
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "old").touch()
    seen, rename = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: seen.append(sorted(tmp_path.rglob("old"))) or rename(path, to))
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "new").touch()
    assert [len(found) for found in seen] == [1, 1]
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_drafts_of_the_dead_of_this_machine_are_swept_and_nothing_else(tmp_path, dead):
    host = socket.gethostname()
    kept = [
        tmp_path / temporary_name(),
        tmp_path / f".a.csv.{temporary_name()}",
        tmp_path / f"elsewhere-{dead}-{'0' * 32}",
    ]
    kept += [tmp_path / f"{host}-{dead}-notes", tmp_path / "a.csv", tmp_path / f"a.{host}-{dead}-{'0' * 32}"]
    swept = [tmp_path / f"{host}-{dead}-{'0' * 32}", tmp_path / f".a.csv.{host}-{dead}-{'1' * 32}"]
    for path in [*kept, *swept]:
        path.touch()
    folder = tmp_path / f".model.{host}-{dead}-{'2' * 32}"
    (folder / "deep").mkdir(parents=True)
    sweep(tmp_path.glob("*"))
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_process_that_has_the_number_of_a_dead_one_does_not_keep_its_temporary_files(tmp_path):
    """Whatever the clocks say: here the file is of this moment, and the owner's start is not that of this process."""
    host, process = socket.gethostname(), os.getpid()
    old = tmp_path / f"{host}-{process}.{process_start(process) - 1}-{'0' * 32}"
    old.touch()
    sweep([old])
    assert not old.exists()


@pytest.mark.parametrize("age", [-1e6, 1e6])
def test_temporary_files_of_a_living_process_stay_though_the_clock_of_the_disk_is_wrong(tmp_path, age):
    own, unknown = tmp_path / temporary_name(), tmp_path / f"{socket.gethostname()}-{os.getpid()}-{'0' * 32}"
    for path in (own, unknown):  # the second as an earlier version named it, without the owner's start
        path.touch()
        os.utime(path, (time.time() + age,) * 2)
    sweep([own, unknown])
    assert own.exists()
    assert unknown.exists()


def test_a_process_started_when_it_started():
    first = process_start(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    later = process_start(child.pid)
    child.communicate(b"\n")
    assert first == process_start(os.getpid())
    assert later > first
    assert process_start(child.pid) is None


@pytest.fixture
def steps(monkeypatch):
    """What reaches the disk and what is renamed, in order: the names of files and folders, and pairs of old and new name."""
    recorded, fsync = [], os.fsync

    def synced(handle):
        recorded.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(rename):
        def record(old, new, **options):
            recorded.append((Path(old), Path(new)))
            rename(old, new, **options)

        return record

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed(getattr(os, name)))
    return recorded


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the name behind a handle")
class TestPowerCut:
    def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_afterwards(self, tmp_path, steps):
        write_text(tmp_path / "a.csv", "new")
        file, (old, new), folder = steps
        assert (file, new, folder) == (old, tmp_path / "a.csv", tmp_path)

    def test_a_folder_is_on_the_disk_with_all_it_holds_before_it_has_its_name(self, tmp_path, steps):
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / "deep").mkdir()
            for name in ("a", "deep/b"):
                (temporary / name).write_text("content")
        renamed = [step for step in steps if isinstance(step, tuple)]
        assert renamed == [(temporary, tmp_path / "model")]
        where = steps.index(renamed[0])
        assert set(steps[:where]) == {temporary, temporary / "a", temporary / "deep", temporary / "deep/b"}
        assert steps[where + 1 :] == [tmp_path]


def test_a_child_that_is_forked_after_a_folder_was_synced_syncs_by_threads_of_its_own(tmp_path):
    (tmp_path / "file").touch()
    sync_tree(tmp_path)
    child = os.fork()
    if child == 0:
        sync_tree(tmp_path)
        os._exit(0)
    end = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        assert time.monotonic() < end, "the child waits for its parent's threads"
        time.sleep(0.01)
    assert ended[1] == 0


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root of Linux mounts a disk")
class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path):
        """A disk of a megabyte."""
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
            pytest.skip("mounting is not permitted here")
        yield disk
        subprocess.run(["umount", "--lazy", disk], check=True)

    def test_is_reported_with_the_path_and_what_was_there_stays_whole(self, disk):
        write_text(disk / "a.csv", "old")
        with pytest.raises(
            RunError, match=r"/disk/a.csv cannot be written \(No space left on device\); free some space"
        ):
            write_text(disk / "a.csv", "x" * (2 << 20))
        assert [path.name for path in disk.iterdir()] == ["a.csv"]
        assert (disk / "a.csv").read_text() == "old"

    def test_that_may_only_be_read_is_reported(self, disk):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(RunError, match=r"/disk/a.csv cannot be written \(Read-only file system\)"):
            write_text(disk / "a.csv", "new")
        with (
            pytest.raises(RunError, match=r"/disk/model cannot be written \(Read-only file system\)"),
            atomic_folder(disk / "model"),
        ):
            pass


@pytest.mark.parametrize(("number", "is_raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_is_passed_over_and_one_that_fails_is_not(
    tmp_path, monkeypatch, number, is_raised
):
    def fails(handle):
        raise OSError(number, "planted")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="planted") if is_raised else nullcontext():
        sync(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="planted"):
        sync(tmp_path / "file")
