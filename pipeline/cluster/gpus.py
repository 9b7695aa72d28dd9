"""GPUs of this machine: which of them a run uses, and one worker process for each."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

from distributed import LocalCluster
from distributed.system import MEMORY_LIMIT

from pipeline.cluster.worker_processes import METHOD, WORKER_ENVIRONMENT, start_server
from preprocessing.io.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # read by CUDA when a process first uses it
GPU_WORKERS = "UMEML_PIPELINE_GPU_WORKERS"  # tells a worker among how many it shares the cores


def select_gpus(numbers: Sequence[int] | None, *, device: str) -> None:
    """Restrict this process, before it uses CUDA, and its workers to some of the visible GPUs; None: all of them.

    Args:
        numbers: positions among the visible GPUs, from 0: those of nvidia-smi unless CUDA_VISIBLE_DEVICES is set.
        device: auto, cuda or cpu.

    Raises:
        InputError: a number that there is not, or --device cpu.
    """
    if numbers is None:
        return
    chosen, visible = ",".join(map(str, numbers)), os.environ.get(VISIBLE, "")
    if device == "cpu":
        raise InputError(f"--gpus {chosen} and --device cpu: give one of them")
    names = [name.strip() for name in visible.split(",")] if visible else []
    if names and max(numbers) >= len(names):
        raise InputError(f"--gpus {chosen}: {VISIBLE}={visible} leaves {len(names)}, numbered from 0")
    os.environ[VISIBLE] = ",".join(names[number] if names else str(number) for number in numbers)
    import torch

    if torch.cuda.device_count() < len(numbers):
        raise InputError(f"--gpus {chosen}: CUDA finds {torch.cuda.device_count()} of them; see nvidia-smi")


def visible_gpus() -> list[str]:
    """Return the names by which CUDA_VISIBLE_DEVICES selects each visible GPU."""
    import torch

    count = torch.cuda.device_count()
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]


def why_no_cuda() -> str:
    """Return why torch finds no CUDA device: no driver, one that is too old, a torch built without CUDA."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0].split(". ")[0]
    return "no visible device; see nvidia-smi and CUDA_VISIBLE_DEVICES"


class GPUCluster(LocalCluster):
    """One worker process for each GPU, which sees no other.

    Args:
        gpus: as `visible_gpus` names them.
        options: of `LocalCluster`.
    """

    def __init__(self, gpus: Sequence[str], **options: Any) -> None:
        self.gpus = list(gpus)
        start_server()
        import dask

        dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        with dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}):
            super().__init__(n_workers=0, memory_limit=MEMORY_LIMIT // len(self.gpus), **options)
            self.scale(len(self.gpus))
            self.sync(self._correct_state)

    def new_worker_spec(self) -> dict[Any, Any]:
        """Return the next worker's specification: that of `LocalCluster`, with its GPU in the environment."""
        (name, spec), *_ = super().new_worker_spec().items()
        own = {VISIBLE: self.gpus[name % len(self.gpus)], GPU_WORKERS: str(len(self.gpus))}
        return {name: spec | {"options": spec["options"] | {"env": own}}}
