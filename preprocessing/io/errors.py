"""Errors whose message the user reads as it is: what, the actual value, where, and the remedy."""

from collections.abc import Iterable
from traceback import walk_tb

LONGEST_NAME = 200  # signs of one name in a message
# Raised by mistakes in code, not by a damaged file: a message must not blame the file.
PROGRAM_ERRORS = (AssertionError, AttributeError, ImportError, NameError, NotImplementedError, TypeError)


class InputError(ValueError):
    """The run cannot start: a file, a table or an option is wrong. Exit code 2."""


class RunError(RuntimeError):
    """The run cannot go on, whatever its input: a full disk, workers that die. Exit code 1; the same command goes on."""


class SlideError(ValueError):
    """One slide cannot be used: it ends in the ledger with this reason, and the run goes on."""


def unexpected(error: Exception) -> str:
    """Return the reason of a failure that nothing foresaw; it names a fault of the program as such."""
    fault = " (a fault of the program: report it with run.log)" if isinstance(error, PROGRAM_ERRORS) else ""
    return f"{type(error).__name__}: {error}{fault}"


def passed_through(error: Exception, library: str) -> bool:
    """Whether an error was raised within a library, and not by this program's use of it."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(name.partition(".")[0] == library for name in frames)


def count(n: int, noun: str) -> str:
    """So many of a thing whose plural ends in s: `1 slide`, `1,234 slides`, `2 cases of a class`."""
    thing, of, whole = noun.partition(" of ")
    return f"{n:,} {thing}{'' if n == 1 else 's'}{of}{whole}"


def some(names: Iterable[object]) -> str:
    """The first three of the names, shortened, and an ellipsis where there are more: how a message names many things."""
    every = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in map(str, names)]
    return ", ".join(every[:3]) + (", …" if len(every) > 3 else "")
