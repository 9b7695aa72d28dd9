"""GPUs of this machine: which of them a run uses."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from preprocessing.io.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # read by CUDA when a process first uses it
DEVICES = Path("/dev")
DEVICE_FILES = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")  # of drivers: NVIDIA (and on Jetson), Windows' Linux, AMD
GPU_WORKERS = "UMEML_PIPELINE_GPU_WORKERS"  # number of workers among which a worker's host shares its cores
MOST_FOLDS = 8  # at once on a GPU
FOLD_BYTES = 8 << 30  # of a GPU's memory, that a fold should have at least
FOLD_HOST_BYTES = 6 << 30  # and of main memory


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


def may_have_gpu() -> bool:
    """Return whether torch, which takes seconds to import, could find a GPU here; False: no driver has made a device file."""
    return sys.platform != "linux" or any(any(DEVICES.glob(name)) for name in DEVICE_FILES)


def visible_gpus() -> list[str]:
    """Return the names by which CUDA_VISIBLE_DEVICES selects each visible GPU."""
    import torch

    count = torch.cuda.device_count()
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]


def folds_per_gpu(gpus: int) -> int:
    """Return how many folds train at once on each GPU: as many as have their memory and a core, at most eight.

    A training step on small bags is hundreds of short kernels: the GPU waits for the process that launches them, and for the
    baselines, which the process fits on the CPU.

    Args:
        gpus: number of GPUs that the run uses, the first of the visible ones.
    """
    import torch
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    memory = min(torch.cuda.get_device_properties(number).total_memory for number in range(gpus))
    host = int(MEMORY_LIMIT) // gpus
    return max(1, min(MOST_FOLDS, memory // FOLD_BYTES, host // FOLD_HOST_BYTES, CPU_COUNT // gpus))


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
