"""Warnings of worker processes, brought to the run's own log: whoever and however many give one, it is told once."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from pipeline.terminal.logs import is_own

R = TypeVar("R")
Warned: TypeAlias = tuple[str, str]  # name of the logger, and what it said


class _Heard(logging.Handler):
    """Keeps the program's own warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(is_own)
        self.said: dict[Warned, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the log."""
        self.said.setdefault((record.name, record.getMessage()))


@contextmanager
def _listening() -> Iterator[_Heard]:
    heard, root = _Heard(), logging.getLogger()
    root.addHandler(heard)
    try:
        yield heard
    finally:
        root.removeHandler(heard)


def with_warnings(call: Callable[..., R], *arguments: Any, **options: Any) -> tuple[R, list[Warned]]:
    """What the call returns, and what it warned of on the way."""
    with _listening() as heard:
        result = call(*arguments, **options)
    return result, list(heard.said)


class OnceEach:
    """Tells each warning of others once."""

    def __init__(self) -> None:
        self._told: set[Warned] = set()

    def tell(self, warnings: list[Warned]) -> None:
        """Into this process's log, under the name of the logger that it is from."""
        for name, message in warnings:
            if (name, message) not in self._told:
                self._told.add((name, message))
                logging.getLogger(name).warning("%s", message)
