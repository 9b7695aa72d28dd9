"""Errors that are shown to the user as they are: what, the actual value, where, and the remedy."""

from collections.abc import Iterable

LONGEST_NAME = 200  # signs of one name in a message


class InputError(ValueError):
    """The run cannot start: a file, a table or an option is wrong. Exit code 2."""


class RunError(RuntimeError):
    """The run cannot go on, whatever its input: a full disk, workers that die. Exit code 1; the same command goes on."""


class SlideError(ValueError):
    """One slide cannot be used: it ends in the ledger with this reason, and the run goes on."""


def some(names: Iterable[object]) -> str:
    """The first three of the names, shortened, and an ellipsis where there are more: how a message names many things."""
    every = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in map(str, names)]
    return ", ".join(every[:3]) + (", …" if len(every) > 3 else "")
