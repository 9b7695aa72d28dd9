"""Text layouts of public repositories that are more than one table: GEO series matrix, GCT."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import InputError

_BEGIN, _END = "!series_matrix_table_begin", "!series_matrix_table_end"
_GCT = re.compile(r"#1\.[23][^\n]*\n(?P<sizes>[\d\t ,]+)\n")
_CHARACTERISTIC = re.compile(r"([^:]{1,60}):\s*(.*)", re.DOTALL)
_SAMPLE = "!Sample_"
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


def csv_text(rows: Iterator[list[str]]) -> str:
    """Return rows of cells as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
