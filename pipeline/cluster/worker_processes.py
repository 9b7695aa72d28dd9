"""The server that worker processes are forked from, after it has imported what they need.

Imports take seconds, most of a short run. The server imports once, in parallel with the main process, and its children share
the memory. It imports nothing that starts a thread of Python or initialises a GPU. Where processes cannot be forked they are
spawned.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import Any

from preprocessing.slides.isolated import METHOD, WORKER_ENVIRONMENT

# Of the resident memory of each process: what it shares with the server, and so with all others (478 MiB resident, 26 of them
# not shared, where nothing is computed yet).
SHARED_BYTES = 400 << 20 if METHOD == "forkserver" else 0
# By name: they import the stages and the fold job, which lie above this package.
TRAINING = ["workflows.training_server"]
WORKING = ["workflows.worker_server"]  # without training
OPENING = ["preprocessing.slides.probing"]  # all that it takes to open slides
ENDING_SECONDS = 5.0  # a process that waits for a disk within the kernel cannot be ended
_imported: list[str] = []  # by the server that is running


def start_server(imported: Sequence[str] = TRAINING) -> None:
    """Start the server, unless one that suits is running, and return while it imports these modules.

    A server that only opens slides is replaced once workers are needed; one for workers serves for everything.
    """
    if METHOD != "forkserver":
        return
    if _imported == OPENING and list(imported) != OPENING and _end_server():
        _imported.clear()
    if not _imported:
        _imported.extend(imported)
    _ensure_running(_imported)


def _end_server() -> bool:
    """End the server; returns False where a process that it has forked is still there, and keeps it."""
    for child in multiprocessing.active_children():
        child.join(ENDING_SECONDS)
    if multiprocessing.active_children():
        return False
    server: Any = forkserver
    server._forkserver._stop()  # there is no public way to start a server with other modules
    return True


def _ensure_running(imported: Sequence[str]) -> None:
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
