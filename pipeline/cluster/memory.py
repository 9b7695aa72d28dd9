"""How much memory a process of a run may use."""

import sys
from contextlib import suppress

import psutil


def memory_left() -> int:
    """Return the bytes that this process may use beside what it uses now.

    A worker is ended where it uses more than its limit; any other process has the memory of the machine.
    """
    limit = int(psutil.virtual_memory().total)
    if "distributed" in sys.modules:
        from distributed import get_worker
        from distributed.system import MEMORY_LIMIT

        limit = int(MEMORY_LIMIT)
        with suppress(ValueError):  # no worker
            limit = get_worker().memory_manager.memory_limit or limit
    return max(0, limit - int(psutil.Process().memory_info().rss))
