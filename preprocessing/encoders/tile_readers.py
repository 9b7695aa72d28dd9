"""Processes that read tiles ahead of a GPU, into memory that they share with the process that computes.

Threads would share Python's lock: reading by sixteen of them is slower than by eight, and the thread that launches kernels waits
for them. The processes are plain ones, since a Dask worker may not start those of `multiprocessing`. They live as long as this
process: each ends by itself when its standard input, a pipe, is closed.
"""

import math
import os
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from mmap import mmap
from multiprocessing.connection import Pipe, wait
from queue import Empty, SimpleQueue
from signal import Signals
from tempfile import TemporaryFile
from typing import IO, Any

import torch
from jaxtyping import UInt8

from models.layers.devices import pin_in_place, unpin
from preprocessing.encoders.reading_process import Request
from preprocessing.io.errors import RunError, SlideError
from preprocessing.slides.isolated import WORKER_ENVIRONMENT
from preprocessing.tiling.slide_tiles import SlideTiles

WAITING_BATCHES = 2  # per process, full or being filled
MAX_BYTES = 2 << 30  # of batches, all together; large tiles are read in smaller batches
ENDING_SECONDS = 5.0  # a process that waits for a disk within the kernel cannot be ended
SERVE = (  # the user's Ctrl-C, which the parent handles, is ignored before imports, which take a moment
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from preprocessing.encoders.reading_process import serve; serve({}, {})"
)
_one_slide = threading.Lock()  # is read at a time, by all processes


def affordable(at_once: int, *, readers: int, tile_px: int) -> int:
    """Return the number of tiles per batch: `at_once`, or fewer where all batches would need more than `MAX_BYTES`."""
    return max(1, min(at_once, MAX_BYTES // (WAITING_BATCHES * readers * 3 * tile_px**2)))


def read_ahead(
    slide: SlideTiles,
    rows: range,
    *,
    at_once: int,
    readers: int,
    pinned: bool,
    all_read: Callable[[], None] | None = None,
) -> Generator[tuple[range, UInt8[torch.Tensor, "B H W 3"]], None, None]:
    """Yield batches of tiles with their indices as they become ready; a batch is valid until the next one is requested.

    Each process reads its own band of the slide, so that no native tile is decoded twice. Memory is bounded by
    `WAITING_BATCHES` per process. The processes start with the first slide that has a batch for them. They
    begin the next slide when all tiles of this one are read, while its last batches are still to be taken.

    Args:
        slide: its tiles.
        rows: indices of the selected tiles.
        at_once: tiles per batch; see `affordable`.
        readers: number of processes.
        pinned: whether batches lie in pinned memory, from which a GPU copies asynchronously; in ordinary memory where
            it cannot be pinned.
        all_read: called when the last tile is read.

    Yields:
        Indices of the tiles, and the tiles, RGB; height H and width W are the grid's `tile_px`.

    Raises:
        CrashError: a process ended while it read the slide; another try starts new ones.
        RunError: there is no memory for the batches.
    """
    tile_bytes = 3 * slide.grid.tile_px**2
    with ExitStack() as until_read, ExitStack() as until_taken:
        until_read.enter_context(_one_slide)
        pool = _pool(readers, at_once * tile_bytes, pinned)
        reading = _Reading(pool, rows, at_once=at_once, tile_px=slide.grid.tile_px)
        until_taken.callback(reading.drop)
        until_read.callback(reading.finish)
        reading.begin(slide)
        announce = all_read
        while True:
            reading.go_on()
            if reading.is_all_read:
                until_read.close()
                if announce:
                    announce()
                announce = None
            if not reading.filled:
                return
            yield reading.take()


class _Reading:
    """A slide on its way through the processes.

    Attributes:
        filled: batches that can be taken, with their offsets in the shared memory.
    """

    def __init__(self, pool: "_Pool", rows: range, *, at_once: int, tile_px: int) -> None:
        self.filled: deque[tuple[range, int]] = deque()
        self._pool, self._side = pool, tile_px
        self._taken: int | None = None
        batches = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        count = min(pool.readers, len(batches))
        self._left = {
            pool.process(i): deque(batches[len(batches) * i // count : len(batches) * (i + 1) // count])
            for i in range(count)
        }

    def begin(self, slide: SlideTiles) -> None:
        """Name to each process its band of the slide."""
        for process, left in self._left.items():
            process.begin(slide, range(left[0].start, left[-1].stop))

    @property
    def is_all_read(self) -> bool:
        """Whether no tile is left to be read."""
        return not any(left or process.requested for process, left in self._left.items())

    def go_on(self) -> None:
        """Free the batch that was taken, keep the processes busy, and wait until a batch is filled, if any is left."""
        self._free_taken()
        self._request()
        self._collect()
        self._request()

    def take(self) -> tuple[range, UInt8[torch.Tensor, "B H W 3"]]:
        """Return the next batch that is filled; its memory is used again when the reading goes on."""
        batch, self._taken = self.filled.popleft()
        shape = (len(batch), self._side, self._side, 3)
        return batch, self._pool.memory[self._taken :][: math.prod(shape)].view(shape)

    def finish(self) -> None:
        """Leave the processes to the next slide; where the reading was given up, wait for the batches that they fill."""
        with suppress(CrashError):
            while (busy := self._busy()) and (ready := wait(busy, ENDING_SECONDS)):
                for connection in ready:
                    self._pool.free.put(busy[connection].answer()[1])
        if any(process.has_ended or process.requested for process in self._left):
            _pool.cache_clear()
            self._pool.end()
        self._left.clear()

    def drop(self) -> None:
        """Free the batches that nobody takes any more."""
        self._free_taken()
        for _, offset in self.filled:
            self._pool.free.put(offset)

    def _free_taken(self) -> None:
        if self._taken is not None:
            self._pool.free.put(self._taken)
            self._taken = None

    def _request(self) -> None:
        """Request a batch for each place in memory that is free; where none is, and none will be filled, wait for one.

        Those that are not free then hold the last batches of the slide before.
        """
        while (process := self._idlest()) is not None:
            try:
                offset = self._pool.free.get(block=not self.filled and not self._busy())
            except Empty:
                return
            process.request(self._left[process].popleft(), offset)

    def _idlest(self) -> "_Process | None":
        unread = [one for one, left in self._left.items() if left]
        return min(unread, key=lambda one: (len(one.requested), -len(self._left[one])), default=None)

    def _busy(self) -> dict[Any, "_Process"]:
        return {process.connection: process for process in self._left if process.requested}

    def _collect(self) -> None:
        """Receive all answers that are there, and at least one where no batch is filled."""
        while busy := self._busy():
            ready = wait(busy, 0 if self.filled else None)
            if not ready:
                return
            for connection in ready:
                batch, offset, error = busy[connection].answer()
                if error is not None:
                    self._pool.free.put(offset)
                    raise error
                self.filled.append((batch, offset))


@lru_cache(maxsize=1)
def _pool(readers: int, slot_bytes: int, pinned: bool) -> "_Pool":
    """The processes of this process; another number or size replaces them, once nothing uses them any more."""
    return _Pool(readers, slot_bytes, pinned=pinned)


class _Pool:
    """Processes, and the memory that they fill.

    Attributes:
        readers: greatest number of processes.
        memory: which this process shares with them.
        free: offsets of the batches in it that can be filled.
        end: ends the processes, when called or when nothing uses the pool any more.
    """

    def __init__(self, readers: int, slot_bytes: int, *, pinned: bool) -> None:
        self.readers = readers
        slots = WAITING_BATCHES * readers
        self._file, memory = _shared_memory(slots * slot_bytes)
        self.memory = torch.frombuffer(memory, dtype=torch.uint8)
        if pinned and pin_in_place(self.memory):
            weakref.finalize(self, unpin, self.memory).atexit = False
        self.free: SimpleQueue[int] = SimpleQueue()
        for slot in range(slots):
            self.free.put(slot * slot_bytes)
        self._processes: list[_Process] = []
        self.end = weakref.finalize(self, _end, self._processes)

    def process(self, number: int) -> "_Process":
        """The process with this number, which is started if need be."""
        if number == len(self._processes):
            self._processes.append(_Process(self._file.fileno()))
        elif self._processes[number].has_ended:
            self._processes[number] = _Process(self._file.fileno())
        return self._processes[number]


def _shared_memory(size: int) -> tuple[IO[bytes], mmap]:
    """Memory as a file without a name, which other processes can map; all of it is allocated."""
    try:
        if sys.platform == "linux":
            file = os.fdopen(os.memfd_create("tiles"), "r+b")
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file = TemporaryFile()  # noqa: SIM115  # it lives as long as the pool
            file.truncate(size)
        return file, mmap(file.fileno(), size)
    except OSError as error:
        raise RunError(
            f"no memory for {size >> 20:,} MiB of tiles that are read ahead ({error.strerror}); end what else runs here, or set "
            "a smaller gpu_tiles"
        ) from error


class CrashError(SlideError):
    """A process ended while it read a slide."""


class _Process:
    """A process that reads tiles.

    Attributes:
        connection: to the process.
        requested: batches that it has not answered, with their offsets in the shared memory.
    """

    def __init__(self, memory_fd: int) -> None:
        self.requested: deque[tuple[range, int]] = deque()
        self.connection, theirs = Pipe()
        self._first = 0
        with theirs:
            fds = (theirs.fileno(), memory_fd)
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE.format(*fds)],
                stdin=subprocess.PIPE,
                pass_fds=fds,
                env=os.environ | WORKER_ENVIRONMENT | {"PYTHONPATH": path},
            )

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def begin(self, slide: SlideTiles, band: range) -> None:
        """Name the slide, and the tiles that this process reads of it."""
        self._first = band.start
        self._send(slide.band(band))

    def request(self, batch: range, offset: int) -> None:
        """Let it read these tiles of its band to this offset."""
        self.requested.append((batch, offset))
        self._send((range(batch.start - self._first, batch.stop - self._first), offset))

    def answer(self) -> tuple[range, int, Exception | None]:
        """Wait for its next answer; returns the batch, its offset, and the error of reading it."""
        try:
            error = self.connection.recv()
        except (EOFError, OSError) as broken:
            raise self._crash() from broken
        return *self.requested.popleft(), error

    def _send(self, message: SlideTiles | Request) -> None:
        try:
            self.connection.send(message)
        except OSError as broken:
            raise self._crash() from broken

    def _crash(self) -> CrashError:
        code = self.end(grace=1)
        cause = Signals(-code).name if code < 0 else f"exit code {code}"
        return CrashError(f"reading it crashed the process ({cause}): damaged file, or too little memory")

    def kill(self) -> None:
        """Let the kernel end it; see `end`."""
        self._process.kill()

    def end(self, *, grace: float = 0) -> int:
        """End it, after as many seconds of grace; returns its exit code, 0 where it cannot be ended."""
        for seconds in (grace, ENDING_SECONDS):
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(seconds)
            self.kill()
        return 0


def _end(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.end()
