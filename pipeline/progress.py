"""Progress: a bar for each stage in a terminal, a line for each stage elsewhere."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
log = logging.getLogger(__name__)
console = Console(stderr=True)


def track(items: Iterable[T], *, stage: str, total: int) -> Iterator[T]:
    """Pass the items on, showing how many of `total` have come."""
    if not console.is_terminal:
        yield from items
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(stage, total=total)
        for item in items:
            yield item
            bar.advance(row)
