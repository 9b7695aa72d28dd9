"""Text layouts of public repositories that are more than one table: GEO series matrix, GCT."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import InputError

_BEGIN, _END = "!series_matrix_table_begin", "!series_matrix_table_end"
DATASET_BEGIN, _DATASET_END = "!dataset_table_begin", "!dataset_table_end"
_GCT = re.compile(r"#1\.[23][^\n]*\n(?P<sizes>[\d\t ,]+)\n")
_CHARACTERISTIC = re.compile(r"([^:]{1,60}):\s*(.*)", re.DOTALL)
_SAMPLE = "!Sample_"
_SEEN_LINES, _MOST_TITLES = 30, 10  # from the beginning, to tell a title from the header
_SENTENCE = 3  # words of a remark below a table
_QUOTED = re.compile('"[^"\\n]*"')
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", re.IGNORECASE)
_EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none", "unknown", ".", "-"})
_COMMA_NUMBER = re.compile(r"[-+]?\d+(,\d+)?(e[-+]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?([1-9]\d{0,2}(,\d{3})?|\d+)")  # 1,234: a decimal or a thousand
# Of a series matrix: the lines that describe each sample; others describe protocols and files.
_SAMPLE_LINES = ("title", "geo_accession", "source_name_ch1", "description", "type")


def is_series_matrix(text: str) -> bool:
    """Whether the text is a GEO series matrix, by its first characters."""
    return text.startswith(("!Series_", "!Sample_"))


def series_matrix(path: Path, text: str) -> tuple[str, pd.DataFrame]:
    """Return the matrix of a GEO series (CSV text, probes in rows; "" if it is empty), and the attributes of its samples.

    Returns:
        The text between the markers of the table; a frame with one row per sample, indexed by GSM accession, whose columns
        are title, source and the characteristics (`age: 45` is the value 45 of age).

    Raises:
        InputError: no sample accessions, or a table that does not end.
    """
    attributes = _sample_attributes(path, text)
    start = text.find(_BEGIN)
    if start < 0:
        return "", attributes
    end = text.find(_END, start)
    if end < 0:
        raise InputError(f"{path}: is a GEO series matrix without {_END}: the file is cut short; fetch it again")
    matrix = text[text.index("\n", start) + 1 : end]
    return (matrix if matrix.count("\n") > 1 else ""), attributes


def dataset_table(path: Path, text: str) -> str:
    """Return the table of a GEO dataset (GDS, SOFT): probes in rows, with their gene as IDENTIFIER.

    Raises:
        InputError: a table that does not end.
    """
    start = text.index("\n", text.index(DATASET_BEGIN)) + 1
    end = text.find(_DATASET_END, start)
    if end < 0:
        raise InputError(f"{path}: is a GEO dataset without {_DATASET_END}: the file is cut short; fetch it again")
    return text[start:end].replace("\r", "")


def _sample_attributes(path: Path, text: str) -> pd.DataFrame:
    columns: dict[str, list[str]] = {}
    ids: list[str] = []
    for name, values in _sample_lines(text):
        if name == "geo_accession":
            ids = values
        elif name.startswith("characteristics"):
            for key, column in _characteristics(values).items():
                before = columns.setdefault(key, [""] * len(values))
                columns[key] = [old or new for old, new in zip(before, column, strict=True)]
        elif name in _SAMPLE_LINES:
            columns.setdefault(name, values)
    if not ids:
        raise InputError(f"{path}: is a GEO series matrix without !Sample_geo_accession; fetch it again")
    frame = pd.DataFrame({name: values for name, values in columns.items() if len(values) == len(ids)}, index=ids)
    return frame.replace("", pd.NA).dropna(axis=1, how="all").astype(object)


def _sample_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and values of each line that describes the samples."""
    for line in text[: text.find(_BEGIN) if _BEGIN in text else len(text)].split("\n"):
        if line.startswith(_SAMPLE):
            name, *values = next(csv.reader([line], delimiter="\t"))
            yield name.removeprefix(_SAMPLE), [value.strip() for value in values]


def _characteristics(values: list[str]) -> dict[str, list[str]]:
    """Columns of a line of characteristics; samples may have different ones on the same line."""
    columns: dict[str, list[str]] = {}
    for at, value in enumerate(values):
        found = _CHARACTERISTIC.fullmatch(value)
        if found:
            columns.setdefault(found[1].strip(), [""] * len(values))[at] = found[2].strip()
    return columns


def without_gct_head(text: str) -> str:
    """Return the table of a GCT 1.2 or 1.3 file; any other text as it is."""
    found = _GCT.match(text)
    return text[found.end() :] if found else text


def header_start(text: str, start: int) -> int:
    """Return where the header begins: behind a title and other lines of few cells above the table, or `start` itself.

    A title is a line whose cells fill at most half of the columns that most of the following lines have. In a table of two
    columns pandas and R leave the name of the first one empty or out: `,grade` or `grade`.
    """
    lines, at = list[tuple[int, str]](), start
    while len(lines) < _SEEN_LINES and (end := text.find("\n", at)) >= 0:
        lines.append((at, _QUOTED.sub("q", text[at:end])))
        at = end + 1
    rows = [(position, line) for position, line in lines if line.strip(" \t,;")]
    widths = {sep: _usual_width([line for _, line in rows], sep) for sep in "\t,;"}
    # A comma may separate cells, or the decimals of cells that tabs separate; only the sign of the cells cuts the header, too.
    likely = [sep for sep, width in widths.items() if width > max(1, max(widths.values()) / 2)]
    found = [_header_by(text, rows, sep, widths[sep]) for sep in likely]
    return min((position for position in found if position is not None), default=start)


def _header_by(text: str, rows: list[tuple[int, str]], sep: str, n_columns: int) -> int | None:
    """Where the first of the lines begins that has cells in more than half of the columns; None where none has."""
    for at, (position, line) in enumerate(rows[:_MOST_TITLES]):
        cells = [cell.strip() for cell in line.split(sep)]
        is_name = n_columns == 2 and (
            not cells[0] if len(cells) == 2 else " " not in text[position : position + len(line)]
        )
        below = [other for _, other in rows[at + 1 : at + 3]]
        is_title = len(cells) < n_columns and " " in line.strip() and _begins_with_header(below, sep)
        if is_name or (sum(map(bool, cells)) > n_columns / 2 and not is_title):
            return position
    return None


def _begins_with_header(lines: list[str], sep: str) -> bool:
    """Whether the first line has words in all of its cells, and the second numbers."""
    rows = [[cell.strip() for cell in line.split(sep)] for line in lines]
    if len(rows) < 2 or any(cell.lower() in _EMPTY or _NUMBER.fullmatch(cell) for cell in rows[0]):
        return False
    return any(map(_NUMBER.fullmatch, rows[1]))


def _usual_width(lines: list[str], sep: str) -> int:
    """The number of cells that at least half of the lines have; 0 where there is none."""
    counted = Counter(line.count(sep) + 1 for line in lines).most_common(1)
    return counted[0][0] if counted and counted[0][1] >= max(2, len(lines) / 2) else 0


def footnotes(frame: pd.DataFrame) -> int:
    """Return how many of the last rows are remarks below the table: a sentence in the first column, nothing in the others."""
    found = 0
    while frame.shape[1] > 2 and found < len(frame) - 1:
        first, others = frame.iloc[-1 - found, 0], frame.iloc[-1 - found, 1:]
        if not isinstance(first, str) or len(first.split()) < _SENTENCE or others.notna().any():
            break
        found += 1
    return found


def with_decimal_points(frame: pd.DataFrame, columns: Collection[int]) -> list[int]:
    """Read columns of numbers with decimal commas, in place; nothing where a comma may separate thousands.

    Args:
        frame: cells by position.
        columns: positions of columns that may hold numbers.

    Returns:
        Positions of the columns that were changed.
    """
    found: dict[int, pd.Series] = {}
    for position in columns:
        values = frame[position].dropna()
        if len(values) and values.map(_is_number_with_comma).all() and values.str.contains(",").any():
            found[position] = values
    if all(_THOUSANDS.fullmatch(value) for values in found.values() for value in values):
        return []
    for position, values in found.items():
        frame[position] = values.str.replace(",", ".").astype(float).reindex(frame.index)
    return sorted(found)


def _is_number_with_comma(value: object) -> bool:
    return isinstance(value, str) and _COMMA_NUMBER.fullmatch(value) is not None


def csv_text(rows: Iterator[list[str]]) -> str:
    """Return rows of cells as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
