"""Dask workers: processes on this machine, those of a running scheduler, or jobs of a Slurm cluster."""

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pipeline.cluster.gpus import folds_per_gpu, may_have_gpu, visible_gpus, why_no_cuda
from pipeline.cluster.slurm import SlurmConfig, slurm_cluster
from pipeline.cluster.worker_processes import METHOD, SHARED_BYTES, WORKER_ENVIRONMENT, start_server
from preprocessing.io.code_fingerprint import code_fingerprint
from preprocessing.io.errors import InputError, RunError, some

if TYPE_CHECKING:  # a dry run needs no Dask
    from dask.distributed import Client, Future

log = logging.getLogger(__name__)
DASK_SETTINGS = {
    # Tasks of a crashed worker are retried by `map_slides` and `map_jobs`, one by one, and not by Dask beside others.
    "distributed.scheduler.allowed-failures": 0,
    # By default a worker that is missing 15 seconds after a crash, because it crashed again, is never restarted: after a
    # few such slides no worker is left, and the run waits for ever.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Results are small and Dask holds nothing. A worker paused for its use of memory would never resume, nor would the
    # run; one that uses nearly all of its share is still ended, and its slide retried.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # By default workers sample their call stack a hundred times a second, and keep the samples for an hour.
    "distributed.worker.profile.enabled": False,
}
# A process has a share of the machine's memory, and is ended when it uses 95 % of that.
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
STARTED = "umeml-pipeline-started"  # Dask topic of the tasks that a worker has started
LAST_SHARE = 0.9  # of the limit, for what is left of a task: that which follows must not seem to be the one that hangs
UNLIMITED = "umeml-pipeline-unlimited"  # and of those that have left their slot to another
CONNECT_SECONDS = 10
NO_WORKER_MINUTES = 10.0  # a run waits as long for workers to return to a scheduler
NO_WORKER = "no-worker"  # reason with which Dask cancels tasks that no worker is left for
CRASH_CAUSES = (
    "out of memory, or a fault in a library; fewer --workers (on a GPU, folds_per_gpu) leave more memory to each"
)
RESUME = "run the same command again to resume"
POLL_SECONDS = 10  # between checks whether there are workers
CLOSE_SECONDS = 10  # Dask can wait for ever for a worker that crashed while starting; the rest ends with the run
FORWARDED = ("models", "preprocessing", "pipeline")  # loggers whose warnings workers send to the log of the run
R = TypeVar("R")


def choose_device(requested: str) -> str:
    """Return "cuda" or "cpu" for auto, cuda or cpu; raises InputError where CUDA is requested and absent."""
    if requested == "cpu" or (requested == "auto" and not may_have_gpu()):
        return "cpu"
    import torch

    with warnings.catch_warnings(record=True) as caught:  # of a driver that is too old
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return "cuda"
    if requested == "cuda":
        raise InputError(f"--device cuda: torch sees no CUDA device here ({why_no_cuda()}); use --device cpu or auto")
    for warning in caught:
        log.warning("no GPU is used: %s", str(warning.message).splitlines()[0])
    return "cpu"


@contextmanager
def translate_dask_errors() -> Iterator[None]:
    """Turn the errors that Dask raises when scheduler or workers are lost into a RunError with the remedy."""
    try:
        yield
    except _dask_errors() as error:
        if (reason := getattr(error, "reason", NO_WORKER)) != NO_WORKER:
            raise RunError(f"the Dask scheduler is gone ({reason}); {RESUME}") from None
        raise RunError(
            f"no worker is left ({getattr(error, 'msg', None) or error}): their jobs have ended, or their machines are down; "
            f"{RESUME}, with a longer walltime where it ran out"
        ) from None


def _dask_errors() -> tuple[type[Exception], ...]:
    """The errors of lost workers and of a lost scheduler; none where Dask has not been imported, and raised nothing."""
    if "distributed" not in sys.modules:
        return ()
    from distributed.client import FutureCancelledError
    from distributed.scheduler import NoWorkerError

    return NoWorkerError, FutureCancelledError


class Workers:
    """Dask workers of a run: processes of one thread each, by default one per core or GPU, started when first needed.

    Args:
        count: number of processes; 0: work in this process, for small runs and debugging.
        device: cpu, cuda or auto; on CUDA one worker per visible GPU.
        scheduler: address of a running Dask scheduler, whose workers are used as they are.
        slurm: jobs of a Slurm cluster, submitted when first needed and ended with the run.
        slide_seconds: time limit per slide or part of one, after which its worker is ended.
        per_gpu: on CUDA, number of processes on each GPU.
    """

    def __init__(
        self,
        count: int | None,
        device: str,
        scheduler: str | None = None,
        *,
        slurm: SlurmConfig | None = None,
        slide_seconds: float | None = None,
        per_gpu: int = 1,
    ) -> None:
        self.count, self.requested_device, self.scheduler, self.slurm = count, device, scheduler, slurm
        self.slide_seconds, self.per_gpu = slide_seconds, per_gpu
        self._needed: int | None = None  # processes on this machine; None: all of them
        self._started: dict[object, float] = {}  # by task, on the monotonic clock of this process
        self._left_slot: dict[object, float] = {}  # likewise, when it left its slot to another
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "client" not in self.__dict__:
            return
        if self.remote:
            with suppress(OSError, TimeoutError):  # the scheduler is gone
                for name in FORWARDED:
                    self.client.unforward_logging(name)
        self._close(self.client)

    def _close(self, client: "Client") -> None:
        cluster: Any = client.cluster
        self._closed.set()
        with _without_interruption():
            client.close()
            if self.scheduler is None:  # else it is another's
                with suppress(TimeoutError):
                    cluster.close(timeout=CLOSE_SECONDS)

    @property
    def remote(self) -> bool:
        """Whether the workers may be on other machines."""
        return self.scheduler is not None or self.slurm is not None

    @cached_property
    def device(self) -> str:
        """Device of the workers, "cuda" or "cpu"; raises InputError where CUDA is requested and absent."""
        return self.call(choose_device, self.requested_device)

    def for_cpu(self) -> AbstractContextManager["Workers"]:
        """Return workers for what needs no GPU: one per core of this machine, where these are one per GPU."""
        if self.remote or self.device == "cpu":
            return nullcontext(self)
        return Workers(None, "cpu", slide_seconds=self.slide_seconds)

    def for_folds(self, *, on_cores: bool, per_gpu: int | None) -> AbstractContextManager["Workers"]:
        """Return workers for training: several on each GPU of this machine, or one per core.

        Workers that have embedded on GPUs are ended, unless they are those that train: they would hold memory of GPU and machine.

        Args:
            on_cores: whether to train on the CPU though there is a GPU.
            per_gpu: folds that train on a GPU at once, at most; None: see `folds_per_gpu`.
        """
        if self.remote or self.device == "cpu" or self.count == 0:
            return nullcontext(self)
        if on_cores:
            log.info("genes alone: folds train on the CPU, one on each core; --device cuda trains them on the GPU")
            return Workers(self.count, "cpu", slide_seconds=self.slide_seconds)
        processes = per_gpu or folds_per_gpu(len(self._gpus()))
        if processes == 1:
            return nullcontext(self)
        log.info("training: up to %d folds at once on each GPU (folds_per_gpu)", processes)
        if "client" in self.__dict__:
            self._close(self.__dict__.pop("client"))
            self._needed, self._closed = None, threading.Event()
        return Workers(self.count, self.requested_device, slide_seconds=self.slide_seconds, per_gpu=processes)

    @property
    def can_be_spared(self) -> bool:
        """Whether none has started yet, and this process can do what one of them would."""
        return "client" not in self.__dict__ and not self.remote and self.device == "cpu"

    def start(self, tasks: int) -> "Client":
        """Return the Dask client, with as many processes on this machine as so many tasks need; none is ended.

        On a GPU that several share there are as many as the first tasks need: they divide its memory among them.
        """
        if self.remote or self.count == 0 or (self.device == "cuda" and self.per_gpu == 1):
            return self.client
        needed = min(tasks, self.expected_concurrency())
        if "client" not in self.__dict__:
            self._needed = needed
        elif self.device == "cpu" and self._needed is not None and needed > self._needed:
            self._needed = needed
            cluster: Any = self.client.cluster
            cluster.scale(needed)
        return self.client

    @cached_property
    def client(self) -> "Client":
        """The Dask client; the workers start when it is first used: all of them, unless `start` was called before."""
        import dask
        from dask.distributed import Client

        dask.config.set(DASK_SETTINGS)  # for good: some of them are read when a worker crashes
        for name in ("distributed", "distributed.client"):  # they have handlers that write to the terminal
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True
        client = Client(self._cluster(), set_as_default=False) if self.scheduler is None else self._join(self.scheduler)
        try:
            if self.slurm is not None:
                _wait_for_a_job(client, self.slurm)
            if self.remote:
                _require_same_program(client)
        except BaseException:
            self._close(client)
            raise
        client.subscribe_topic(STARTED, self._note_start)
        client.subscribe_topic(UNLIMITED, self._note_unlimited)
        if self.remote or self.count != 0:  # inside this process the log has them already
            for name in FORWARDED:
                client.forward_logging(name, level=logging.WARNING)
        if self.remote:
            threading.Thread(target=self._watch, args=(client,), name="watch", daemon=True).start()
        _show_dashboard(client, here=self.scheduler is None)
        return client

    def submit(self, work: Callable[..., Any], *arguments: Any, **options: Any) -> "Future":
        """Submit a call to a worker."""
        return self.client.submit(work, *arguments, pure=False, **options)

    def _note_start(self, event: tuple[float, str]) -> None:
        self._started[event[1]] = time.monotonic()

    def _note_unlimited(self, event: tuple[float, str]) -> None:
        if self._started.pop(event[1], None) is not None:
            self._left_slot[event[1]] = time.monotonic()

    def timeout_reason(self, task: object, *, alone: bool = False) -> str:
        """Return the reason where the worker of a task was ended at the time limit; "" where it crashed otherwise.

        Args:
            task: its key.
            alone: whether no other task was in work; else one that had left its slot may have fallen with the other.
        """
        limit, began, share = self.slide_seconds, self._started.get(task), 1.0
        if began is None and alone:
            began, share = self._left_slot.get(task), LAST_SHARE
        if limit is None or began is None or time.monotonic() - began < share * limit:
            return ""
        return f"took longer than {limit / 60:g} minutes; raise the limit with --set slide_minutes={limit / 30:g}"

    def _watch(self, client: "Client") -> None:
        """Cancel all tasks when there has been no worker for too long: Dask would wait for ever."""
        from dask.distributed import Future

        minutes = self.slurm.wait_minutes if self.slurm is not None else NO_WORKER_MINUTES
        seen = time.monotonic()
        while not self._closed.wait(min(6 * minutes, POLL_SECONDS)):
            try:
                there = client.nthreads()
            except (OSError, RuntimeError):  # the scheduler does not answer; where it is gone, that ends all waiting
                continue
            if there:
                seen = time.monotonic()
            elif time.monotonic() - seen > 60 * minutes:
                message = f"none for {minutes:g} minutes"
                client.cancel([Future(key, client) for key in list(client.futures)], reason=NO_WORKER, msg=message)

    def _join(self, address: str) -> "Client":
        """Connect to the running scheduler."""
        from dask.distributed import Client
        from distributed.comm.addressing import get_address_host_port

        try:
            get_address_host_port(address)  # a client of a malformed address is not closed
            client = Client(address, set_as_default=False, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"--scheduler {address}: no Dask scheduler answers there: {error}") from None
        if not client.nthreads():
            raise InputError(f"--scheduler {address}: it has no workers; start some with `dask worker {address}`")
        return client

    def concurrency(self) -> int:
        """Return the number of tasks that run at the same time."""
        if not self.remote and self.device == "cpu":
            return self.expected_concurrency()
        return sum(self.client.nthreads().values())

    def expected_concurrency(self) -> int:
        """Estimate the number of tasks that will run at the same time, without starting a worker."""
        if self.scheduler is not None:
            return self.concurrency()
        from dask.system import CPU_COUNT

        if self.device == "cuda" and self.slurm is None:
            return max(1, len(self._gpus()))
        return max(1, CPU_COUNT if self.count is None else self.count)

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function on a worker, or in this process where the workers are on this machine; returns its result."""
        if not self.remote:
            return function(*arguments)
        with translate_dask_errors():
            return self.client.submit(function, *arguments, pure=False).result()

    def _cluster(self) -> Any:
        import dask
        from dask.distributed import LocalCluster
        from distributed.system import MEMORY_LIMIT

        if self.slurm is not None:
            of_workers = {name: DASK_SETTINGS[name] for name in DASK_SETTINGS if ".worker." in name}
            gpus = self.requested_device == "cuda"
            return slurm_cluster(self.slurm, on_gpus=gpus, environment=WORKER_ENVIRONMENT, settings=of_workers)
        if self.count == 0:
            return LocalCluster(n_workers=1, processes=False, **LOCAL)
        if self.device == "cuda":
            from pipeline.cluster.gpu_cluster import GPUCluster

            return _started(partial(GPUCluster, self._gpus()[: self._needed], **LOCAL))
        start_server()
        dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        processes = self._needed or self.expected_concurrency()
        with dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}):
            return _started(partial(LocalCluster, n_workers=processes, memory_limit=self._share(MEMORY_LIMIT), **LOCAL))

    def _gpus(self) -> list[str]:
        """The GPU of each process, as many as there can be; the first ones are on different GPUs."""
        return visible_gpus()[: self.count] * self.per_gpu

    def _share(self, memory: int) -> int:
        """Return a process's share of the memory, however many of the processes are needed; each counts what all share."""
        return (memory - SHARED_BYTES) // self.expected_concurrency() + SHARED_BYTES


@contextmanager
def _without_interruption() -> Iterator[None]:
    """Ignore Ctrl-C, which a user who has stopped a run may press again while it ends its workers, for some seconds."""
    if threading.current_thread() is not threading.main_thread():  # it alone receives signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _started(cluster: Callable[[], Any]) -> Any:
    """Start processes on this machine; once more where one of them is ended meanwhile."""
    try:
        return cluster()
    except RuntimeError as error:
        log.warning("a worker crashed while starting (%s); the workers are started again", error)
    try:
        return cluster()
    except RuntimeError as error:
        raise RunError(f"a worker crashed while starting ({error}): {CRASH_CAUSES}; {RESUME}") from error


def _wait_for_a_job(client: "Client", slurm: SlurmConfig) -> None:
    log.info("waiting for the first of %d Slurm jobs to start …", slurm.jobs)
    try:
        client.wait_for_workers(1, timeout=60 * slurm.wait_minutes)
    except TimeoutError:
        raise InputError(
            f"--cluster slurm: no job started within {slurm.wait_minutes:g} minutes; see squeue and the output of the jobs, "
            "or wait longer with --set slurm.wait_minutes=…"
        ) from None


def _require_same_program(client: "Client") -> None:
    """Raise InputError where workers lack this program, or have another version of it."""
    expected, remedy = code_fingerprint(), "start the workers in the same environment and version of this program"
    try:
        found = client.run(code_fingerprint)
    except ModuleNotFoundError as error:
        raise InputError(f"the workers lack this program ({error}); {remedy}") from None
    if others := sorted(address for address, code in found.items() if code != expected):
        raise InputError(f"the workers at {some(others)} have another version of this program or of torch; {remedy}")


def _show_dashboard(client: "Client", *, here: bool) -> None:
    """Log the address of the Dask dashboard, which needs bokeh where the scheduler runs."""
    if port := client.scheduler_info().get("services", {}).get("dashboard"):
        log.info("Dask dashboard: %s", f"http://127.0.0.1:{port}/status" if here else client.dashboard_link)
