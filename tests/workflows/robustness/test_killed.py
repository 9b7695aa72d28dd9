"""Runs that are killed at any moment and started again, and runs whose workers are killed: the result is an undisturbed run's."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from workflows.demo import draw_slide, write_svs

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = (
    *(
        "--workers",
        "2",
        "--device",
        "cpu",
        "--task",
        "subtype",
        "--baselines",
        "none",
        "--folds",
        "2",
        "--tile-px",
        "64",
    ),
    *("--epochs", "6", "--set", "bootstrap=20", "--set", "train.members=1", "--set", "train.batch_cases=4"),
    *("--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1", "--set", "encoder.precision=float32"),
)
PATIENCE = 120  # seconds, for what should take one
# By stage of a run: a pattern in its folder or store of which a file more and more appear.
SIGNS = {
    "tiling": ("store", "tiles/*"),
    "embedding": ("store", "features/*"),
    "sharing a slide": ("store", "parts/*/*"),
    "drawing": ("run", "thumbnails/*"),
    "joining": ("run", "omics.npz"),
    "training": ("run", "folds/*/*/*/history.csv"),
    "evaluation": ("run", "splits/*/*"),
    "handing out": ("run", "models/*"),
    "writing": ("run", "predictions.csv"),
    "explaining": ("run", "explain/*/*/*"),
    "reporting": ("run", "run.json"),
}


@dataclass(frozen=True)
class Place:
    """Where a run works."""

    folder: Path
    command: tuple[str, ...]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self) -> psutil.Popen:
        own = ("--store", str(self.store), "--out", str(self.run))
        with (self.folder / "output.txt").open("ab") as output:
            return psutil.Popen(
                [*self.command, *own],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                # A shell's background job ignores Ctrl-C, and so would all that these tests start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def seen(self, stage: str) -> int:
        where, pattern = SIGNS[stage]
        return sum(1 for _ in (self.folder / where).glob(pattern))

    def finished_groups(self) -> dict[str, int]:
        """When each group of the store was finished."""
        return {
            str(path.parent.relative_to(self.store)): path.stat().st_mtime_ns
            for kind in ("tiles", "features")
            for path in self.store.glob(f"{kind}/*/zarr.json")
        }

    def listing(self, where: str) -> set[str]:
        """All that is there, save the store's own folders, which may be empty."""
        paths = {str(path.relative_to(self.folder)) for path in (self.folder / where).rglob("*")}
        return paths - {"store/parts", "store/temporary"}


@pytest.fixture(scope="module")
def place(cohort, tiny_vit, tmp_path_factory):
    """Makes places for one and the same command; one of its slides is so large that all workers share it."""
    slides = tmp_path_factory.mktemp("slides")
    for path in cohort.slides.iterdir():
        (slides / path.name).symlink_to(path)
    image, _ = draw_slide(2048, grade=2, rng=np.random.default_rng(5))
    write_svs(slides / f"{path.name[:12]}-01Z-00-DX9.svs", image, mpp=0.5, power=20)
    given = (str(slides), str(cohort.genes), "--gene-sets", str(cohort.sets), "--encoder", f"local-dir:{tiny_vit}")
    command = (sys.executable, "-m", "workflows.run_pipeline", *given, *OPTIONS)
    return lambda: Place(tmp_path_factory.mktemp("place"), command)


@pytest.fixture(scope="module")
def undisturbed(place):
    there = place()
    assert there.start().wait(PATIENCE) == 0, (there.folder / "output.txt").read_text()
    return there


def wait_for(place, process, stage, count):
    """Until as many signs of the stage are there; the run must not end before."""
    start = time.monotonic()
    while place.seen(stage) < count:
        assert process.poll() is None, f"{stage}: the run ended with {process.returncode} before the moment came"
        assert time.monotonic() - start < PATIENCE, f"{stage}: no sign of it"
        time.sleep(0.002)


def worker_processes(process):
    """They are the children of the server that forks them; where the last have just died, those that come in their place."""
    start = time.monotonic()
    while True:
        with suppress(psutil.NoSuchProcess):  # one that ended meanwhile
            if found := [child for server in process.children() for child in server.children()]:
                return found
        assert time.monotonic() - start < PATIENCE, "no worker came back"
        time.sleep(0.002)


def kill_run(process):
    """SIGKILL for the main process; none of those that it started may stay."""
    family = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, f"left behind: {[one.cmdline() for one in alive]}"


@pytest.fixture
def check(assert_same_results, assert_same_features):
    """Holds a run to one that was not disturbed: the same results, and nothing else is there."""

    def check(place, undisturbed):
        assert_same_results(place.run, undisturbed.run)
        slides, expected = (
            pd.read_csv(one.run / "slides.csv").drop(columns=["seconds", "status"]) for one in (place, undisturbed)
        )
        pd.testing.assert_frame_equal(slides, expected, check_exact=True)
        assert set(pd.read_csv(place.run / "slides.csv")["status"]) <= {"done", "reused"}
        assert place.listing("run") == undisturbed.listing("run")
        assert place.listing("store") == undisturbed.listing("store")
        for key in slides["features"]:
            assert_same_features(place.store, undisturbed.store, key)

    return check


def disturb(place, moments, rng):
    """Runs the command to its end, killing it or one of its workers at each of the moments."""
    process, known = place.start(), {}
    try:
        for victim, stage in moments:
            wait_for(place, process, stage, rng.randint(1, 3) if stage in ("tiling", "embedding") else 1)
            time.sleep(rng.uniform(0, 0.2) if stage in ("tiling", "embedding") else 0)
            if victim == "worker":
                rng.choice(worker_processes(process)).kill()
                continue
            kill_run(process)
            now = place.finished_groups()
            assert now.items() >= known.items(), "a finished slide was done again"
            known = now
            process = place.start()
        assert process.wait(PATIENCE) == 0, (place.folder / "output.txt").read_text()
        assert place.finished_groups().items() >= known.items(), "a finished slide was done again"
    finally:
        if process.is_running():
            process.kill()


def test_a_run_that_is_killed_and_whose_worker_is_killed_later_ends_as_if_nothing_had_been(place, undisturbed, check):
    there = place()
    disturb(there, [("run", "embedding"), ("worker", "training")], random.Random(0))
    check(there, undisturbed)
    # Whether the worker had a fold at that moment, which is then reported and trained again, is left to chance.
    assert "WARNING distributed.nanny: Restarting worker" in (there.run / "run.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_twenty_moments_over_all_stages_the_result_is_the_same(place, undisturbed, seed, check):
    """Five kills each, of the run or a worker, in a minute."""
    rng, order = random.Random(seed), list(SIGNS)
    mixed = random.Random(0).sample(order, len(order))
    stages = sorted((mixed[number % len(mixed)] for number in range(5 * seed, 5 * seed + 5)), key=order.index)
    moments = [("run" if (number + seed) % 3 else "worker", stage) for number, stage in enumerate(stages)]
    there = place()
    disturb(there, moments, rng)
    check(there, undisturbed)


@pytest.mark.slow  # half a minute
def test_killed_while_slides_are_opened_the_result_is_the_same(place, undisturbed, check):
    """The first processes of a run are those that open its slides."""
    there, rng = place(), random.Random(0)
    for victim in ("opener", "run", "opener"):
        process = there.start()
        time.sleep(rng.uniform(0, 0.1))
        opener = rng.choice(worker_processes(process))
        assert there.seen("tiling") == 0, "too late: slides are tiled"
        if victim == "run":
            kill_run(process)
        else:
            opener.kill()
            assert process.wait(PATIENCE) == 0, (there.folder / "output.txt").read_text()
            check(there, undisturbed)
            shutil.rmtree(there.run)
            shutil.rmtree(there.store)


@pytest.mark.slow  # half a minute
def test_predictions_of_a_trained_model_that_are_killed_on_the_way_are_the_same(
    place, undisturbed, tmp_path_factory, check
):
    slides, genes = place().command[3:5]
    command = (*place().command[:3], slides, genes, "--trained", str(undisturbed.run / "models"), *OPTIONS[:4])
    alone, there = (Place(tmp_path_factory.mktemp("place"), command) for _ in range(2))
    assert alone.start().wait(PATIENCE) == 0, (alone.folder / "output.txt").read_text()
    moments = ("run", "tiling"), ("worker", "embedding"), ("run", "drawing"), ("run", "writing"), ("run", "explaining")
    disturb(there, moments, random.Random(0))
    check(there, alone)


def test_the_drafts_of_a_dead_process_are_swept_by_the_next_start(place, undisturbed):
    """All that a run writes, as a killed process leaves it, in a run that is finished."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = f"{socket.gethostname()}-{dead.pid}-{'0' * 32}"
    left = [
        undisturbed.run / f".predictions.csv.{name}",
        undisturbed.run / "models" / f".subtype.{name}" / "model.json",
    ]
    left += [undisturbed.run / "folds" / "subtype" / "umeml" / "fold_0" / f".model.{name}" / "weights.safetensors"]
    left += [undisturbed.store / "temporary" / name / "zarr.json"]
    (undisturbed.store / "temporary").mkdir(exist_ok=True)
    before = undisturbed.listing("run"), undisturbed.listing("store")
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    (undisturbed.run / "complete.json").unlink()  # so that the command has something to do
    command = [*undisturbed.command, "--store", undisturbed.store, "--out", undisturbed.run]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (undisturbed.run / "predictions.csv").is_file()
    assert (undisturbed.listing("run"), undisturbed.listing("store")) == before


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_takes_its_workers_with_it_and_says_how_to_go_on(place, sent, code):
    """The signal goes to all its processes, as from a terminal or a batch system."""
    there = place()
    process = there.start()
    wait_for(there, process, "tiling", 1)
    family = process.children(recursive=True)
    os.killpg(process.pid, sent)
    assert process.wait(PATIENCE) == code
    assert not psutil.wait_procs(family, timeout=20)[1]
    output = (there.folder / "output.txt").read_text()
    assert output.rstrip().endswith("error: stopped; run the same command again to resume")
    assert "Traceback" not in output
