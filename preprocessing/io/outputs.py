"""Files that an earlier step or run of this program wrote: read, or refused with one error that names the file and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from preprocessing.io.errors import InputError

REMEDY = "repeat the command of the run"
MAX_JSON_BYTES = 256 << 20  # a model of 20,000 genes takes 5 MB


class DamagedFileError(InputError):
    """A file that this program wrote is missing, or is not what it wrote."""


def damaged(path: Path, reason: object, remedy: str = REMEDY) -> DamagedFileError:
    """The error for a damaged file.

    Args:
        path: the file.
        reason: what is wrong with it: an exception or a phrase.
        remedy: what to do, in the imperative.
    """
    lines = str(reason).splitlines() or [type(reason).__name__]
    return DamagedFileError(f"{path} is damaged ({lines[0][:200]}); {remedy}")


def read_json(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DamagedFileError: the file is missing, too large, or contains no JSON object.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise damaged(path, f"{size} bytes", remedy)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error, remedy) from None
    if not isinstance(content, dict):
        raise damaged(path, "it contains no JSON object", remedy)
    return content


def read_table(path: Path, *columns: str, remedy: str = REMEDY, **options: Any) -> pd.DataFrame:
    """Read a CSV file.

    Args:
        path: the file.
        columns: that it must have.
        remedy: for the message.
        options: of `pandas.read_csv`; numbers are read to their last digit.

    Raises:
        DamagedFileError: the file is missing, is no table, or lacks a column.
    """
    return _checked(path, columns, remedy, lambda: pd.read_csv(path, float_precision="round_trip", **options))


def read_text_table(path: Path, *columns: str, remedy: str = REMEDY) -> pd.DataFrame:
    """Read a CSV file as text: an empty cell is an empty string, and case 007 is not case 7.

    Raises:
        DamagedFileError: the file is missing, is no table, or lacks a column.
    """
    return _checked(path, columns, remedy, lambda: pd.read_csv(path, dtype=str, keep_default_na=False))


def _checked(path: Path, columns: tuple[str, ...], remedy: str, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        table = read()
    except (OSError, ValueError) as error:  # ParserError, EmptyDataError and UnicodeDecodeError are ValueErrors
        raise damaged(path, error, remedy) from None
    if missing := [name for name in columns if name not in table]:
        raise damaged(path, f"it has no column {missing[0]}", remedy)
    return table
