"""Mapping functions over slides and jobs with Dask; arrays never travel, only names and small results."""

import faulthandler
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.cluster.workers import CRASH_CAUSES, LAST_SHARE, STARTED, UNLIMITED, Workers, translate_dask_errors
from pipeline.terminal.progress import Effort, track
from preprocessing.io.errors import RunError, SlideError, unexpected
from preprocessing.io.gpu import gpu_failures

if TYPE_CHECKING:  # where all is reused, nothing needs Dask
    from dask.distributed import Future

log = logging.getLogger(__name__)
CRASHED_AGAIN = "worker crashed again in isolation"
_slot = threading.local()  # of the slide of this thread: its time limit, and whether it has left its slot to the next
_overlap = threading.Semaphore(1)  # so that no more than two slides are in work at once, each with its buffers
S = TypeVar("S", bound="SlideWork")
J = TypeVar("J")
R = TypeVar("R")


class SlideWork(Protocol):
    """A slide, or a part of one."""

    @property
    def slide_id(self) -> str:
        """Id of the slide that the outcome is of."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one slide in one stage.

    Attributes:
        slide_id: of the slide.
        status: done, reused or failed.
        reason: why it failed, or a remark on how it was done.
        n_tiles: number of its tiles.
        seconds: time that a worker took.
        tiles: key of its tiles in the store.
        trace: traceback of an unexpected error, for the log.
    """

    slide_id: str
    status: str
    reason: str = ""
    n_tiles: int = 0
    seconds: float = 0.0
    tiles: str = ""
    trace: str = ""

    def after(self, earlier: "Outcome") -> "Outcome":
        """Return this outcome with the time and the tiles of the stage before added."""
        return replace(self, seconds=self.seconds + earlier.seconds, tiles=self.tiles or earlier.tiles)

    def combined(self, other: "Outcome | None") -> "Outcome":
        """Return the outcome of a slide from this, of one part, and `other`, of the parts before."""
        if other is None:
            return self
        worse = self if self.status == "failed" else other
        return replace(worse, n_tiles=self.n_tiles + other.n_tiles, seconds=self.seconds + other.seconds)

    def as_row(self) -> dict[str, object]:
        """Return its columns of `slides.csv`."""
        seconds = round(self.seconds, 2)
        return {
            "status": self.status,
            "reason": self.reason,
            "n_tiles": self.n_tiles,
            "seconds": seconds,
            "tiles": self.tiles,
        }


@translate_dask_errors()
def map_slides(
    workers: Workers,
    work: Callable[..., Outcome],
    slides: Sequence[S],
    *,
    stage: str,
    size: Callable[[S], float],
    unit: str = "",
    **options: Any,
) -> list[Outcome]:
    """Call `work(slide, **options)` for each slide on the workers, the largest first.

    A slide that raises an error becomes an outcome `failed`. A worker that crashes takes down every slide that waits for
    it, so these are retried one by one: only a slide that crashes its worker then has failed. A slide over the time limit
    is not retried.

    Args:
        workers: the processes that do the work.
        work: function of a slide that returns its outcome.
        slides: slides, or parts of slides.
        stage: name of the stage, for progress and log.
        size: amount of work of a slide.
        unit: unit of `size`, to print its rate; empty: no rate.
        options: keyword arguments of `work`.

    Returns:
        An outcome for each slide or part, in no particular order.

    Raises:
        RunError: an error that is not of a slide, such as a full disk, or a GPU that failed.
    """
    if not slides:
        return []
    from dask.distributed import KilledWorker, as_completed

    workers.start(len(slides))
    largest_first = sorted(slides, key=size, reverse=True)
    submit = partial(workers.submit, _guarded, work, workers.slide_seconds, **options)
    futures = {submit(slide): slide for slide in largest_first}
    outcomes, lost = [], []
    effort = Effort(lambda future: size(futures[future]), sum(map(size, slides)), unit)
    completed = as_completed(list(futures), loop=workers.client.loop)
    for future in track(completed, stage=stage, total=len(futures), things="slides", effort=effort):
        slide = futures[future]
        try:
            outcomes.append(_logged(future.result(), stage))
        except KilledWorker:
            if reason := workers.timeout_reason(future.key):
                outcomes.append(_logged(Outcome(slide.slide_id, "failed", reason), stage))
            else:
                log.warning("%s %s: worker crashed; retrying in isolation", stage, slide.slide_id)
                lost.append(slide)
        except RunError:
            workers.client.cancel(list(futures))
            raise
        future.release()
    return outcomes + [_logged(_retried(workers, submit(slide), slide), stage) for slide in lost]


def _retried(workers: Workers, future: "Future", slide: SlideWork) -> Outcome:
    """Wait for a slide whose worker crashed before, while no other slide is being worked on."""
    from dask.distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        reason = workers.timeout_reason(future.key, alone=True) or f"{CRASHED_AGAIN}: {CRASH_CAUSES}"
        return Outcome(slide.slide_id, "failed", reason)


def _logged(outcome: Outcome, stage: str) -> Outcome:
    level = logging.WARNING if outcome.status == "failed" else logging.DEBUG
    log.log(level, "%s %s: %s %s", stage, outcome.slide_id, outcome.status, outcome.reason)
    if outcome.trace:
        log.debug("%s %s: %s", stage, outcome.slide_id, outcome.trace)
    return outcome


def _guarded(work: Callable[..., Outcome], limit: float | None, slide: SlideWork, **options: Any) -> Outcome:
    """Turn an error of a slide into its outcome, the one place that does so: it must not stop the others."""
    start = time.perf_counter()
    try:
        with _time_limit(limit), gpu_failures(f"slide {slide.slide_id}"):
            return replace(work(slide, **options), seconds=time.perf_counter() - start)
    except RunError:
        raise
    except SlideError as error:
        return Outcome(slide.slide_id, "failed", str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001  # any error of a slide or codec goes to the ledger, its traceback to the log
        return Outcome(
            slide.slide_id,
            "failed",
            unexpected(error),
            seconds=time.perf_counter() - start,
            trace=traceback.format_exc(),
        )


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """End this worker process after so many seconds, wherever in a library it hangs; never the process of the run itself."""
    from dask.distributed import get_worker

    worker = get_worker()
    worker.log_event(STARTED, worker.get_current_task())
    _slot.limit = None if worker.nanny is None else seconds
    _slot.is_free, _slot.timer = False, None
    if _slot.limit is not None:
        faulthandler.dump_traceback_later(_slot.limit, exit=True)
    try:
        yield
    finally:
        if _slot.timer:
            _slot.timer.cancel()
        if _slot.is_free:  # the limit of faulthandler, which has only one, is that of the next slide
            _overlap.release()
        elif _slot.limit is not None:
            faulthandler.cancel_dump_traceback_later()


def free_slot() -> None:
    """Let the worker begin its next slide, once nothing is left to read of this one.

    The batches that are left to compute have nine tenths of the time limit; if that is not enough, the worker is ended, and the
    slide tried once more, alone. A timer ends it, which a library that keeps Python's lock would hold up: waiting for a GPU does
    not. Where the slide before this one is not at its end yet, the worker keeps its slot: at most two slides are in work.
    """
    from dask.distributed import get_worker, secede

    if not _overlap.acquire(blocking=False):
        return
    if _slot.limit is not None:
        faulthandler.cancel_dump_traceback_later()
        _slot.timer = threading.Timer(LAST_SHARE * _slot.limit, _end_process)
        _slot.timer.daemon = True
        _slot.timer.start()
    worker = get_worker()
    worker.log_event(UNLIMITED, worker.get_current_task())
    _slot.is_free = True
    secede()


def _end_process() -> None:
    try:
        faulthandler.dump_traceback()
    finally:
        os._exit(1)


@translate_dask_errors()
def map_jobs(
    workers: Workers,
    work: Callable[[J], R],
    jobs: Sequence[J],
    *,
    stage: str,
    things: str = "jobs",
    in_process: bool = False,
) -> list[R]:
    """Call `work(job)` for each job on the workers; the first error ends the run.

    Jobs whose worker crashed are retried one by one.

    Args:
        workers: the processes that do the work.
        work: function of a job, of a module.
        jobs: their `str` names them in the log.
        stage: name of the stage, for progress and log.
        things: plural noun for the jobs, for progress.
        in_process: do a single job in this process where no worker runs yet; not for jobs that open slides, since a file
            that crashes its library would end the run.

    Returns:
        The results, in the order of the jobs.

    Raises:
        RunError: a job crashed its worker in isolation, or its GPU failed.
    """
    if not jobs:
        return []
    if in_process and len(jobs) == 1 and workers.can_be_spared:
        return [_named(work, stage, job) for job in track(jobs, stage=stage, total=1, things=things)]
    from dask.distributed import KilledWorker, as_completed

    client = workers.start(len(jobs))
    futures = {workers.submit(_named, work, stage, job): number for number, job in enumerate(jobs)}
    results: dict[int, R] = {}
    for future in track(as_completed(list(futures), loop=client.loop), stage=stage, total=len(futures), things=things):
        number = futures[future]
        try:
            results[number] = future.result()
            log.debug("%s %s: done", stage, jobs[number])
        except KilledWorker:
            log.warning("%s %s: worker crashed; retrying in isolation", stage, jobs[number])
        except Exception:  # whatever ends the stage; raised again once the jobs that still wait are cancelled
            client.cancel(list(futures))
            raise
        future.release()
    for number in sorted(set(futures.values()) - results.keys()):
        try:
            results[number] = workers.submit(_named, work, stage, jobs[number]).result()
        except KilledWorker:
            reason = f"{CRASHED_AGAIN}: {CRASH_CAUSES}"
            raise RunError(f"{stage} {jobs[number]}: {reason}") from None
    return [results[number] for number in range(len(jobs))]


def _named(work: Callable[[J], R], stage: str, job: J) -> R:
    """Call `work(job)`; a failure of the GPU is a RunError that names the job."""
    with gpu_failures(f"{stage} {job}"):
        return work(job)
