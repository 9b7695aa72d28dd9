"""The server that worker processes are forked from, after it has imported what they need.

Imports take seconds, most of a short run. The server imports once, in parallel with the main process, and its children share
the memory. It imports nothing that starts a thread or initialises a GPU. Where processes cannot be forked they are spawned.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing import forkserver

from preprocessing.slides.isolated import METHOD

# Processes share the cores, so each computes with one thread. Each keeps the memory that it frees: by default a light encoder
# spends a third of its time on requesting the same pages again. Both settings are read when a process starts.
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
    """Start the server, unless it is running, and return while it imports these modules."""
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
