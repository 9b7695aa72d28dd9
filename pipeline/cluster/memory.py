"""How much memory a process of a run may use."""

import sys

import psutil


def memory_share() -> int:
    """Return the bytes that this process may use: a worker's limit, beyond which it is ended; else what the machine has."""
    if "distributed" in sys.modules:
        from distributed import get_worker
        from distributed.system import MEMORY_LIMIT

        try:
            return get_worker().memory_manager.memory_limit or MEMORY_LIMIT
        except ValueError:  # no worker
            return int(MEMORY_LIMIT)
    return int(psutil.virtual_memory().total)
