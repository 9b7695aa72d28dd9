"""The same done with many files, each in a process apart: one that crashes a library, or hangs it, takes nothing else along."""

import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from preprocessing.errors import RunError, SlideError

log = logging.getLogger(__name__)
STALLED_MINUTES = 1.0  # a process that is killed while it takes a thing can keep all others from taking any
POOLS = 3  # of which one takes over from another that broke
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
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

    Raises:
        RunError: processes die before they begin, again and again.
    """
    answers: list[R | Lost] = []
    for _ in range(POOLS):
        if len(answers) == len(things):
            break
        try:
            _in_a_pool(work, things[len(answers) :], answers, at_once=at_once, minutes=minutes)
        except BrokenProcessPool as death:
            log.debug("a process that opens slides died (%s); %d are left to open", death, len(things) - len(answers))
    if len(answers) < len(things):
        raise RunError(
            f"processes that open slides died before they began, {POOLS} times: short of memory? Free some, and give the "
            "same command again"
        )
    return answers


def _in_a_pool(
    work: Callable[[T], R], things: Sequence[T], answers: list[R | Lost], *, at_once: int, minutes: float
) -> None:
    """Adds an answer for each; raises BrokenProcessPool where a process died at no thing, which gives all of them up."""
    with ProcessPool(min(at_once, len(things)), context=multiprocessing.get_context(METHOD)) as pool:

        def begin(thing: T) -> "Future[R | Lost]":
            try:
                return pool.schedule(_attempt, (work, thing), timeout=60 * minutes)
            except RuntimeError as error:
                raise BrokenProcessPool(str(error)) from error

        def done() -> int:
            return sum(future.done() for future in begun)

        try:
            begun = [begin(thing) for thing in things]
            for first, thing in zip(begun, things, strict=True):
                answers.append(_answer(first, partial(begin, thing), minutes, done))
        except BaseException:  # where the user stops the run, nobody waits for what hangs
            pool.stop()
            raise


def _answer(
    first: "Future[R | Lost]", again: Callable[[], "Future[R | Lost]"], minutes: float, done: Callable[[], int]
) -> R | Lost:
    """The result; or what became of the process: it is begun again once, since a process may die of what others take."""
    with suppress(ProcessExpired):
        return _in_time(first, minutes, done)
    try:
        return _in_time(again(), minutes, done)
    except ProcessExpired as death:
        code = death.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Lost(f"its process died while it was opened ({cause}), twice: damaged, or short of memory")


def _in_time(future: "Future[R | Lost]", minutes: float, done: Callable[[], int]) -> R | Lost:
    """The result. Where nothing at all is done in the time of two things, no process takes any more: the pool is broken."""
    before = done()
    while not wait([future], 60 * (2 * minutes + STALLED_MINUTES)).done:
        if (now := done()) == before:
            raise BrokenProcessPool("no process takes what is there to do")
        before = now
    try:
        return future.result()
    except TimeoutError:
        return Lost(f"took longer than {minutes:g} minutes to be opened; is its disk there?")


def _attempt(work: Callable[[T], R], thing: T) -> R | Lost:
    """The one place where any error of a file that is opened is caught: it must not stop the run."""
    try:
        return work(thing)
    except SlideError as error:
        return Lost(str(error))
    except Exception as error:  # noqa: BLE001  # whatever a library raises ends in the ledger, its trace in the log
        return Lost(f"{type(error).__name__}: {error}", traceback.format_exc())
