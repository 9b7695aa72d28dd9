"""A trained model on many small slides: memory of the whole process tree, and time, of `run_pipeline --trained`.

    python tests/benchmarks/bench_trained.py MODEL FOLDER [--slides 1000] [--workers 2]

Writes the slides into FOLDER once (a few distinct scans, each under many names with a byte of its own, so that none is
taken for another), runs the command, and samples the resident memory of it and its workers twice a second. MODEL is a model
folder, or a run's models folder.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

import psutil

from workflows.demo import write_cohort

DISTINCT = 8


def write_slides(folder: Path, n: int) -> Path:
    """A folder of n slides of n cases."""
    slides = folder / "slides"
    if not slides.is_dir():
        write_cohort(folder / "distinct", cases=12, size_px=640)
        scans = sorted((folder / "distinct" / "slides").glob("*.svs"))[:DISTINCT]
        slides.mkdir(parents=True)
        for number in range(n):
            own = scans[number % len(scans)].read_bytes() + number.to_bytes(4, "little")
            (slides / f"case-{number:05d}.svs").write_bytes(own)
    return slides


def resident(process: psutil.Process) -> float:
    """GiB of a process and all below it."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss  # shared pages count once
        except psutil.Error:
            continue
    return total / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    slides = write_slides(arguments.folder, arguments.slides)
    command = [sys.executable, "-m", "workflows.run_pipeline", str(slides), "none", "--trained", str(arguments.model)]
    command += ["--workers", str(arguments.workers), "--store", str(arguments.folder / "features.zarr")]
    command += ["--out", str(arguments.folder / f"run-{time.strftime('%H%M%S')}")]
    start, peak, done = time.perf_counter(), 0.0, threading.Event()
    running = subprocess.Popen(command, cwd=Path(__file__).parents[2])

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(running.pid)
        while not done.wait(0.5):
            try:
                peak = max(peak, resident(process))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = running.wait()
    done.set()
    watcher.join()
    seconds = time.perf_counter() - start
    print(f"{arguments.slides} slides, exit {code}: {seconds:.0f} s, at most {peak:.2f} GiB in all processes")


if __name__ == "__main__":
    main()
