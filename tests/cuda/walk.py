"""The whole walk on the project's own small cohort: trained on the GPU, applied on the GPU and on the CPU."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd

from tests.cuda.collect_wheels import DEMO

Found = dict[str, object]
ROOT, TESTS = Path(__file__).parents[2], Path(__file__).parents[1]
DEVICE = "cuda"  # a rehearsal says cpu
PATIENCE = 240  # seconds for a process: one that hangs must not take the time of all others


def checks() -> dict[str, Callable[[], Found]]:
    """All checks of this file, by name."""
    return {
        f"run_pipeline --device {DEVICE}, then --trained": walk,
        "without a visible GPU: the CPU takes over": without_a_gpu,
        "a GPU full of other work: named, with a remedy": full,
        "a GPU that fails in the middle: named, with a remedy": failing,
        "tests marked cuda": marked_tests,
    }


def python(*arguments: str, **environment: str) -> str:
    """Output of a Python process in the project; raises where it fails, with the end of what it wrote."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}; what it wrote is above")
    return done.stdout


@cache
def cohort() -> Path:
    """The demo cohort: that which lies beside the wheels, or one that is drawn here."""
    if DEMO.is_dir():
        return DEMO
    folder = Path(mkdtemp(prefix="cuda-check-demo-")) / "demo"
    python("-m", "workflows.run_pipeline", "demo", str(folder), "--size", "640")
    return folder


def walk() -> Found:
    folder = Path(mkdtemp(prefix="cuda-check-walk-"))
    given = [str(cohort() / "slides"), str(cohort() / "genes.csv"), "--store", str(folder / "features.zarr")]
    train = ["--gene-sets", str(cohort() / "gene_sets.csv"), "--epochs", "2", "--explain", "1", "--baselines", "none"]
    trained = ["--trained", str(folder / "first" / "models"), "--explain", "0"]
    seconds = []
    for name, device, options in (
        ("first", DEVICE, train),
        ("second", DEVICE, train),
        ("there", DEVICE, trained),
        ("here", "cpu", trained),
    ):
        start = time.monotonic()
        python("-m", "workflows.run_pipeline", *given, *options, "--device", device, "--out", str(folder / name))
        seconds.append(f"{time.monotonic() - start:.0f}")
    difference = _difference(folder / "there", folder / "here")
    if difference > 1e-3:
        raise AssertionError(f"predictions on the GPU and the CPU differ by {difference:.1e}")
    return {
        "GPU against CPU": f"{difference:.1e}",
        "two runs of a seed": f"{_difference(folder / 'first', folder / 'second'):.1e}",
        "seconds of the runs": ", ".join(seconds),
    }


def _difference(first: Path, second: Path) -> float:
    """The largest difference of any probability or risk in the two runs' predictions."""
    tables = [
        pd.read_csv(run / "predictions.csv").sort_values(["task", "case_id"], ignore_index=True)
        for run in (first, second)
    ]
    columns = [name for name in map(str, tables[0]) if name.startswith("probability_") or name == "risk"]
    values = [table[columns].to_numpy(float) for table in tables]
    return float(np.nanmax(np.abs(values[0] - values[1])))


def without_a_gpu() -> Found:
    code = "from pipeline.cluster.workers import choose_device; print(choose_device('auto'))"
    chosen = python("-c", code, CUDA_VISIBLE_DEVICES="").strip()
    if chosen != "cpu":
        raise AssertionError(f"the device is {chosen}")
    return {"device": chosen}


def full() -> Found:
    """A run beside a process that holds nearly all of the GPU's memory; on the CPU, whose memory is not filled, none."""
    if DEVICE == "cpu":
        return {"rehearsed": "nothing"}
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - (400 << 20), dtype=torch.uint8, device=DEVICE)  # a process needs more for itself
    folder = Path(mkdtemp(prefix="cuda-check-full-"))
    run = ["-m", "workflows.run_pipeline", str(cohort() / "slides"), str(cohort() / "genes.csv"), "--device", DEVICE]
    message = failure(*run, "--store", str(folder / "features.zarr"), "--out", str(folder / "run"))
    del held
    torch.cuda.empty_cache()  # for the checks that follow
    return {"message": named(message, "memory is full", "--gpus")}


def failing() -> Found:
    """A kernel that fails: the message is that of a run, whose stages and jobs are in `gpu_failures`."""
    plant = "torch.zeros(1, device='cuda')[torch.tensor([5], device='cuda')].sum().item()"
    if DEVICE == "cpu":
        plant = "exec('raise RuntimeError(\\'CUDA error: device-side assert triggered\\')')"
    message = failure(
        "-c", f"import torch\nfrom preprocessing.io.gpu import gpu_failures\nwith gpu_failures('training'): {plant}"
    )
    return {"message": named(message, "training: the GPU failed (CUDA error", "the same command continues")}


def failure(*arguments: str) -> str:
    """What a Python process in the project wrote to the error stream; raises where it did not fail."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    if not done.returncode:
        raise AssertionError("the process ended as if nothing had happened")
    return done.stderr


def named(message: str, *parts: str) -> str:
    """The line of a message that has the first of the parts; raises where it lacks any of the others."""
    for line in message.splitlines():
        if parts[0] in line:
            missing = [part for part in parts if part not in line]
            if missing:
                raise AssertionError(f"{line!r} lacks {missing}")
            return line.strip()
    print(message, file=sys.stderr)
    raise AssertionError(f"no line has {parts[0]!r}; what was written is above")


def marked_tests() -> Found:
    """Of the files that have some: others need packages of the tests that this Python may lack."""
    files = [str(file) for file in sorted(TESTS.rglob("test_*.py")) if "mark.cuda" in file.read_text(encoding="utf-8")]
    options = ["-q", "-n", "0", "-m", "cuda", *(["--collect-only"] if DEVICE == "cpu" else [])]
    summary = python("-m", "pytest", *options, *files)
    last = summary.strip().splitlines()[-1]
    if "skipped" in last:
        raise AssertionError(last)
    return {"pytest": last}
