"""From main memory to a device, without waiting where that is possible."""

import logging
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from models.layers.processor import cpu_computes_in_bfloat16

log = logging.getLogger(__name__)


def on_device(x: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """The tensor on that device. To CUDA it goes through pinned memory, and the host does not wait for the copy."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return pinned(x).to(device, non_blocking=True)


def computes_in_bfloat16(device: torch.device | str) -> bool:
    """Whether the processor or GPU multiplies in bfloat16 by itself; what emulates it is slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_computes_in_bfloat16()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """In it, no product is rounded to half precision, even under the caller's autocast."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a GPU: free in its driver, or reserved by this process without being used."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def pinned(x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """A copy in memory that a GPU copies from by itself; the tensor itself where there is no such memory left."""
    if not torch.cuda.is_available():
        return x
    try:
        return x.pin_memory()
    except RuntimeError as error:
        _warn_unpinned(str(error).splitlines()[0])
        return x


def pinned_empty(*shape: int, dtype: torch.dtype) -> Shaped[Tensor, "*shape"]:
    """An uninitialised tensor in such memory; in ordinary memory where there is no such memory left."""
    try:
        return torch.empty(*shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        _warn_unpinned(str(error).splitlines()[0])
        return torch.empty(*shape, dtype=dtype)


def pin_in_place(x: Shaped[Tensor, "*shape"]) -> bool:
    """Pin the memory of a tensor that another library has allocated; False where that is impossible. See `unpin`."""
    if not torch.cuda.is_available():
        return False
    runtime: Any = torch.cuda.cudart()
    error = runtime.cudaHostRegister(x.data_ptr(), x.nbytes, 0)
    if int(error) == 0:
        return True
    _warn_unpinned(runtime.cudaGetErrorString(error))
    with suppress(RuntimeError):  # CUDA keeps the error, and torch would raise it at the next kernel: here it does
        torch.ones(1, device="cuda")
    return False


def unpin(x: Shaped[Tensor, "*shape"]) -> None:
    """Undo `pin_in_place`, before the memory is freed."""
    runtime: Any = torch.cuda.cudart()
    runtime.cudaHostUnregister(x.data_ptr())


@cache
def _warn_unpinned(reason: str) -> None:
    log.warning("no pinned memory (%s): copies to the GPU go through ordinary memory, and are slower", reason)
