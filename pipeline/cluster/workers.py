"""Dask workers: processes of this machine, those of another's scheduler, or jobs of a Slurm cluster."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import dask
from dask.distributed import Client, Future, LocalCluster
from dask.system import CPU_COUNT
from distributed.client import FutureCancelledError
from distributed.scheduler import NoWorkerError

from pipeline.cluster.slurm import SlurmConfig, slurm_cluster
from pipeline.cluster.warnings import OnceEach, Warned, with_warnings
from pipeline.cluster.worker_processes import METHOD, WORKER_ENVIRONMENT, start_server
from preprocessing.io.code_fingerprint import code_fingerprint
from preprocessing.io.errors import InputError, RunError, some

log = logging.getLogger(__name__)
DASK_SETTINGS = {
    # A task whose worker dies is not tried again beside others, whose worker it may take with it: see `compute.map_slides`.
    "distributed.scheduler.allowed-failures": 0,
    # By default a worker that is not there 15 seconds after it died, since it died again, is never started again: with
    # a few such slides there is soon no worker left, and the run waits for ever.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Results are small and nothing is held by Dask. A worker that is paused for the memory it uses, or has kept for itself,
    # would never go on, and nor would the run; one that takes nearly all of it is still ended, and its slide tried again.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # By default a worker writes down where in the program it is, a hundred times a second, and keeps that for an hour.
    "distributed.worker.profile.enabled": False,
}
# A process has a share of the machine's memory, and is ended when it takes 95 % of that.
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
BEGUN = "umeml-pipeline-begun"  # Dask's topic of the tasks that are begun
CONNECT_SECONDS = 10
NO_WORKER_MINUTES = 10.0  # that a run waits for workers to come back to another's scheduler
NO_WORKER = "no-worker"  # Dask's word for why a task was given up, where it was for that
DEATH = "short of memory, or a fault in a library; fewer --workers leave more memory to each"
LOOK_SECONDS = 10  # between looks whether there are workers
CLOSE_SECONDS = 10  # Dask can wait for ever for a worker that died while it started; what is left ends with the run
R = TypeVar("R")


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


@contextmanager
def told_if_no_worker_is_left() -> Iterator[None]:
    """Turns what Dask raises where nobody is left to do the work into a RunError with the remedy."""
    again = "start the same command again{}, and it goes on from what is finished"
    try:
        yield
    except (NoWorkerError, FutureCancelledError) as error:
        if isinstance(error, FutureCancelledError) and error.reason != NO_WORKER:
            raise RunError(f"the Dask scheduler is gone ({error.reason}); {again.format('')}") from None
        longer = again.format(", with a longer walltime where it ran out")
        raise RunError(
            f"no worker is left ({getattr(error, 'msg', None) or error}): their jobs have ended, or their machines; {longer}"
        ) from None


class Workers:
    """Dask workers for a run: processes of one thread each, by default one a core, or one a GPU. They start when first needed.

    Args:
        count: how many; 0 works inside this process (nothing to start: for small jobs and debugging).
        device: cpu, cuda or auto; on CUDA there is one worker a GPU, through dask-cuda where it is installed.
        scheduler: address of a Dask scheduler that is there already; its workers are used as they are.
        slurm: jobs of a Slurm cluster, which are submitted when first needed, and end with the run.
        slide_seconds: a worker process that takes longer over a slide, or over its share of one, is ended.
    """

    def __init__(
        self,
        count: int | None,
        device: str,
        scheduler: str | None = None,
        *,
        slurm: SlurmConfig | None = None,
        slide_seconds: float | None = None,
    ) -> None:
        self.count, self.wanted_device, self.scheduler, self.slurm = count, device, scheduler, slurm
        self.slide_seconds = slide_seconds
        self._warnings = OnceEach()
        self.begun: dict[object, float] = {}  # by task: when its worker said so, on this process' monotonic clock
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "client" in self.__dict__:
            self._close(self.client)

    def _close(self, client: Client) -> None:
        cluster: Any = client.cluster
        self._closed.set()
        client.close()
        if self.scheduler is None:  # else it is another's
            with suppress(TimeoutError):
                cluster.close(timeout=CLOSE_SECONDS)

    @property
    def elsewhere(self) -> bool:
        """Whether the workers may be on other machines."""
        return self.scheduler is not None or self.slurm is not None

    @cached_property
    def device(self) -> str:
        """ "cuda" or "cpu"; raises InputError where CUDA is asked for and absent."""
        return self.ask(choose_device, self.wanted_device)

    def on_cores(self) -> AbstractContextManager["Workers"]:
        """Workers for what needs no GPU: one for each core of this machine, where these are one for each of its GPUs."""
        if self.elsewhere or self.device == "cpu":
            return nullcontext(self)
        return Workers(None, "cpu", slide_seconds=self.slide_seconds)

    @cached_property
    def client(self) -> Client:
        """The Dask client."""
        dask.config.set(DASK_SETTINGS)  # for good: some of them are read when a worker dies
        for name in ("distributed", "distributed.client"):  # which write to the terminal by themselves
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True
        client = Client(self._cluster(), set_as_default=False) if self.scheduler is None else self._join()
        try:
            if self.slurm is not None:
                _wait_for_a_job(client, self.slurm)
            if self.elsewhere:
                _require_same_program(client)
        except BaseException:
            self._close(client)
            raise
        client.subscribe_topic(BEGUN, self._note)
        if self.elsewhere:
            threading.Thread(target=self._watch, args=(client,), name="watch", daemon=True).start()
        _show_dashboard(client, here=self.scheduler is None)
        return client

    def submit(self, work: Callable[..., R], *arguments: Any, **options: Any) -> Future:
        """Have it done; the future's result goes through `told`."""
        return self.client.submit(with_warnings, work, *arguments, pure=False, **options)

    def told(self, result: tuple[R, list[Warned]]) -> R:
        """What a worker returned, when its warnings have been told; those of one inside this process are already."""
        if self.elsewhere or self.count != 0:
            self._warnings.tell(result[1])
        return result[0]

    def _note(self, event: tuple[float, str]) -> None:
        self.begun[event[1]] = time.monotonic()

    def why_lost(self, task: object) -> str:
        """Why the worker process of a task died, as far as can be told; "" where it may do better another time."""
        limit = self.slide_seconds
        if limit is None or task not in self.begun or time.monotonic() - self.begun[task] < limit:
            return ""
        return f"took longer than {limit / 60:g} minutes; give more with --set slide_minutes={limit / 30:g}"

    def _watch(self, client: Client) -> None:
        """Gives all tasks up when there has been no worker for too long: Dask would wait for ever."""
        minutes = self.slurm.wait_minutes if self.slurm is not None else NO_WORKER_MINUTES
        seen = time.monotonic()
        while not self._closed.wait(min(6 * minutes, LOOK_SECONDS)):
            try:
                there = client.nthreads()
            except (OSError, RuntimeError):  # the scheduler does not answer; where it is gone, that ends all waiting
                continue
            if there:
                seen = time.monotonic()
            elif time.monotonic() - seen > 60 * minutes:
                told = f"none for {minutes:g} minutes"
                client.cancel([Future(key, client) for key in list(client.futures)], reason=NO_WORKER, msg=told)

    def _join(self) -> Client:
        """A client of the scheduler that is there."""
        try:
            client = Client(self.scheduler, set_as_default=False, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"--scheduler {self.scheduler}: no Dask scheduler answers there: {error}") from None
        if not client.nthreads():
            raise InputError(
                f"--scheduler {self.scheduler}: it has no workers; start some with `dask worker {self.scheduler}`"
            )
        return client

    def at_once(self) -> int:
        """How many tasks run at once."""
        return sum(self.client.nthreads().values())

    def expected(self) -> int:
        """How many tasks will run at once, without starting anything: an estimate where GPUs are not counted yet."""
        if self.scheduler is not None:
            return self.at_once()
        return max(1, self.count if self.count is not None else 1 if self.device == "cuda" else CPU_COUNT)

    @told_if_no_worker_is_left()
    def ask(self, question: Callable[..., R], *arguments: Any) -> R:
        """What a worker answers; asked in this process where the workers are of this machine."""
        if not self.elsewhere:
            return question(*arguments)
        return self.client.submit(question, *arguments, pure=False).result()

    def _cluster(self) -> Any:
        if self.slurm is not None:
            of_workers = {name: DASK_SETTINGS[name] for name in DASK_SETTINGS if ".worker." in name}
            gpus = self.wanted_device == "cuda"
            return slurm_cluster(self.slurm, on_gpus=gpus, environment=WORKER_ENVIRONMENT, settings=of_workers)
        if self.count == 0:
            return LocalCluster(n_workers=1, processes=False, **LOCAL)
        if self.device == "cuda":
            return _gpu_cluster(self.count)
        start_server()
        dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        with dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}):
            try:
                return LocalCluster(n_workers=self.count or CPU_COUNT, **LOCAL)
            except RuntimeError as error:
                raise RunError(
                    f"a worker process died while it started ({error}): {DEATH}; the same command goes on from what is finished"
                ) from error


def _wait_for_a_job(client: Client, slurm: SlurmConfig) -> None:
    log.info("waiting for the first of %d Slurm jobs to start …", slurm.jobs)
    try:
        client.wait_for_workers(1, timeout=60 * slurm.wait_minutes)
    except TimeoutError:
        raise InputError(
            f"--cluster slurm: no job started within {slurm.wait_minutes:g} minutes; see squeue and the jobs' own output, "
            "or wait longer with --set slurm.wait_minutes=…"
        ) from None


def _require_same_program(client: Client) -> None:
    """Raises InputError where workers do not have this program, or another version of it."""
    own, remedy = code_fingerprint(), "start the workers in the same environment and version of this program"
    try:
        found = client.run(code_fingerprint)
    except ModuleNotFoundError as error:
        raise InputError(f"the workers do not know this program ({error}); {remedy}") from None
    if others := sorted(address for address, code in found.items() if code != own):
        raise InputError(f"the workers at {some(others)} have another version of this program or of torch; {remedy}")


def _show_dashboard(client: Client, *, here: bool) -> None:
    """Dask's own page of what the workers do; it needs bokeh where the scheduler runs. That of this machine is for it alone."""
    if port := client.scheduler_info().get("services", {}).get("dashboard"):
        log.info("Dask dashboard: %s", f"http://127.0.0.1:{port}/status" if here else client.dashboard_link)


def _gpu_cluster(count: int | None) -> LocalCluster:
    try:
        from dask_cuda import LocalCUDACluster
    except ModuleNotFoundError:
        log.info("dask-cuda is not installed: one worker, on the first GPU")
        return LocalCluster(n_workers=1, **LOCAL)
    return LocalCUDACluster(n_workers=count, **LOCAL)
