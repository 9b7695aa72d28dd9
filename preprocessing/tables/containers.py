"""Tables in binary files: Excel workbooks, Parquet, AnnData."""

import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from preprocessing.io.errors import InputError, some
from preprocessing.io.extras import extra

if TYPE_CHECKING:
    from openpyxl import Workbook

Parameters = ParamSpec("Parameters")
Content = TypeVar("Content")
Source = TypeVar("Source", bound=Path | str)
XLSX = (".xlsx", ".xlsm")
_LINE_ENDS = re.compile(r"\s*(?:_x000D_)?[\r\n]+\s*")  # Excel writes a carriage return as _x000D_
_SEEN_ROWS = 30  # from the beginning, to tell a title from the header
MAX_VALUES = 600_000_000  # of a dense matrix in memory: 4.8 GB


def split_sheet(path: Path | str) -> tuple[Path, str | None]:
    """Return file and sheet of `FILE.xlsx:SHEET`; the sheet is None for a path without one."""
    text = str(path)
    file, colon, sheet = text.rpartition(":")
    if colon and file.lower().endswith(XLSX):
        return Path(file), sheet
    return Path(text), None


def open_workbook(path: Path, data: bytes) -> "Workbook":
    """Open an Excel workbook; InputError where it is broken."""
    import openpyxl

    try:
        return openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except Exception as error:  # a broken file ends in whatever its library raises; the cause is kept
        raise InputError(f"{path}: cannot be read as an Excel workbook: {error}") from error


def sheet_choice(path: Path | str) -> str:
    """Describe which sheet of a workbook is read, and how another is selected; "" for other files and for a single sheet.

    Args:
        path: `FILE.xlsx` or `FILE.xlsx:SHEET`.
    """
    file, sheet = split_sheet(path)
    if not file.name.lower().endswith(XLSX) or not file.is_file():
        return ""
    book = open_workbook(file, file.read_bytes())
    names = book.sheetnames
    if len(names) == 1 or sheet not in (None, *names):
        return ""
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{file} has {len(names)} sheets, {listed}, of which {sheet or first_sheet(book)} is read; {file}:SHEET selects another"


def first_sheet(book: "Workbook") -> str:
    """Return the name of the first sheet of a workbook that is not hidden."""
    return str(next((one.title for one in book.worksheets if one.sheet_state == "visible"), book.worksheets[0].title))


def naming_sheets(
    read: Callable[Concatenate[Source, Parameters], Content],
) -> Callable[Concatenate[Source, Parameters], Content]:
    """Let the errors of a function that reads a table name the sheets of its workbook: another may be the one that is meant."""

    @wraps(read)
    def reader(path: Source, *args: Parameters.args, **options: Parameters.kwargs) -> Content:
        try:
            return read(path, *args, **options)
        except InputError as error:
            choice = "" if ":SHEET" in str(error) or "Excel workbook" in str(error) else sheet_choice(path)
            if not choice:
                raise
            raise InputError(f"{error}. {choice}") from error

    return reader


def workbook_rows(path: Path, book: "Workbook", sheet: str | None) -> Iterator[list[str]]:
    """Yield the rows of an Excel sheet as texts, as a CSV of it would have them; the first visible one by default.

    A date stays a date, which a gene named SEPT2 or MARCH1 became when Excel opened it.

    Raises:
        InputError: no such sheet.
    """
    if sheet is not None and sheet not in book.sheetnames:
        raise InputError(f'{path}: no sheet "{sheet}"; it has {", ".join(book.sheetnames)}')
    found = book[sheet if sheet is not None else first_sheet(book)]
    rows = filter(any, ([_cell_text(value) for value in row] for row in found.iter_rows(values_only=True)))
    first = list(itertools.islice(rows, _SEEN_ROWS))
    width = _header_width(first)
    for cells in itertools.chain(first, rows):
        while len(cells) > width and not cells[-1]:
            cells.pop()
        yield cells + [""] * (width - len(cells))


def _header_width(rows: Sequence[Sequence[str]]) -> int:
    """The columns of the header: the first row that fills more than half of the fullest one; a title above it does not."""
    filled = [sum(map(bool, row)) for row in rows]
    header = next((row for row, n in zip(rows, filled, strict=True) if n > max(filled) / 2), ())
    return max((position + 1 for position, cell in enumerate(header) if cell), default=0)


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time().isoformat() == "00:00:00" else value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return _LINE_ENDS.sub(" ", str(value)).strip()  # a name may be broken within its cell


def read_parquet(path: Path) -> pd.DataFrame:
    """Return a Parquet table, a named or textual index as its first column; InputError if it cannot be read."""
    import pyarrow

    try:
        frame = pd.read_parquet(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error
    if frame.size > MAX_VALUES:
        raise InputError(f"{path}: {frame.shape[0]:,} × {frame.shape[1]:,} values; leave out what is not needed")
    if not isinstance(frame.index, pd.RangeIndex):
        name = "" if frame.index.name is None else str(frame.index.name)
        index = frame.index.astype(str)
        frame = frame.reset_index(drop=True)
        frame.insert(0, name, index, allow_duplicates=True)
    return _plain(frame)


def read_anndata(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return X of an AnnData file as a table with a `case_id` column, and obs indexed by observation name.

    Raises:
        InputError: the file cannot be read, has no X, or more values than fit in memory.
    """
    with extra("exchange", str(path)):
        import anndata

    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # a broken file ends in whatever its library raises; the cause is kept
        raise InputError(f"{path}: cannot be read as AnnData: {error}") from error
    if data.X is None or data.n_obs * data.n_vars > MAX_VALUES or not data.n_vars:
        raise InputError(f"{path}: X has {data.n_obs:,} × {data.n_vars:,} values; give one row per case or sample")
    if twice := sorted(set(data.var_names[data.var_names.duplicated()])):
        raise InputError(f"{path}: {len(twice)} duplicate genes: {some(twice)}; keep one of each")
    matrix = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    frame = pd.DataFrame(matrix.astype(np.float64), columns=data.var_names.astype(str))
    frame.insert(0, "case_id", data.obs_names.astype(str).astype(object), allow_duplicates=True)
    return frame, _plain(data.obs.set_axis(data.obs_names.astype(str)))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns as CSV would give them: numbers as float, flags as 0 and 1, everything else as text."""
    columns = {}
    for name in frame.columns:
        values = frame[name]
        if pd.api.types.is_bool_dtype(values):
            values = values.astype("Float64").astype(float)
        elif pd.api.types.is_numeric_dtype(values):
            values = values.astype(float) if values.dtype.kind != "i" else values
        else:
            values = values.map(
                lambda value: value if isinstance(value, str) else _cell_text(value), na_action="ignore"
            )
            values = values.astype(object).where(values.notna(), np.nan)
        columns[str(name)] = values
    return pd.DataFrame(columns, index=frame.index)
