"""How busy this machine was: its processors, its memory and, where NVIDIA's library is installed, its GPUs."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import psutil

GIB = 2**30
SECONDS_BETWEEN = 1.0  # looks at a GPU, which tells no more than the moment


class Usage:
    """Watches from the moment that it is entered until it is left.

    Args:
        gpus: says how busy each GPU is, in percent; None: as NVIDIA's library says, if it can.
        every: seconds between two looks.
    """

    def __init__(self, gpus: Callable[[], Sequence[float]] | None = None, *, every: float = SECONDS_BETWEEN) -> None:
        self._gpus, self._every = gpus or _nvidia(), every
        self._seen: list[Sequence[float]] = []
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._cpu = 0.0

    def __enter__(self) -> Self:
        self._before = psutil.cpu_times()
        if self._gpus is not None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        after = psutil.cpu_times()
        spent = sum(after) - sum(self._before)
        idle = (after.idle - self._before.idle) + (getattr(after, "iowait", 0) - getattr(self._before, "iowait", 0))
        self._cpu = 0.0 if spent <= 0 else 100 * min(1.0, max(0.0, 1 - idle / spent))

    def _watch(self) -> None:
        while self._gpus is not None:
            self._seen.append(self._gpus())
            if self._over.wait(self._every):
                return

    def told(self) -> str:
        """What is to be logged, once it is over; of this machine as a whole, whoever used it."""
        memory = psutil.virtual_memory()
        told = [
            f"CPU {self._cpu:.0f} % of {psutil.cpu_count()} cores",
            f"memory {memory.used / GIB:.1f} of {memory.total / GIB:.1f} GiB",
        ]
        told += [f"GPU {i} {sum(seen) / len(seen):.0f} %" for i, seen in enumerate(zip(*self._seen, strict=True))]
        return ", ".join(told)


def _nvidia() -> Callable[[], Sequence[float]] | None:
    """Reads every GPU of this machine; None where there is none, or NVIDIA's library for it is not installed."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver
        return None
    return (lambda: [float(pynvml.nvmlDeviceGetUtilizationRates(one).gpu) for one in handles]) if handles else None
