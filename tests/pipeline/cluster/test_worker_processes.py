import os
import subprocess
import sys
from pathlib import Path

import psutil

from pipeline.cluster.worker_processes import WORKER_ENVIRONMENT, start_server
from pipeline.cluster.workers import Workers
from preprocessing.encoders.tile_readers import read_ahead
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.slide_tiles import SlideTiles
from preprocessing.tiling.tiles import TileConfig, tile_slide

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

RAISING = """
from pipeline.cluster.workers import Workers

with Workers(1, "cpu") as workers:
    try:
        workers.client.submit(int, "four", pure=False).result()
    except ValueError as error:
        print(error)
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


def test_what_a_task_raises_is_left_to_the_main_process_to_print():
    done = subprocess.run([sys.executable, "-c", RAISING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "invalid literal for int() with base 10: 'four'" in done.stdout
    assert "four" not in done.stderr


def read_ahead_there(path):
    """In a worker: the number of a slide's tiles, and the processes that read them, with their environment."""
    slide = probe_slide(SlideFile("S", "S", path), default_mpp=None)
    grid = tile_slide(slide, TileConfig(tile_px=64)).grid
    batches = read_ahead(SlideTiles(path, grid), range(len(grid)), at_once=4, readers=2, pinned=False)
    n = sum(len(batch) for batch, _ in batches)
    return n, {child.pid: child.environ() for child in psutil.Process().children()}


def test_a_worker_reads_ahead_by_processes_with_its_environment_which_end_with_it(corner_slide):
    with Workers(1, "cpu") as workers:
        n, children = workers.client.submit(read_ahead_there, corner_slide.path, pure=False).result()
        assert n == 35
        assert len(children) == 2
        for pid, environment in children.items():
            assert psutil.pid_exists(pid)
            assert {name: environment[name] for name in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT
    psutil.wait_procs([psutil.Process(pid) for pid in children if psutil.pid_exists(pid)], timeout=20)
    assert not any(map(psutil.pid_exists, children))
