import io
from types import SimpleNamespace
from typing import ClassVar

import pytest
from rich.console import Console

from pipeline.terminal import progress
from pipeline.terminal.progress import Effort, rates, track


@pytest.mark.parametrize(
    ("seconds", "count", "rate"),
    [(10, 25, "2.5 tiles/s"), (10, 5000, "500 tiles/s"), (60, 30, "30.0 tiles/min"), (3600, 2, "2.0 tiles/h")],
)
def test_a_rate_is_reported_in_a_time_in_which_something_comes(seconds, count, rate):
    assert rates(seconds, {"tiles": count}) == rate


def test_where_there_is_no_terminal_items_pass_and_nothing_is_shown(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=output))
    assert list(track(iter("abc"), stage="tiling", total=3)) == ["a", "b", "c"]
    assert output.getvalue() == ""


def test_in_a_terminal_there_are_counts_and_rates_and_the_time_left(monkeypatch):
    output, now = io.StringIO(), iter(range(0, 100, 10))
    monkeypatch.setattr(progress, "console", Console(file=output, force_terminal=True, width=160))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))  # rich keeps its own
    items = track([300, 100], stage="embedding", total=2, things="slides", effort=Effort(float, 400.0, "tiles"))
    assert list(items) == [300, 100]
    last = output.getvalue()[output.getvalue().rindex("embedding") :]
    assert "2/2 slides, 6.0 slides/min, 20.0 tiles/s" in last
    assert "left" in last


class Bar:
    """Records what a bar of rich would be given."""

    calls: ClassVar[list[tuple[object, ...]]] = []

    def __init__(self, *_, **__):
        Bar.calls = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def add_task(self, stage, *, total, rates):
        Bar.calls.append((stage, total, rates))
        return 0

    def update(self, row, *, advance, rates):
        Bar.calls.append((row, advance))


def test_the_time_left_is_by_the_effort_or_by_the_number_of_items(monkeypatch):
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(progress, "Progress", Bar)
    assert list(track([300, 100], stage="embedding", total=2, effort=Effort(float, 400.0))) == [300, 100]
    assert Bar.calls == [("embedding", 400, "0/2 items"), (0, 300), (0, 100)]
    assert list(track([300, 100], stage="tiling", total=2, things="slides")) == [300, 100]
    assert Bar.calls == [("tiling", 2, "0/2 slides"), (0, 1), (0, 1)]
