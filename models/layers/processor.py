"""What the processor computes by itself, read without torch, which takes seconds to import."""

from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_tile"}


@cache
def cpu_computes_in_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 by itself; what emulates it is slower than float32."""
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:  # not Linux
        flags = ""
    if flags:
        return not BFLOAT16_FLAGS.isdisjoint(flags.split())
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
