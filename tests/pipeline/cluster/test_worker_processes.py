import os
import subprocess
import sys
from pathlib import Path

from pipeline.cluster.worker_processes import WORKER_ENVIRONMENT, start_server
from pipeline.cluster.workers import Workers

ROOT = Path(__file__).resolve().parents[3]
REPLACED = """
import os
from pipeline.cluster.worker_processes import OPENING, start_server
from pipeline.cluster.workers import Workers
from preprocessing.slides.isolated import map_isolated

def imported():
    import sys
    return ["timm" in sys.modules, "torch._dynamo" in sys.modules]

start_server(OPENING)
print(map_isolated(len, ["four"], at_once=1, minutes=5))
with Workers(1, "cpu") as workers:
    print(*workers.client.submit(imported, pure=False).result())
"""


NEEDED = {  # by stages and folds; together they take a process two seconds to import
    "timm",
    "torch._dynamo",
    "scipy.ndimage",
    "pipeline.slides.stages",
    "preprocessing.encoders.embedding",
    "pipeline.folds.fold_job",
}


def state():
    """Of the process that runs it."""
    return {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}, NEEDED - sys.modules.keys(), os.getppid()


def test_the_environment_of_this_process_stays():
    before = dict(os.environ)
    start_server()
    start_server()
    assert dict(os.environ) == before


def test_workers_have_their_environment_and_what_they_need_in_memory():
    with Workers(1, "cpu") as workers:
        environment, missing, parent = workers.client.submit(state, pure=False).result()
    assert environment == WORKER_ENVIRONMENT
    assert not missing
    assert parent != os.getpid()  # but the server


def test_a_server_that_only_opens_slides_is_replaced_once_workers_are_needed():
    """In a process of its own: here the server for workers is running already."""
    done = subprocess.run([sys.executable, "-c", REPLACED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["[4]", "True", "True"], done.stderr
