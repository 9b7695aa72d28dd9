"""Progress bars: one per stage, with rates and the time left, where there is a terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)
MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Effort:
    """How much work the items of a stage are, by which the time left is estimated.

    Attributes:
        of: amount of work of an item.
        total: of all items together.
        unit: plural noun for what is counted, to print its rate; empty: no rate.
    """

    of: Callable[[Any], float]
    total: float
    unit: str = ""


def track(
    items: Iterable[T], *, stage: str, total: int, things: str = "items", effort: Effort | None = None
) -> Iterator[T]:
    """Pass items on as they are completed, with a progress bar of count, rate and time left.

    Args:
        items: the items, in the order of their completion.
        stage: name of the stage.
        total: number of items.
        things: plural noun for the items.
        effort: amount of work of the items; None: all alike.
    """
    if not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))):
        yield from items
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    start, done = time.monotonic(), 0.0
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(stage, total=effort.total if effort else total, rates=f"0/{total} {things}")
        for number, item in enumerate(items, 1):
            yield item
            work = effort.of(item) if effort else 1.0
            done += work
            counts = {things: float(number)} | ({effort.unit: done} if effort and effort.unit else {})
            text = f"{number}/{total} {things}, {rates(time.monotonic() - start, counts)}"
            bar.update(row, advance=work, rates=text)


def rates(seconds: float, counts: dict[str, float]) -> str:
    """Format rates in a readable unit: `2.1 slides/s, 120 tiles/s`, slow ones per minute or hour."""
    return ", ".join(_rate(count / max(seconds, 1e-9), name) for name, count in counts.items())


def _rate(per_second: float, name: str) -> str:
    for factor, letter in ((1.0, "s"), (MINUTE, "min")):
        if per_second * factor >= 1:
            return f"{_short(per_second * factor)} {name}/{letter}"
    return f"{_short(per_second * HOUR)} {name}/h"


def _short(number: float) -> str:
    return f"{number:,.1f}" if number < 100 else f"{number:,.0f}"
