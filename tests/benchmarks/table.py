"""Rows of the table of measurements: printed, and added to the Markdown file that the variable BENCH_TABLE names."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

HEAD = (
    "| measurement | result: median (least–most) | n | load average |\n"
    "|---|---|---|---|\n"
)  # fmt: skip


def record(what: str, result: str, *, n: int) -> None:
    """A row: what was measured, its result, how often, and how busy the machine was with everything that ran."""
    row = f"| {what} | {result} | {n} | {os.getloadavg()[0]:.1f} |\n"
    print(row, end="", flush=True)
    if "BENCH_TABLE" in os.environ:
        path = Path(os.environ["BENCH_TABLE"])
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        path.write_text((before if HEAD in before else before + HEAD) + row, encoding="utf-8")


def spread(values: Sequence[float], unit: str, *, digits: int = 1) -> str:
    """The median of the values, and their range where there are several."""
    middle = f"{median(values):.{digits}f}{unit}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"
