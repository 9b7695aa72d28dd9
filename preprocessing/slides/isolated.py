"""The same done with many files, each in a process apart: one that crashes a library, or hangs it, takes nothing else along.

A process does one thing after another, so that it is always known which one it died of.
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

from preprocessing.io.errors import SlideError

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
TRIES = 2  # where memory is short, a process may be ended for what another has taken
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Lost:
    """In the place of a result, why there is none.

    Attributes:
        trace: for the log.
    """

    reason: str
    trace: str = ""


def each_here(work: Callable[[T], R], things: Sequence[T], *, at_once: int) -> list[R | Lost]:
    """`work(thing)` for each, in threads of this process, which must outlive them all."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(partial(_attempt, work), things))


def each_apart(work: Callable[[T], R], things: Sequence[T], *, at_once: int, minutes: float) -> list[R | Lost]:
    """`work(thing)` for each, in other processes; they start when there is something to do, and are gone at the end.

    Args:
        work: a function of a module, or a partial one.
        things: which travel, as do the results.
        at_once: how many processes.
        minutes: a process that takes longer over a thing is ended.
    """
    idle: SimpleQueue[_Process[T, R]] = SimpleQueue()
    processes = [_Process(work, 60 * minutes) for _ in range(min(at_once, len(things)))]
    for process in processes:
        idle.put(process)

    def one(thing: T) -> R | Lost:
        process = idle.get()
        try:
            return process.do(thing)
        finally:
            idle.put(process)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            return list(pool.map(one, things))
        finally:  # where the user stops the run, the threads still wait for their processes
            for process in processes:
                process.stop()


def _attempt(work: Callable[[T], R], thing: T) -> R | Lost:
    """The one place where any error of a file that is opened is caught: it must not stop the run."""
    try:
        return work(thing)
    except SlideError as error:
        return Lost(str(error))
    except Exception as error:  # noqa: BLE001  # whatever a library raises ends in the ledger, its trace in the log
        return Lost(f"{type(error).__name__}: {error}", traceback.format_exc())


def _serve(work: Callable[[T], R], connection: Connection) -> None:
    """What a process does: it answers until the other side is gone, which alone is to hear the user's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            connection.send(_attempt(work, connection.recv()))


class _Process(Generic[T, R]):
    """One that comes in the place of another where that has died."""

    _one_by_one = threading.Lock()  # how processes start and end is no matter of threads

    def __init__(self, work: Callable[[T], R], seconds: float) -> None:
        self._work, self._seconds = work, seconds
        self._running: tuple[multiprocessing.process.BaseProcess, Connection] | None = None
        self._stopped = False

    def do(self, thing: T) -> R | Lost:
        """The result; or what became of the process, which then was ended."""
        cause = "stopped"
        for _ in range(TRIES):
            if self._stopped:
                break
            _, connection = self._running or self._start()
            try:
                connection.send(thing)
                if not connection.poll(self._seconds):
                    self._end(grace=0)
                    return Lost(f"took longer than {self._seconds / 60:g} minutes to be opened; is its disk there?")
                return connection.recv()
            except (EOFError, OSError):
                cause = self._end(grace=1)
        return Lost(f"its process died while it was opened ({cause}), {TRIES} times: damaged, or short of memory")

    def stop(self) -> None:
        """Ends the process, which another thread may wait for, and starts none any more."""
        self._stopped = True
        with self._one_by_one:
            if self._running:
                self._running[0].kill()

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        context: Any = multiprocessing.get_context(METHOD)
        own, other = context.Pipe()
        process = context.Process(target=_serve, args=(self._work, other), daemon=True)
        with self._one_by_one:
            process.start()
        other.close()
        self._running = process, own
        return self._running

    def _end(self, *, grace: float) -> str:
        """How it ended; by itself, where it did so within as many seconds."""
        assert self._running
        process, connection = self._running
        self._running = None
        with self._one_by_one:
            process.join(grace)
            process.kill()
            process.join(1)  # one that waits for a disk in the kernel does not hear
        connection.close()
        code = process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
