"""A store on a disk that answers late, as one across a network does: two runs that share it are as right as one on a fast disk."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from preprocessing.features.store import FeatureStore
from workflows.commands.store import main as store_command

ROOT = Path(__file__).resolve().parents[3]
# Python imports it when it starts, in worker processes too: whatever is opened, listed, moved or removed below a folder
# is so only after a while, and each process that had to wait leaves a file.
LATE = """
import os, pathlib, sys, time

folder, witnesses = os.environ["LATE_FOLDER"], pathlib.Path(os.environ["LATE_WITNESSES"])
events = {"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}

def wait(event, arguments):
    if event in events and str(arguments[0]).startswith(folder):
        time.sleep(0.005)
        (witnesses / str(os.getpid())).touch()

sys.addaudithook(wait)
"""


def start(cohort, vit, store, out, environment):
    command = [sys.executable, "-m", "workflows.run_pipeline", cohort.slides, "none", "--until", "embed"]
    options = ["--workers", "1", "--device", "cpu", "--encoder", f"local-dir:{vit}", "--tile-px", "64"]
    precise = ["--set", "encoder.precision=float32"]
    return subprocess.Popen(
        [*command, *options, *precise, "--store", store, "--out", out],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow  # two runs with their workers: half a minute
def test_two_runs_at_once_on_a_store_that_answers_late(cohort, tiny_vit, walk, tmp_path, capsys, assert_same_features):
    slow, witnesses, code = tmp_path / "slow", tmp_path / "witnesses", tmp_path / "code"
    witnesses.mkdir()
    code.mkdir()
    (code / "sitecustomize.py").write_text(LATE)
    environment = {"PYTHONPATH": str(code), "LATE_FOLDER": str(slow), "LATE_WITNESSES": str(witnesses)}
    runs = [start(cohort, tiny_vit, slow, tmp_path / name, environment) for name in ("one", "other")]
    messages = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], messages
    late = {int(path.name) for path in witnesses.iterdir()}
    assert len(late) >= 4  # both runs and a worker of each
    assert {run.pid for run in runs} <= late

    options = (
        "--until",
        "embed",
        "--encoder",
        f"local-dir:{tiny_vit}",
        "--tile-px",
        "64",
        "--store",
        tmp_path / "fast",
    )
    assert walk(cohort.slides, "none", *options, "--out", tmp_path / "run") == 0
    expected = pd.read_csv(tmp_path / "run" / "slides.csv").set_index("slide_id")
    for name in ("one", "other"):
        slides = pd.read_csv(tmp_path / name / "slides.csv").set_index("slide_id")
        pd.testing.assert_frame_equal(slides[["n_tiles", "features"]], expected[["n_tiles", "features"]])
    stores = FeatureStore(slow), FeatureStore(tmp_path / "fast")
    for key in expected["features"]:
        assert_same_features(slow, tmp_path / "fast", key)
    assert store_command(["check", str(slow), "--deep"]) == 0
    assert stores[0].names("temporary") == []
