"""Work on many files in isolated processes: a file that crashes a library, or hangs it, fails alone.

A process handles one file at a time, so that it is always known which file it died of.
"""

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from preprocessing.io.errors import SlideError, unexpected

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
# Processes share the cores, so each computes with one thread. Each keeps the memory that it frees: by default a light encoder
# spends a third of its time on requesting the same pages again. Both settings are read when a process starts.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}
TRIES = 2  # where memory is short, the kernel may kill a process for what another has allocated
AT_ONCE = 8  # opening a slide is waiting for the disk
MINUTES = 5.0  # opening takes milliseconds, or seconds on a slow network
STARTING_SECONDS = 300.0  # a new process imports for seconds, much longer on a busy machine
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """Why there is no result.

    Attributes:
        reason: for the user.
        trace: traceback for the log, or "".
    """

    reason: str
    trace: str = ""


def map_files(work: Callable[[T], R], files: Sequence[T], *, isolated: bool) -> list[R | Failure]:
    """Apply `work` to each file, in isolated processes or in threads; an error that a library raises fails that file alone."""
    if not isolated:
        return map_in_threads(work, files, at_once=AT_ONCE)
    return map_isolated(work, files, at_once=AT_ONCE, minutes=MINUTES)


def map_in_threads(work: Callable[[T], R], items: Sequence[T], *, at_once: int) -> list[R | Failure]:
    """Apply `work` to each item in threads of this process; a crash of a library takes the process down."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(partial(_attempt, work), items))


def map_isolated(work: Callable[[T], R], items: Sequence[T], *, at_once: int, minutes: float) -> list[R | Failure]:
    """Apply `work` to each item in isolated processes, which start when needed and are gone at the end.

    Args:
        work: a module-level function, or a partial of one; it is pickled.
        items: pickled too, as are the results.
        at_once: number of processes.
        minutes: a process that takes longer over an item is killed.
    """
    idle: SimpleQueue[_Process[T, R]] = SimpleQueue()
    processes = [_Process(work, 60 * minutes) for _ in range(min(at_once, len(items)))]
    for process in processes:
        idle.put(process)

    def one(item: T) -> R | Failure:
        process = idle.get()
        try:
            return process.do(item)
        finally:
            idle.put(process)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            return list(pool.map(one, items))
        finally:  # when the user stops the run, threads are still waiting for their processes
            for process in processes:
                process.stop()


def _attempt(work: Callable[[T], R], item: T) -> R | Failure:
    """The one place where any error of a file is caught: it must not stop the run."""
    try:
        return work(item)
    except SlideError as error:
        return Failure(str(error))
    except Exception as error:  # noqa: BLE001  # whatever a library raises ends in the ledger, its traceback in the log
        return Failure(unexpected(error), traceback.format_exc())


def _serve(work: Callable[[T], R], connection: Connection) -> None:
    """The loop of a process: it answers until the parent is gone. The parent alone handles the user's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        connection.send(None)  # ready: imports do not count as time spent on a file
        while True:
            connection.send(_attempt(work, connection.recv()))


class _Process(Generic[T, R]):
    """A process that is replaced when it dies."""

    _one_by_one = threading.Lock()  # starting and ending processes is not thread-safe

    def __init__(self, work: Callable[[T], R], seconds: float) -> None:
        self._work, self._seconds = work, seconds
        self._running: tuple[multiprocessing.process.BaseProcess, Connection] | None = None
        self._stopped = False

    def do(self, item: T) -> R | Failure:
        """The result, or the reason why the process died or was killed."""
        cause = "stopped"
        for _ in range(TRIES):
            if self._stopped:
                break
            try:
                _, connection = self._running or self._start()
                connection.send(item)
                if not connection.poll(self._seconds):
                    self._end(grace=0)
                    return Failure(
                        f"opening took longer than {self._seconds / 60:g} minutes; check that its disk is reachable"
                    )
                return connection.recv()
            except (EOFError, OSError):
                cause = self._end(grace=1)
        return Failure(f"opening it crashed the process ({cause}), {TRIES} times: damaged file, or too little memory")

    def stop(self) -> None:
        """Kill the process, which another thread may be waiting for, and never start one again."""
        self._stopped = True
        with self._one_by_one:
            if self._running:
                self._running[0].kill()

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        context: Any = multiprocessing.get_context(METHOD)
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._work, theirs), daemon=True)
        with self._one_by_one:
            process.start()
        theirs.close()
        self._running = process, ours
        if not ours.poll(STARTING_SECONDS):
            raise TimeoutError(f"no answer within {STARTING_SECONDS:g} s of its start")
        ours.recv()
        return self._running

    def _end(self, *, grace: float) -> str:
        """End the process, after as many seconds of grace; return how it ended."""
        assert self._running
        process, connection = self._running
        self._running = None
        with self._one_by_one:
            process.join(grace)
            process.kill()
            process.join(1)  # a process that waits for a disk within the kernel cannot be killed
        connection.close()
        code = process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
