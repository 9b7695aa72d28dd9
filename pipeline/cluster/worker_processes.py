"""How worker processes come to be: forked from a server process that has imported what they need.

Imports take seconds, most of a short run. The server does them once, beside the main process's own, and its children share
the memory. It imports nothing that starts a thread or touches a GPU. Where processes can't be forked they are spawned.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing import forkserver

from preprocessing.slides.isolated import METHOD

# Processes share the cores, so each computes with one thread. And each keeps the memory that it frees: by default a light
# encoder spends a third of its time on getting the same pages from the system again. Both are read when a process starts.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}
IMPORTED = ["workflows.worker_server"]  # by name: it imports the stages and the fold job, which lie above this package
OPENING = ["preprocessing.slides.probing"]  # all that it takes to open slides


def start_server(imported: Sequence[str] = IMPORTED) -> None:
    """Starts the server unless it runs; returns at once, while it imports."""
    if METHOD != "forkserver":
        return
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        multiprocessing.set_forkserver_preload(list(imported))
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
