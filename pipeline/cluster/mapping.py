"""Work for Dask: a slide or a fold is a task; arrays never travel, only names and small results."""

import faulthandler
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from dask.distributed import Future, KilledWorker, as_completed, get_worker

from pipeline.cluster.workers import BEGUN, DEATH, Workers, told_if_no_worker_is_left
from pipeline.terminal.progress import track
from preprocessing.io.errors import RunError, SlideError

log = logging.getLogger(__name__)
S = TypeVar("S", bound="SlideWork")
J = TypeVar("J")
R = TypeVar("R")


class SlideWork(Protocol):
    """A slide, or a part of one."""

    @property
    def slide_id(self) -> str:
        """Whose outcome it becomes."""


@dataclass(frozen=True)
class Outcome:
    """What became of one slide in one stage.

    Attributes:
        status: done, reused or failed.
        tiles: name of the slide's group of tiles in the store.
        trace: for the log.
    """

    slide_id: str
    status: str
    reason: str = ""
    n_tiles: int = 0
    seconds: float = 0.0
    tiles: str = ""
    trace: str = ""

    def after(self, earlier: "Outcome") -> "Outcome":
        """This stage's outcome, with the time and the tiles of the stage before."""
        return replace(self, seconds=self.seconds + earlier.seconds, tiles=self.tiles or earlier.tiles)

    def beside(self, other: "Outcome | None") -> "Outcome":
        """The outcome of a slide of which this is a part and `other` what is known of the rest."""
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


@told_if_no_worker_is_left()
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
    """Do `work(slide, **options)` for each slide, the largest first; a slide that fails becomes an outcome that says why.

    A worker process that dies takes down every slide that waits on it. So those slides are tried again, each alone:
    only a slide that kills its worker then has failed. One that took too long is not tried again.

    Args:
        workers: where.
        work: what.
        slides: on which.
        stage: what it is called.
        size: how much work a slide is.
        unit: what `size` counts, where that tells the user something.
        options: of `work`.

    Raises:
        RunError: what none of the slides can help, as a full disk.
    """
    if not slides:
        return []
    largest_first = sorted(slides, key=size, reverse=True)
    submit = partial(workers.submit, _guarded, work, workers.slide_seconds, **options)
    futures = {submit(slide): slide for slide in largest_first}
    outcomes, lost = [], []
    shown = track(
        as_completed(list(futures), loop=workers.client.loop),
        stage=stage,
        total=len(futures),
        things="slides",
        size=lambda future: size(futures[future]),
        whole=sum(map(size, slides)),
        unit=unit,
    )
    for future in shown:
        slide = futures[future]
        try:
            outcomes.append(_logged(workers.told(future.result()), stage))
        except KilledWorker:
            if reason := workers.why_lost(future.key):
                outcomes.append(_logged(Outcome(slide.slide_id, "failed", reason), stage))
            else:
                log.warning("%s %s: its worker process died; it is tried again, alone", stage, slide.slide_id)
                lost.append(slide)
        except RunError:
            workers.client.cancel(list(futures))
            raise
        future.release()
    return outcomes + [_logged(_alone(workers, submit(slide), slide), stage) for slide in lost]


def _alone(workers: Workers, future: Future, slide: SlideWork) -> Outcome:
    """The outcome of a slide whose worker died before, now that no other is beside it."""
    try:
        return workers.told(future.result())
    except KilledWorker:
        reason = workers.why_lost(future.key) or f"its worker process died, also when it was alone: {DEATH}"
        return Outcome(slide.slide_id, "failed", reason)


def _logged(outcome: Outcome, stage: str) -> Outcome:
    level = logging.WARNING if outcome.status == "failed" else logging.DEBUG
    log.log(level, "%s %s: %s %s", stage, outcome.slide_id, outcome.status, outcome.reason)
    if outcome.trace:
        log.debug("%s %s: %s", stage, outcome.slide_id, outcome.trace)
    return outcome


def _guarded(work: Callable[..., Outcome], limit: float | None, slide: SlideWork, **options: Any) -> Outcome:
    """The one place where any error of a slide is caught: it must not stop the others."""
    start = time.perf_counter()
    try:
        with _ended_after(limit):
            return replace(work(slide, **options), seconds=time.perf_counter() - start)
    except RunError:
        raise
    except SlideError as error:
        return Outcome(slide.slide_id, "failed", str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001  # whatever a slide or codec raises ends in the ledger, its trace in the log
        reason = f"{type(error).__name__}: {error}"
        return Outcome(
            slide.slide_id, "failed", reason, seconds=time.perf_counter() - start, trace=traceback.format_exc()
        )


@contextmanager
def _ended_after(seconds: float | None) -> Iterator[None]:
    """Ends this worker process, wherever in a library it hangs, when the time is over; not the process of the run itself."""
    worker = get_worker()
    worker.log_event(BEGUN, worker.get_current_task())
    if seconds is None or worker.nanny is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@told_if_no_worker_is_left()
def map_jobs(
    workers: Workers, work: Callable[[J], R], jobs: Sequence[J], *, stage: str, things: str = "jobs"
) -> list[R]:
    """`work(job)` for each, in the order given; the first error ends the run.

    Jobs whose worker process died are done again, each alone.

    Args:
        workers: who does it.
        work: a function of a module.
        jobs: each is named by its `str`, where its worker dies.
        stage: what is done, for progress and log.
        things: what the jobs are, for progress.

    Raises:
        RunError: a worker process died of a job that was alone.
    """
    if not jobs:
        return []
    client = workers.client
    futures = {workers.submit(work, job): number for number, job in enumerate(jobs)}
    results: dict[int, R] = {}
    for future in track(as_completed(list(futures), loop=client.loop), stage=stage, total=len(futures), things=things):
        number = futures[future]
        try:
            results[number] = workers.told(future.result())
            log.debug("%s %s: done", stage, jobs[number])
        except KilledWorker:
            log.warning("%s %s: its worker process died; it is done again, alone", stage, jobs[number])
        except Exception:
            client.cancel(list(futures))
            raise
        future.release()
    for number in sorted(set(futures.values()) - results.keys()):
        try:
            results[number] = workers.told(workers.submit(work, jobs[number]).result())
        except KilledWorker:
            reason = f"its worker process died, also when it was alone: {DEATH}"
            raise RunError(f"{stage} {jobs[number]}: {reason}") from None
    return [results[number] for number in range(len(jobs))]
