"""Errors that are shown to the user as they are: what, the actual value, where, and the remedy."""

from collections.abc import Iterable


class InputError(ValueError):
    """The run cannot start: a file, a table or an option is wrong. Exit code 2."""


class RunError(RuntimeError):
    """The run cannot go on, whatever its input: a full disk, workers that die. Exit code 1; the same command goes on."""


class SlideError(ValueError):
    """One slide cannot be used: it ends in the ledger with this reason, and the run goes on."""


def some(names: Iterable[object]) -> str:
    """The first three of the names, and an ellipsis where there are more: how a message names many things."""
    every = [str(name) for name in names]
    return ", ".join(every[:3]) + (", …" if len(every) > 3 else "")
