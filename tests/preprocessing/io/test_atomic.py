import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preprocessing.io.atomic import draft_name, sweep, whole_file, whole_folder, write_text
from preprocessing.io.errors import RunError


@pytest.fixture
def dead():
    """The number of a process that is dead."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.csv"
    with whole_file(path) as draft:
        draft.write_text("new")
        assert not path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


def test_the_draft_itself_becomes_the_file_so_that_no_reader_meets_half_of_it(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    with whole_file(path) as draft:
        draft.write_text("new and longer")
        written = draft.stat().st_ino
    with path.open() as new:
        assert (os.fstat(new.fileno()).st_ino, new.read()) == (written, "new and longer")
    with path.open() as reader:
        write_text(path, "a third")
        assert reader.read() == "new and longer"  # who had opened it reads on in what it was


def interrupt(draft, name, error):
    (draft / name if draft.is_dir() else draft).write_text("half")
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_leaves_what_was_there(tmp_path, error):
    write_text(tmp_path / "a.csv", "old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    for whole in (whole_file(tmp_path / "a.csv"), whole_folder(tmp_path / "model")):
        with pytest.raises(error), whole as draft:
            interrupt(draft, "new", error)
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
        RunError, match=r"table.csv cannot be written \(disk full\); make room .* the same command goes on"
    ):
        write_text(path, "a new text")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_with_nothing_of_it(tmp_path):
    for name in ("old", "new"):
        with whole_folder(tmp_path / "deep" / "model") as draft:
            (draft / name).touch()
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["model", "new"]


def test_drafts_of_the_dead_of_this_machine_are_swept_and_nothing_else(tmp_path, dead):
    host = socket.gethostname()
    kept = [tmp_path / draft_name(), tmp_path / f".a.csv.{draft_name()}", tmp_path / f"elsewhere-{dead}-{'0' * 32}"]
    kept += [tmp_path / f"{host}-{dead}-notes", tmp_path / "a.csv", tmp_path / f"a.{host}-{dead}-{'0' * 32}"]
    swept = [tmp_path / f"{host}-{dead}-{'0' * 32}", tmp_path / f".a.csv.{host}-{dead}-{'1' * 32}"]
    for path in [*kept, *swept]:
        path.touch()
    folder = tmp_path / f".model.{host}-{dead}-{'2' * 32}"
    (folder / "deep").mkdir(parents=True)
    sweep(tmp_path.glob("*"))
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_process_that_was_given_the_number_of_a_dead_one_does_not_keep_its_drafts(tmp_path):
    old = tmp_path / draft_name()
    old.touch()
    os.utime(old, (time.time() - 1e6,) * 2)
    sweep([old])
    assert not old.exists()


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

    def test_is_told_with_the_path_and_what_was_there_stays_whole(self, disk):
        write_text(disk / "a.csv", "old")
        with pytest.raises(RunError, match=r"/disk/a.csv cannot be written \(No space left on device\); make room"):
            write_text(disk / "a.csv", "x" * (2 << 20))
        assert [path.name for path in disk.iterdir()] == ["a.csv"]
        assert (disk / "a.csv").read_text() == "old"

    def test_that_may_only_be_read_is_told(self, disk):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(RunError, match=r"/disk/a.csv cannot be written \(Read-only file system\)"):
            write_text(disk / "a.csv", "new")
        with (
            pytest.raises(RunError, match=r"/disk/model cannot be written \(Read-only file system\)"),
            whole_folder(disk / "model"),
        ):
            pass
