"""Failures of a GPU, as errors with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from preprocessing.io.errors import RunError

AGAIN = "the same command continues from what is finished"


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
    except RuntimeError as error:
        kind = type(error).__name__
        if kind == "OutOfMemoryError":
            raise RunError(
                f"{work}: the GPU's memory is full ({_memory()}): end what else runs there, or choose another with --gpus; {AGAIN}"
            ) from error
        if kind == "AcceleratorError":
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{work}: the GPU failed ({reason}): see nvidia-smi and the system's log; {AGAIN}, or with --device cpu"
            ) from error
        raise


def _memory() -> str:
    import torch

    if not torch.cuda.is_available():
        return "unknown"
    free, total = torch.cuda.mem_get_info()
    return f"{free >> 20:,} of {total >> 20:,} MiB free; this process holds {torch.cuda.memory_reserved() >> 20:,}"
