import os
import sys

from pipeline.cluster.worker_processes import WORKER_ENVIRONMENT, start_server
from pipeline.cluster.workers import Workers


def state():
    """Of the process that is asked."""
    return {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}, "timm" in sys.modules, os.getppid()


def test_the_environment_of_this_process_stays():
    before = dict(os.environ)
    start_server()
    start_server()
    assert dict(os.environ) == before


def test_workers_have_their_environment_and_what_they_need_in_memory():
    with Workers(1, "cpu") as workers:
        environment, imported, parent = workers.client.submit(state, pure=False).result()
    assert environment == WORKER_ENVIRONMENT
    assert imported
    assert parent != os.getpid()  # but the server
