"""Failures of a GPU, as errors with a remedy."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from preprocessing.io.errors import RunError

GPU_SHARING = "UMEML_PIPELINE_GPU_SHARING"  # number of the run's processes that share the GPU of a worker
ALONE = "; --set folds_per_gpu=1 gives each fold a whole GPU"
AGAIN = "the same command continues from what is finished"
OF_A_GPU = re.compile("CUDA|CUBLAS|CUDNN|cuDNN|NVIDIA")  # in the message of a plain RuntimeError of torch
BUSY = re.compile("busy or unavailable")  # also of a GPU in exclusive mode, which another process has
MEMORY = re.compile("out of memory|ALLOC_FAILED|NOT_INITIALIZED")  # cuBLAS finds no room for itself: not initialised


def gpu_sharing() -> int:
    """Return the number of processes of the run, this one included, that share the GPU of this process."""
    return int(os.environ.get(GPU_SHARING) or 1)


def is_memory_full(error: RuntimeError) -> bool:
    """Whether torch raised it as there is no memory left on the GPU, under any of the names that this has."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return _is_of_gpu(error) and MEMORY.search(str(error)) is not None


@contextmanager
def gpu_failures(work: str) -> Iterator[None]:
    """Turns what torch raises where a GPU fails or is full into a RunError with the remedy.

    Args:
        work: what is done there, as the message names it.

    Raises:
        RunError: the GPU failed, after which a process cannot use it any more; or not even the model fits beside what other
            processes hold.
    """
    try:
        yield
    except RunError:  # it names its remedy already
        raise
    except RuntimeError as error:
        reason = _first_line(error)
        if is_memory_full(error):
            raise RunError(
                f"{work}: the GPU's memory is full ({_memory() or reason}): end what else runs there, or choose another with "
                f"--gpus{ALONE if gpu_sharing() > 1 else ''}; {AGAIN}"
            ) from error
        if BUSY.search(reason) and gpu_sharing() > 1:
            raise RunError(f"{work}: the GPU admits one process at a time ({reason}){ALONE}; {AGAIN}") from error
        if _is_of_gpu(error):
            raise RunError(
                f"{work}: the GPU failed ({reason}): see nvidia-smi and the system's log; {AGAIN}, if need be on another GPU "
                "(--gpus); to compute on the CPU: --device cpu, and another --out"
            ) from error
        raise


def _is_of_gpu(error: RuntimeError) -> bool:
    return type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") or bool(OF_A_GPU.search(_first_line(error)))


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _memory() -> str:
    """What the GPU's memory holds; empty where it does not answer, as one on which there is no room for this process."""
    import torch

    try:
        free, total = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError):  # AssertionError: a torch without CUDA
        return ""
    return f"{free >> 20:,} of {total >> 20:,} MiB free; this process holds {torch.cuda.memory_reserved() >> 20:,}"
