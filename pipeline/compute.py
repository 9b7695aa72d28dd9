"""Dask: where the work is done. A slide or a fold is a task; arrays never travel, only names and small results."""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import dask
from dask.distributed import Client, KilledWorker, LocalCluster, as_completed
from dask.system import CPU_COUNT

from pipeline.progress import track
from pipeline.worker_processes import METHOD, WORKER_ENVIRONMENT, start_server
from preprocessing.errors import InputError, SlideError

log = logging.getLogger(__name__)
DASK_SETTINGS = {
    # A task whose worker dies is tried once more; by default three times, and each death harms its neighbours.
    "distributed.scheduler.allowed-failures": 1,
    # By default a worker that is not there 15 seconds after it died, since it died again, is never started again: with
    # a few such slides there is soon no worker left, and the run waits for ever.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Results are small and nothing is held by Dask. A worker that is paused for the memory it uses, or has kept for itself,
    # would never go on, and nor would the run; one that takes nearly all of it is still ended, and its slide tried again.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}
CONNECT_SECONDS = 10
CLOSE_SECONDS = 10  # Dask can wait for ever for a worker that died while it started; what is left ends with the run
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

    def told(self) -> dict[str, object]:
        """The columns of the ledger."""
        seconds = round(self.seconds, 2)
        return {
            "status": self.status,
            "reason": self.reason,
            "n_tiles": self.n_tiles,
            "seconds": seconds,
            "tiles": self.tiles,
        }


def choose_device(wanted: str) -> str:
    """ "cuda" or "cpu"; raises InputError where CUDA is asked for and absent."""
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return "cpu"


class Workers:
    """Dask workers for a run: processes of one thread each, by default one a core, or one a GPU. They start when first needed.

    Args:
        count: how many; 0 works inside this process (nothing to start: for small jobs and debugging).
        device: cpu, cuda or auto; on CUDA there is one worker a GPU, through dask-cuda where it is installed.
        scheduler: address of a Dask scheduler that is there already; its workers are used as they are.
    """

    def __init__(self, count: int | None, device: str, scheduler: str | None = None) -> None:
        self.count, self.wanted_device, self.scheduler = count, device, scheduler

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "client" in self.__dict__:
            cluster: Any = self.client.cluster
            self.client.close()
            if self.scheduler is None:
                with suppress(TimeoutError):
                    cluster.close(timeout=CLOSE_SECONDS)

    @cached_property
    def device(self) -> str:
        """ "cuda" or "cpu"; raises InputError where CUDA is asked for and absent."""
        return self.ask(choose_device, self.wanted_device)

    def on_cores(self) -> AbstractContextManager["Workers"]:
        """Workers for what needs no GPU: one for each core of this machine, where these are one for each of its GPUs."""
        if self.scheduler is not None or self.device == "cpu":
            return nullcontext(self)
        return Workers(None, "cpu")

    @cached_property
    def client(self) -> Client:
        """The Dask client."""
        dask.config.set(DASK_SETTINGS)  # for good: some of them are read when a worker dies
        if self.scheduler is None:
            client = Client(self._cluster(), set_as_default=False)
            _show_dashboard(client)
            return client
        try:
            client = Client(self.scheduler, set_as_default=False, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"--scheduler {self.scheduler}: no Dask scheduler answers there: {error}") from None
        if not client.nthreads():
            raise InputError(
                f"--scheduler {self.scheduler}: it has no workers; start some with `dask worker {self.scheduler}`"
            )
        _show_dashboard(client)
        return client

    def at_once(self) -> int:
        """How many tasks run at once."""
        return sum(self.client.nthreads().values())

    def expected(self) -> int:
        """How many tasks will run at once, without starting anything: an estimate where GPUs are not counted yet."""
        if self.scheduler is not None:
            return self.at_once()
        return max(1, self.count if self.count is not None else 1 if self.device == "cuda" else CPU_COUNT)

    def ask(self, question: Callable[..., R], *arguments: Any) -> R:
        """What a worker answers; asked in this process where the workers are of this machine."""
        if self.scheduler is None:
            return question(*arguments)
        return self.client.submit(question, *arguments, pure=False).result()

    def _cluster(self) -> LocalCluster:
        if self.count == 0:
            return LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
        if self.device == "cuda":
            return _gpu_cluster(self.count)
        start_server()
        dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        with dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}):
            return LocalCluster(n_workers=self.count or CPU_COUNT, threads_per_worker=1, dashboard_address=":0")


def _show_dashboard(client: Client) -> None:
    """Dask's own page of what the workers do; it needs bokeh where the scheduler runs."""
    if client.scheduler_info().get("services", {}).get("dashboard"):
        log.info("Dask dashboard: %s", client.dashboard_link)


def _gpu_cluster(count: int | None) -> LocalCluster:
    try:
        from dask_cuda import LocalCUDACluster
    except ModuleNotFoundError:
        log.info("dask-cuda is not installed: one worker, on the first GPU")
        return LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    return LocalCUDACluster(n_workers=count, threads_per_worker=1, dashboard_address=":0")


def one_thread() -> None:
    """Cores are shared by processes, not by the threads of one: a worker computes with a single thread."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


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
    only a slide that kills its worker then has failed.

    Args:
        workers: where.
        work: what.
        slides: on which.
        stage: what it is called.
        size: how much work a slide is.
        unit: what `size` counts, where that tells the user something.
        options: of `work`.
    """
    if not slides:
        return []
    largest_first = sorted(slides, key=size, reverse=True)
    submit = partial(workers.client.submit, _guarded, work, pure=False, **options)
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
        try:
            outcomes.append(_logged(future.result(), stage))
        except KilledWorker:
            lost.append(futures[future])
        future.release()
    for slide in lost:
        try:
            outcome = submit(slide).result()
        except KilledWorker:
            reason = "its worker process died, also when it was alone: short of memory, or a fault in a library"
            outcome = Outcome(slide.slide_id, "failed", f"{reason}; fewer --workers leave more memory to each")
        outcomes.append(_logged(outcome, stage))
    return outcomes


def _logged(outcome: Outcome, stage: str) -> Outcome:
    level = logging.WARNING if outcome.status == "failed" else logging.DEBUG
    log.log(level, "%s %s: %s %s", stage, outcome.slide_id, outcome.status, outcome.reason)
    if outcome.trace:
        log.debug("%s", outcome.trace)
    return outcome


def _guarded(work: Callable[..., Outcome], slide: SlideWork, **options: Any) -> Outcome:
    """The one place where any error of a slide is caught: it must not stop the others."""
    start = time.perf_counter()
    try:
        return replace(work(slide, **options), seconds=time.perf_counter() - start)
    except SlideError as error:
        return Outcome(slide.slide_id, "failed", str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001  # whatever a slide or codec raises ends in the ledger, its trace in the log
        reason = f"{type(error).__name__}: {error}"
        return Outcome(
            slide.slide_id, "failed", reason, seconds=time.perf_counter() - start, trace=traceback.format_exc()
        )


def map_jobs(workers: Workers, work: Callable[[J], R], jobs: Sequence[J], *, stage: str) -> list[R]:
    """`work(job)` for each, in the order given; the first error ends the run."""
    client = workers.client
    futures = [client.submit(work, job, pure=False) for job in jobs]
    for future in track(as_completed(futures, loop=client.loop), stage=stage, total=len(futures), things="folds"):
        error = future.exception()
        if error is not None:
            client.cancel(futures)
            raise error.with_traceback(future.traceback())
    return client.gather(futures)
