"""Text tables: every cell as it was written, or the file is refused with the place of the fault."""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import decode, read_bytes
from preprocessing.io.unpacking import ZIP
from preprocessing.tables.containers import first_sheet, naming_sheets, open_workbook, split_sheet, workbook_rows
from preprocessing.tables.layouts import csv_text, footnotes, header_start, with_decimal_points, without_gct_head
from preprocessing.tables.repeated_samples import ValueColumns, may_repeat_samples, value_columns
from preprocessing.tables.sheet_marks import describe_marks
from preprocessing.tables.thousands import read_thousands

if TYPE_CHECKING:
    import pyarrow


def names_in(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


# What stands for a missing value, in lower case; capitals make no difference.
_NOTHING = {
    *names_in("na n/a n.a. nan #n/a #na null none -- '-- - . ? not_reported unknown missing"),
    *names_in("[unknown] [discrepancy] [completed] [pending] [redacted]"),
    *("not reported", "[not reported]", "not available", "[not available]", "not applicable", "[not applicable]"),
    *("not evaluated", "[not evaluated]", "not assessed", "not tested", "not determined", "not allowed to collect"),
    *(
        "not done",
        "not performed",
        "not known",
        "not recorded",
        "no data",
        "n.d.",
        "n/d",
        "n.k.",
        "n/k",
        "tbd",
        "pending",
    ),
    "",
}
_SPELT = sorted(
    {"NaN", *_NOTHING, *map(str.upper, _NOTHING), *map(str.capitalize, _NOTHING), *map(str.title, _NOTHING)}
)
# The usual ones. Arrow holds the list once for each column, which of a wide table takes more memory than its values.
_COMMON = ["", "NA", "NaN", "nan", "null"]
# Bytes and columns; beyond them Arrow reads the table: as exact, and ten times faster.
LARGE, WIDE = 20_000_000, 5_000
FIRST_ROW = 64 << 20  # signs, among which the first row ends
FEW_TEXTS = 20  # columns of text that are set into a table of numbers one by one, without a copy of it
FIRST_CELL = 64  # bytes, among which the first cell ends where it is a number
BLOCK_BYTES = 256 << 20  # of a wide table, each block of which has an array per column

# Columns that are read as text whatever they look like, so that "02" stays "02".
_TEXT_WORDS = frozenset(names_in("id ids barcode case sample patient slide submitter site tss"))
_LEADING_ZERO = re.compile(rb'[,;|\t\n"]0\d+[,;|\t\n"]')  # no number is written so: a column that has it holds names

# What may stand above the header: comments, empty lines, and the line that sets the separator for Excel.
_ABOVE = re.compile(r'(?:#[^\n]*\n|\n)*(?:"?sep=(?P<sep>[,;|\t])"?[,;|\t]*\n)?(?:#[^\n]*\n|\n)*', re.IGNORECASE)
# What Python reads besides, 1_000 and the digits of other scripts, nobody meant as that number.
_PLAIN_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
# What pandas calls a column without a name.
_NAMELESS = re.compile(r"unnamed: ?\d+(_level_\d+)?(\.\d+)?", re.IGNORECASE)


@naming_sheets
def read_table(path: Path | str, *, as_text: bool = False) -> pd.DataFrame:
    """Return the columns of a file: numbers exact, missing values NaN, ids as text; the index is the line, from 1.

    CSV, TSV or semicolons, compressed or not, with or without a byte order mark; GCT; a sheet of an Excel workbook. Lines that
    begin with # above the header are skipped, and so are columns without a name and without a value. A first line `sep=;`
    sets the separator. A header that lacks the name of the first column (R) gets "".

    Args:
        path: the file; of a workbook `FILE.xlsx` (its first visible sheet) or `FILE.xlsx:SHEET`.
        as_text: whether every column holds names, whatever they look like.

    Raises:
        InputError: no such file, not text, empty, a duplicate column, a row with too many or too few fields.
    """
    file, sheet = split_sheet(path)
    return parse_bytes(file, [read_bytes(file)], sheet=sheet, as_text=as_text)


def parse_bytes(path: Path, content: list[bytes], *, sheet: str | None = None, as_text: bool = False) -> pd.DataFrame:
    """Return the columns of a file that was read; see `read_table`.

    Args:
        path: names the file in messages.
        content: what it contains, as the only item of a list, which is emptied: a large table is held once.
        sheet: of a workbook; None: the first.
        as_text: whether every column holds names.
    """
    if content[0].startswith(ZIP):
        data = content.pop()
        book = open_workbook(path, data)
        frame = parse_table(path, csv_text(workbook_rows(path, book, sheet)), as_text=as_text)
        if len(names := book.sheetnames) > 1:
            chosen = f"sheet {sheet or first_sheet(book)} of {', '.join(names[:-1])} and {names[-1]}"
            frame.attrs["remarks"] = [chosen, *frame.attrs.get("remarks", ())]
        frame.attrs["doubts"] = describe_marks(data, sheet or first_sheet(book))
        return frame
    if sheet is not None:
        raise InputError(f"{path}: is not an Excel workbook and has no sheet {sheet}")
    return parse_table(path, decode(path, content.pop()), as_text=as_text)


def parse_table(path: Path, whole: str, *, as_text: bool = False) -> pd.DataFrame:
    """Return the columns of a text; see `read_table`. `path` names the file in messages."""
    names, sep, body = _header(path, without_gct_head(whole))
    first_line = _first_line(whole, body)
    del whole  # as large as the table, and not needed any more
    lines = _check_fields(path, body, sep, names, first_line=first_line)
    if (chosen := _chosen_columns(path, names, sep, body)) is not None:
        return _parse_chosen(path, names, sep, body, lines, chosen)
    text = set(range(len(names))) if as_text else _text_positions(names, sep, body)
    frame = _read_large(names, sep, body, text) if (len(body) > LARGE or len(names) > WIDE) and not as_text else None
    if frame is None:
        frame = _read_small(path, len(names), sep, body, text)
    for position in [i for i, dtype in enumerate(frame.dtypes) if dtype.kind == "O"]:
        frame[position] = frame[position].map(cell_value).astype(object)
    thousands = [] if as_text else read_thousands(frame, lambda columns: _read_as_text(len(names), sep, body, columns))
    frame.index = pd.Index(lines)  # in place: a large table is not copied
    return _named(path, frame, names) if as_text else _tidied(path, frame, names, sep, text, thousands)


def _chosen_columns(path: Path, names: list[str], sep: str, body: bytes) -> ValueColumns | None:
    """The columns of values where each sample has several columns, and the row below the header names them."""
    if not may_repeat_samples(names):
        return None
    return value_columns(path, names, next(_rows(body, sep)))


def _parse_chosen(
    path: Path, names: list[str], sep: str, body: bytes, lines: list[int], chosen: ValueColumns
) -> pd.DataFrame:
    """The columns of values only, as numbers; the row below the header, which names the measures, is left out."""
    frame = pd.read_csv(
        io.BytesIO(body[body.index(b"\n") + 1 :]), sep=sep, header=None, names=range(len(names)), index_col=False,
        usecols=chosen.positions, dtype={0: str}, skipinitialspace=True, keep_default_na=False, na_values=_SPELT, low_memory=False,
        float_precision="round_trip",
    )  # fmt: skip
    for position in [i for i in frame.columns if frame[i].dtype.kind == "O"]:
        frame[position] = frame[position].map(cell_value).astype(object)
    frame.index = pd.Index(lines[1:])
    frame.columns = pd.Index([chosen.ids.get(position, names[position]) for position in chosen.positions])
    frame.attrs["remarks"] = [chosen.describe()]
    return frame


def _tidied(
    path: Path, frame: pd.DataFrame, names: list[str], sep: str, text: set[int], thousands: list[int]
) -> pd.DataFrame:
    """The table under its names, without remarks below it and with decimal points; `attrs["remarks"]` says what was done."""
    remarks = list[str]()
    if thousands:
        remarks.append(f"points read as separators of thousands: {some(names[position] for position in thousands)}")
    if (above := int(frame.index[0]) - 2) > 0:
        remarks.append(f"{count(above, 'line')} above the header ignored")
    if below := footnotes(frame):
        remarks.append(f"{count(below, 'remark')} below the table ignored: {some(frame.iloc[-below:, 0])}")
        frame = frame.iloc[:-below].copy()  # numbers are set into it
    if sep != ",":
        texts = [position for position, dtype in enumerate(frame.dtypes) if dtype.kind == "O" and position not in text]
        if changed := with_decimal_points(frame, texts):
            remarks.append(f"decimal commas read as points: {some(names[position] for position in changed)}")
    frame = _named(path, frame, names)
    frame.attrs["remarks"] = remarks
    return frame


def cell_value(value: Any) -> Any:
    """The text without outer blanks, NaN where it means a missing value; other values unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith('="') and text.endswith('"'):  # how a CSV tells Excel that 007 is text
        text = text[2:-1].strip()
    return float("nan") if text.lower() in _NOTHING else text


def text_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that do not hold numbers only."""
    return [column for column, dtype in zip(frame.columns, frame.dtypes, strict=True) if dtype.kind == "O"]


def words_of(name: str) -> list[str]:
    """Return the words of a column's name in lower case: the same for "daysToDeath" and "days_to.death"."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def read_number(text: str) -> float | None:
    """Return the finite number that the text spells as a plain decimal, else None."""
    number = float(text) if _PLAIN_NUMBER.fullmatch(text.strip()) else float("inf")
    return number if abs(number) < float("inf") else None


def _header(path: Path, text: str) -> tuple[list[str], str, bytes]:
    """The columns' names, the separator, and what follows the header."""
    above = _ABOVE.match(text)
    start = header_start(text, above.end() if above else 0)
    line = text[start : _line_end(text, start)]
    at = _line_end(text, start) + 1
    while text.startswith("\n", at):
        at += 1
    below = text[at : at + FIRST_ROW]  # all that decides, without a copy of a large table
    if not line.strip() or not below.strip():
        raise InputError(f"{path}: is empty: a header and at least one row are needed")
    if line.count('"') % 2:
        raise InputError(f"{path}: the header has a quote that does not end in its line; write each name on one line")
    sep, names, first = _separator(path, line, below, (above and above["sep"]) or "\t;,")
    if len(names) == len(first) == 1:  # as R writes tables by default, and databases
        sep, names, first = _separator(path, line, below, "| ")
    _check_header(path, text[:start], names, sep)
    body = text[at:].encode() if text.endswith("\n") else (text[at:] + "\n").encode()
    if len(first) == len(names) + 1:
        if not first[-1]:
            row = _first_line(text, text[at:].encode())
            raise InputError(
                f"{path}: row {row} ends with a separator that the header does not have; remove it, or name the first column"
            )
        names = ["", *names]
    return names, sep, body


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


def _check_header(path: Path, above: str, names: list[str], sep: str) -> None:
    """The header is no row of numbers, because the real one begins with # and was passed over as a comment."""
    comments = [line for line in above.split("\n") if line.startswith("#")]
    numbers = [name for name in names if read_number(name) is not None]
    if comments and numbers and comments[-1].count(sep) + 1 == len(names) > 1:
        raise InputError(
            f"{path}: there are numbers where the header should be ({some(names)}), and the line above begins with #: "
            "if that is the header, remove its #"
        )


def _separator(path: Path, line: str, body: str, signs: str) -> tuple[str, list[str], list[str]]:
    """What separates the cells, and the first two rows' cells: the commonest sign that cuts both rows into as many."""
    bare = re.sub('"[^"]*"', "", line)
    found, problem = [], None
    for sep in sorted(signs, key=bare.count, reverse=True):
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=sep, skipinitialspace=True))]
            found.append((sep, names, next(csv.reader(io.StringIO(body[:FIRST_ROW], newline=""), delimiter=sep))))
        except csv.Error as error:  # a field without an end: cut by another sign it may have one
            problem = error
    if not found:
        raise InputError(f"{path}: the header or the row below it cannot be read: {problem}")
    for more in (0, 1):  # R leaves out the name of the first column
        for sep, names, first in found:
            if len(first) == len(names) + more > 1:
                return sep, names, first
    return found[0]


def _first_line(whole: str, body: bytes) -> int:
    """The line of the file on which the first row behind the header stands, from 1."""
    n_lines = whole.count("\n") + (not whole.endswith("\n"))
    return n_lines - body.count(b"\n") + 1


def _check_fields(path: Path, body: bytes, sep: str, names: list[str], *, first_line: int) -> list[int]:
    """The line of each row. Every row has as many fields as the header: pandas would fill or drop in silence."""
    cell = sep.encode()
    if b'"' in body:
        # Of a quoted cell only its line ends stay, as signs that separate nothing, so that the lines are counted.
        quoted = re.compile(rb'(?<=[\n%b])( *)"[^"]*(?:""[^"]*)*"' % re.escape(cell))
        body = quoted.sub(lambda found: b"q" + b"\r" * found[0].count(b"\n"), b"\n" + body)[1:]
    line, lines = first_line, []
    for row in io.BytesIO(body):
        n_fields = row.count(cell) + 1
        if n_fields > 1 or row.strip():
            if n_fields != len(names):
                header = f"{len(names)}" + ("" if names[0] else ", with the first, which has no name")
                why = "is the file cut short?" if n_fields < len(names) else "is there a title above the header?"
                raise InputError(f"{path}: row {line} has {n_fields} fields, the header {header}; {why}")
            lines.append(line)
        line += 1 + row.count(b"\r")
    return lines


def _text_positions(names: list[str], sep: str, body: bytes) -> set[int]:
    """The columns that hold names, whatever they look like: the first, those that are called so, and any with a 007."""
    found = {0, *(i for i, name in enumerate(names) if _TEXT_WORDS & set(words_of(name)))}
    if _LEADING_ZERO.search(b"\n" + body[:FIRST_CELL]) or _LEADING_ZERO.search(body):
        for row in _rows(body, sep):
            found.update(i for i, text in enumerate(row) if len(text) > 1 and text[0] == "0" and text.isdecimal())
    return found


def _rows(body: bytes, sep: str) -> Iterator[list[str]]:
    lines = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8", newline="")
    return filter(_holds_cells, csv.reader(lines, delimiter=sep, skipinitialspace=True))


def _holds_cells(row: list[str]) -> bool:
    """Whether the line is a row of the table, and not empty or blank."""
    return len(row) > 1 or (len(row) == 1 and bool(row[0].strip()))


def _read_small(path: Path, n_names: int, sep: str, body: bytes, text: set[int]) -> pd.DataFrame:
    kinds: dict[Any, Any] = dict.fromkeys(text, str)
    try:
        return pd.read_csv(
            io.BytesIO(body), sep=sep, header=None, names=range(n_names), index_col=False, dtype=kinds, low_memory=False,
            skipinitialspace=True, keep_default_na=False, na_values=_SPELT, float_precision="round_trip",
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error


def _read_as_text(n_names: int, sep: str, body: bytes, columns: list[int]) -> pd.DataFrame:
    """The cells of some columns as they are written, without outer blanks; NaN where they are missing."""
    texts = pd.read_csv(
        io.BytesIO(body), sep=sep, header=None, names=range(n_names), index_col=False, dtype=str, usecols=columns,
        skipinitialspace=True, keep_default_na=False, na_values=_SPELT,
    )  # fmt: skip
    return texts.apply(lambda column: column.str.strip())


def _read_large(names: list[str], sep: str, body: bytes, known_text: set[int]) -> pd.DataFrame | None:
    """The same as `_read_small`, ten times faster; None where a column of numbers contains anything else here and there."""
    numeric = _numeric_positions(sep, body, known_text)
    text = sorted(set(range(len(names))) - set(numeric))
    table = _arrow_table(sep, body, numeric, text, _COMMON)
    if table is None:
        table = _arrow_table(sep, body, numeric, text, _SPELT)
    if table is None:
        return None
    values = np.empty((table.num_rows, len(numeric)), order="F")
    for place, at in enumerate(numeric):
        values[:, place] = table.column(at).to_numpy()
    strings = {at: pd.Series(table.column(at).to_pylist(), dtype=object) for at in text}
    del table
    if len(text) > FEW_TEXTS:
        return pd.concat([pd.DataFrame(strings, columns=text), pd.DataFrame(values, columns=numeric)], axis=1)[
            list(range(len(names)))
        ]
    frame = pd.DataFrame(values, columns=numeric)  # the array itself
    for at in text:  # in rising order, so that each stands at its place
        frame.insert(at, at, strings[at])
    return frame


def _arrow_table(
    sep: str, body: bytes, numeric: list[int], text: list[int], missing: list[str]
) -> "pyarrow.Table | None":
    """The columns as Arrow reads them; None where a number is neither that nor one of the spellings of a missing value."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    types = {str(at): pyarrow.float64() for at in numeric} | {str(at): pyarrow.string() for at in text}
    try:
        return arrow_csv.read_csv(
            pyarrow.BufferReader(body),
            read_options=arrow_csv.ReadOptions(column_names=list(map(str, range(len(types)))), block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter=sep, newlines_in_values=b'"' in body),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types, null_values=missing, strings_can_be_null=False
            ),
        )
    except pyarrow.ArrowInvalid:
        return None


def _numeric_positions(sep: str, body: bytes, known_text: set[int]) -> list[int]:
    """The columns that hold numbers, or nothing, in the first rows."""
    columns = zip(*itertools.islice(_rows(body, sep), 3), strict=True)
    return [
        position
        for position, column in enumerate(columns)
        if position not in known_text
        and all(text.lower() in _NOTHING or read_number(text) is not None for text in column)
    ]


def _named(path: Path, frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The columns under their names, without those that have neither name nor value (trailing separators)."""
    named = [bool(name) and not _NAMELESS.fullmatch(name) for name in names]
    kept = [position for position in range(len(names)) if named[position] or frame[position].notna().any()]
    if not kept:
        raise InputError(f"{path}: is empty: no column has a name or a value")
    twice = sorted(name for name, count in Counter(names[position] for position in kept).items() if count > 1)
    if twice:
        names_twice = some(name or "(no name)" for name in twice)
        title = "; is there a title above the header?" if "" in twice else ""
        raise InputError(f"{path}: {len(twice)} duplicate columns: {names_twice}; keep one of each{title}")
    frame = frame if len(kept) == len(names) else frame[kept]
    frame.columns = pd.Index([names[position] for position in kept])
    return frame
