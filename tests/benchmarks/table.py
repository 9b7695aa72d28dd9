"""The table of measurements: rows are printed, and added to the Markdown page that the variable BENCH_TABLE names.

BENCH_TABLE=docs/measurements.md python tests/benchmarks/table.py        begins the page anew
"""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

HEAD = """# Measurements

Written by `make bench`, each row by a program of `tests/benchmarks/`; [Speed](speed.md) explains them. {machine}. Results are
medians with their range; n counts the runs of each side, which go in turn; the load is that of the machine's last minute, with the
measured program's own. CPU-s are those of all processes of a run.

| measurement | result | n | load |
|---|---|---|---|
"""


def begin() -> None:
    """Write the head of the page, with what the machine is."""
    cores = f"{os.cpu_count()} cores of {_processor()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "numpy", "zarr"))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    described = f"Measured on {cores}, without a GPU, with {versions}, at commit {commit.stdout.strip() or 'unknown'}"
    Path(os.environ["BENCH_TABLE"]).write_text(HEAD.format(machine=described), encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown kind")


def record(what: str, result: str, *, n: int) -> None:
    """A row: what was measured, its result, and how often."""
    row = f"| {what} | {result} | {n} | {os.getloadavg()[0]:.1f} |\n"
    print(row, end="", flush=True)
    if "BENCH_TABLE" in os.environ:
        with Path(os.environ["BENCH_TABLE"]).open("a", encoding="utf-8") as page:
            page.write(row)


def spread(values: Sequence[float], unit: str, *, digits: int = 1) -> str:
    """The median of the values, and their range where there are several."""
    middle = f"{median(values):.{digits}f}{unit}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


if __name__ == "__main__":
    sys.exit(begin())
