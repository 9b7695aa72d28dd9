import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, nullcontext

import numpy as np
import openslide
import psutil
import pytest

from preprocessing.encoders import tile_readers
from preprocessing.encoders.reading_process import _sendable
from preprocessing.encoders.tile_readers import WAITING_BATCHES, affordable, read_ahead
from preprocessing.io.errors import RunError, SlideError
from preprocessing.slides.isolated import WORKER_ENVIRONMENT
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.slide_tiles import SlideTiles
from preprocessing.tiling.tiles import TileConfig, read_tile, tile_slide
from tests.odd_tiles import CrashingTiles, HangingTiles, NotedTiles, OddlyTornTiles, TornTiles

USUAL = {"at_once": 4, "readers": 2, "pinned": False}  # with the same settings the processes are the same
PATIENCE = 20  # seconds


@pytest.fixture(scope="module")
def grid(corner_slide):
    """35 tiles."""
    return tile_slide(corner_slide, TileConfig(tile_px=64)).grid


@pytest.fixture(scope="module")
def tiles(corner_slide, grid):
    return SlideTiles(corner_slide.path, grid)


@pytest.fixture(scope="module")
def pixels(corner_slide, grid):
    """Every tile, read one by one."""
    with SlideReader(corner_slide.path) as reader:
        return np.stack([read_tile(reader, grid, row) for row in range(len(grid))])


OTHERS: set[int] = set()  # reading processes that tests of other files left


@pytest.fixture(scope="module", autouse=True)
def others():
    """Reading processes that are there before these tests are not counted."""
    OTHERS.update(processes())


@pytest.fixture
def ended():
    """The processes of earlier tests are gone."""
    tile_readers._pool.cache_clear()
    gc.collect()  # a traceback refers to them as long as it lives
    assert processes() == set()


def processes():
    """Ids of the reading processes of this one."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and any("reading_process" in word for word in child.cmdline())
    } - OTHERS


def read(tiles, rows=range(35), **settings):
    """All tiles, in order."""
    batches = {batch: found.numpy().copy() for batch, found in read_ahead(tiles, rows, **USUAL | settings)}
    return np.concatenate([batches[batch] for batch in sorted(batches, key=lambda batch: batch.start)])


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("readers", "at_once"), [(1, 4), (3, 4), (4, 100), (2, 4)])
def test_it_brings_every_tile_once(tiles, pixels, readers, at_once):
    seen = []
    for batch, found in read_ahead(tiles, range(2, 35), at_once=at_once, readers=readers, pinned=False):
        assert 1 <= len(batch) == len(found) <= at_once
        np.testing.assert_array_equal(found, pixels[batch.start : batch.stop])
        seen += batch
    assert sorted(seen) == list(range(2, 35))


def test_the_stain_is_normalised_by_the_processes(tiles, pixels):
    inverted = SlideTiles(tiles.path, tiles.grid, np.invert)
    np.testing.assert_array_equal(read(inverted), 255 - pixels)


def test_processes_live_on_from_slide_to_slide(tiles, ended):
    read(tiles)
    before = processes()
    assert len(before) == 2
    read(tiles)
    assert processes() == before


def test_processes_start_when_there_is_a_batch_for_them(tiles, pixels, ended):
    np.testing.assert_array_equal(read(tiles, range(4)), pixels[:4])
    assert len(processes()) == 1
    read(tiles, range(5))
    assert len(processes()) == 2


def test_no_tiles_are_no_batches(tiles):
    calls = []
    assert list(read_ahead(tiles, range(3, 3), **USUAL, all_read=lambda: calls.append(1))) == []
    assert calls == [1]


def test_processes_have_one_thread_and_ignore_the_users_interrupt(tiles, pixels):
    read(tiles)
    before = processes()
    for pid in before:
        environment = psutil.Process(pid).environ()
        assert {name: environment[name] for name in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT
        os.kill(pid, signal.SIGINT)
    np.testing.assert_array_equal(read(tiles), pixels)
    assert processes() == before


def test_processes_do_not_import_torch():
    code = "import preprocessing.encoders.reading_process, sys; print('torch' in sys.modules, 'scipy.ndimage' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_processes_start_in_any_folder(tiles, pixels, ended, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(tiles), pixels)


def test_it_holds_no_more_than_a_few_batches(tiles, tmp_path):
    """With nobody taking them the processes read what there is room for, and wait."""
    notes, room = tmp_path / "notes", 2 * WAITING_BATCHES * 4

    def count():
        return len(notes.read_text().splitlines())

    with closing(read_ahead(NotedTiles(tiles.path, tiles.grid, notes=notes), range(35), **USUAL)) as batches:
        next(batches)
        wait_until(lambda: count() == room)
        time.sleep(0.3)  # in which they would go on
        assert count() == room
    assert len(set(notes.read_text().split())) == 2


def test_batches_of_large_tiles_are_smaller(monkeypatch):
    monkeypatch.setattr(tile_readers, "MAX_BYTES", 4 * 3 * 3 * 64**2 + 1)  # of three tiles in each of four batches
    assert affordable(9, readers=2, tile_px=64) == 3
    assert affordable(2, readers=2, tile_px=64) == 2
    assert affordable(9, readers=2, tile_px=1024) == 1  # at least


def test_where_there_is_no_memory_the_error_names_the_amount(tiles, ended, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(
        RunError, match=r"no memory for 1 MiB of tiles .* \(No space left on device\).* smaller gpu_tiles"
    ):
        list(read_ahead(tiles, range(35), at_once=64, readers=1, pinned=False))


def test_the_end_of_reading_is_announced_once_and_before_the_last_batches_are_taken(tiles, tmp_path):
    seen, notes = [], tmp_path / "notes"
    noted = NotedTiles(tiles.path, tiles.grid, notes=notes)
    for batch, _ in read_ahead(noted, range(16), **USUAL, all_read=lambda: seen.append("all read")):
        seen.append(len(batch))
        wait_until(lambda: len(notes.read_text().splitlines()) == 16)  # there is room for all batches
        time.sleep(0.05)  # between the last tile and its announcement
    assert sum(one for one in seen if one != "all read") == 16
    assert seen.count("all read") == 1
    assert seen.index("all read") <= 1


@pytest.mark.parametrize("count", [1, 4, 35])
def test_the_end_of_reading_is_announced_however_slow_it_is(tiles, count):
    calls = []
    assert list(read_ahead(tiles, range(count), **USUAL, all_read=lambda: calls.append(1)))
    assert calls == [1]


def test_the_next_slide_is_read_while_the_last_batches_of_one_are_taken(tiles, pixels):
    """They overlap although all of the memory may be full."""
    found, reading = [], []

    def begin():
        thread = threading.Thread(target=lambda: found.append(read(inverted)))
        thread.start()
        reading.append(thread)

    inverted = SlideTiles(tiles.path, tiles.grid, np.invert)
    for batch, here in read_ahead(tiles, range(35), **USUAL, all_read=begin):
        if reading:
            reading[0].join(0.2)  # time for the next slide to do harm
        np.testing.assert_array_equal(here, pixels[batch.start : batch.stop])
    reading[0].join(PATIENCE)
    np.testing.assert_array_equal(found[0], 255 - pixels)


def test_where_the_last_batches_of_a_slide_fill_the_memory_the_next_one_waits_for_them(tiles, pixels, monkeypatch):
    def late(connections, timeout):
        time.sleep(0.2)  # by when all sixteen tiles are read, before one is taken
        return wait(connections, timeout)

    wait, found = tile_readers.wait, []
    monkeypatch.setattr(tile_readers, "wait", late)
    thread = threading.Thread(target=lambda: found.append(read(tiles)))
    batches = read_ahead(tiles, range(16), **USUAL, all_read=thread.start)
    assert len(next(batches)[1]) == 4
    pool = tile_readers._pool(2, 4 * 3 * 64**2, False)
    assert pool.free.empty()
    thread.join(0.2)
    assert thread.is_alive()
    assert sum(len(batch) for batch, _ in batches) == 12
    thread.join(PATIENCE)
    np.testing.assert_array_equal(found[0], pixels)


def test_slides_of_two_threads_are_read_one_after_the_other(tiles, pixels):
    found = []
    threads = [threading.Thread(target=lambda: found.append(read(tiles))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 3
    for one in found:
        np.testing.assert_array_equal(one, pixels)


def test_an_error_is_raised_with_its_trace_and_the_next_slide_is_read_by_the_same_processes(tiles, pixels):
    torn = TornTiles(tiles.path, tiles.grid, torn=tuple(tiles.grid.coords[30]))
    read(tiles)
    before = processes()
    with pytest.raises(openslide.OpenSlideError, match="torn tile") as caught:
        read(torn)
    assert "in fail" in caught.value.__notes__[0]
    np.testing.assert_array_equal(read(tiles), pixels)
    assert processes() == before


@pytest.mark.parametrize("torn", [1, 8])
def test_a_slide_is_closed_after_its_last_tile_and_after_an_error(tiles, torn):
    with nullcontext() if torn == 8 else pytest.raises(openslide.OpenSlideError):
        read(TornTiles(tiles.path, tiles.grid, torn=tuple(tiles.grid.coords[torn])), range(8))
    opened = [file.path for pid in processes() for file in psutil.Process(pid).open_files()]
    assert str(tiles.path) not in opened


def test_an_error_that_cannot_travel_is_named(tiles):
    torn = OddlyTornTiles(tiles.path, tiles.grid, torn=tuple(tiles.grid.coords[30]))
    with pytest.raises(RuntimeError, match="TwoPartError: torn, tile"):
        read(torn)


def test_a_slide_that_cannot_be_opened_is_an_error_of_its_own(tiles, tmp_path):
    (tmp_path / "bad.svs").write_bytes(b"II*\0 no slide")
    with pytest.raises(openslide.OpenSlideError):
        read(SlideTiles(tmp_path / "bad.svs", tiles.grid))
    read(tiles)


def test_a_reading_that_is_given_up_leaves_all_memory_to_the_next(tiles, pixels):
    for taken in (1, 2, 5):
        batches = read_ahead(tiles, range(35), **USUAL)
        for _ in range(taken):
            next(batches)
        batches.close()
        pool = tile_readers._pool(2, 4 * 3 * 64**2, False)
        offsets = [pool.free.get_nowait() for _ in range(pool.free.qsize())]
        assert sorted(offsets) == [slot * 4 * 3 * 64**2 for slot in range(2 * WAITING_BATCHES)]
        for offset in offsets:
            pool.free.put(offset)
    np.testing.assert_array_equal(read(tiles), pixels)


def test_a_slide_that_crashes_a_process_fails_alone(tiles, pixels, ended):
    crashing = CrashingTiles(tiles.path, tiles.grid, torn=tuple(tiles.grid.coords[30]))
    read(tiles)
    before = processes()
    with pytest.raises(
        SlideError, match=r"reading it crashed the process \(SIGKILL\): damaged file, or too little memory"
    ):
        read(crashing)
    np.testing.assert_array_equal(read(tiles), pixels)
    wait_until(lambda: not before & processes())


def test_a_process_that_was_ended_between_two_slides_is_replaced(tiles, pixels, ended):
    read(tiles)
    before = processes()
    os.kill(min(before), signal.SIGKILL)
    os.waitid(os.P_PID, min(before), os.WEXITED | os.WNOWAIT)
    np.testing.assert_array_equal(read(tiles), pixels)
    assert len(processes() & before) == 1


def test_a_process_that_hangs_is_replaced_where_the_reading_is_given_up(tiles, pixels, tmp_path, monkeypatch, ended):
    monkeypatch.setattr(tile_readers, "ENDING_SECONDS", 0.2)
    mark = tmp_path / "hangs"
    hanging = HangingTiles(tiles.path, tiles.grid, torn=tuple(tiles.grid.coords[16]), mark=mark)
    batches = read_ahead(hanging, range(35), **USUAL)
    next(batches)
    wait_until(mark.exists)
    before = processes()
    batches.close()
    np.testing.assert_array_equal(read(tiles), pixels)
    assert not before & processes()


ORPHANS = """
import sys
from pathlib import Path
import psutil
from preprocessing.encoders.tile_readers import read_ahead
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.tiles import TileConfig, tile_slide
from tests.odd_tiles import HangingTiles

slide = probe_slide(SlideFile("S", "S", Path(sys.argv[1])), default_mpp=None)
grid = tile_slide(slide, TileConfig(tile_px=64)).grid
tiles = HangingTiles(slide.path, grid, torn=tuple(grid.coords[16]), mark=Path(sys.argv[2]))
batches = read_ahead(tiles, range(35), at_once=4, readers=2, pinned=False)
next(batches)
print(*(child.pid for child in psutil.Process().children()), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["killed", "at its end"])
def test_processes_end_with_the_one_that_started_them_even_while_one_hangs(corner_slide, tmp_path, end):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", ORPHANS, corner_slide.path, tmp_path / "hangs"]
    with subprocess.Popen(command, **pipes) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        wait_until((tmp_path / "hangs").exists)
        assert all(map(psutil.pid_exists, children))
        if end == "killed":
            parent.kill()
        else:
            parent.communicate("\n", timeout=PATIENCE)
    wait_until(lambda: not any(map(psutil.pid_exists, children)))


class OddError(Exception):
    """Cannot be made again from its text."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class OddSlideError(SlideError):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("a"), KeyError),
        (openslide.OpenSlideError("a"), openslide.OpenSlideError),
        (SlideError("a"), SlideError),
        (OddSlideError("a"), SlideError),
        (OddError("a", "b"), RuntimeError),
    ],
)
def test_an_error_is_sent_as_one_that_any_process_can_make(error, expected):
    sent = pickle.loads(pickle.dumps(_sendable(error)))
    assert type(sent) is expected
    assert "a" in str(sent)
