"""Progress: a bar for each stage in a terminal, with rates and the time left; a line for each stage elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
MINUTE, HOUR = 60.0, 3600.0


def track(
    items: Iterable[T],
    *,
    stage: str,
    total: int,
    things: str = "done",
    size: Callable[[T], float] | None = None,
    whole: float | None = None,
    unit: str = "",
) -> Iterator[T]:
    """Pass the items on, showing how many of `total` have come, at which rate, and how long the rest will take.

    Args:
        items: they come as they get done.
        stage: what is done.
        total: how many will come.
        things: what they are.
        size: how much work one was; where it is not given, each is as much. The time left follows it.
        whole: the work of all.
        unit: what `size` counts, where its rate is worth showing.
    """
    if not console.is_terminal:
        yield from items
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    start, done = time.monotonic(), 0.0
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(stage, total=whole or total, told=f"0/{total} {things}")
        for number, item in enumerate(items, 1):
            yield item
            work = size(item) if size else 1.0
            done += work
            told = rates(time.monotonic() - start, {things: number} | ({unit: done} if unit else {}))
            bar.update(row, advance=work, told=f"{number}/{total} {things}, {told}")


def rates(seconds: float, counts: dict[str, float]) -> str:
    """How many of each come in a time that tells something: `2.1 slides/s, 120 tiles/s`, slower ones by minute or hour."""
    return ", ".join(_rate(count / max(seconds, 1e-9), name) for name, count in counts.items())


def _rate(per_second: float, name: str) -> str:
    for factor, letter in ((1.0, "s"), (MINUTE, "min")):
        if per_second * factor >= 1:
            return f"{_short(per_second * factor)} {name}/{letter}"
    return f"{_short(per_second * HOUR)} {name}/h"


def _short(number: float) -> str:
    return f"{number:,.1f}" if number < 100 else f"{number:,.0f}"
