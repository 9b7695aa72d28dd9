"""Named components: models, tasks, tissue detectors and patch encoders."""

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that nothing goes by; the message lists the known names, the nearest first."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean "…"? Known: …`, or `known are …` where none is near: the end of every message about an unknown name."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names)
    return f'did you mean "{close[0]}"? Known: {listed}' if close else f"known are {listed}"


class Registry(dict[str, T]):
    """Components of one kind by name, written as one table so that a reader sees them all.

    Args:
        kind: what is registered, as messages call it ("model").
        known: the components by name.
    """

    def __init__(self, kind: str, known: dict[str, T]) -> None:
        super().__init__(known)
        self.kind = kind

    def __missing__(self, name: str) -> T:
        raise UnknownNameError(f'unknown {self.kind} "{name}": {nearest(name, self)}')
