"""What a sheet of an Excel workbook has and a table has not: hidden rows, cells merged over rows, formulas without a value."""

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from preprocessing.io.errors import count, some

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_ROW = re.compile(rb"<(?:\w+:)?row\s([^>]*)>")
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s+ref="([A-Z]+)(\d+):([A-Z]+)(\d+)"')
_NUMBER, _IS_HIDDEN = re.compile(rb'\br="(\d+)"'), re.compile(rb'\bhidden="(?:1|true)"')
_FORMULA = re.compile(
    rb"<(?:\w+:)?c\s([^>]*)>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*(?:<(?:\w+:)?v\s*(?:/>|>([^<]*)</))?"
)
_PLACE, _IS_ZERO = re.compile(rb'\br="([A-Z]+)(\d+)"'), re.compile(rb"0?(\.0+)?")
_UNCALCULATED = re.compile(rb'<(?:\w+:)?calcPr\b[^>]*\bfullCalcOnLoad="(?:1|true)"')
_CHUNK, _OVERLAP = 1 << 20, 1 << 12


def describe_marks(data: bytes, sheet: str) -> list[str]:
    """Return sentences on the hidden rows of a sheet, on cells that are merged over several rows, and on formulas without a value.

    A program that writes formulas does not calculate them: it leaves the value out, or writes 0 and has Excel calculate the
    whole workbook when it is opened.

    Args:
        data: the workbook.
        sheet: its name.
    """
    hidden, merged, empty = dict[int, None](), dict[str, None](), dict[tuple[str, int], str]()
    is_calculated = not _is_uncalculated(data)
    for text in _chunks(data, sheet):
        for row in _ROW.finditer(text):
            if _IS_HIDDEN.search(row[1]) and (number := _NUMBER.search(row[1])):
                hidden[int(number[1])] = None
        for left, top, right, bottom in _MERGED.findall(text):
            if int(bottom) > int(top) > 1:  # a title above the header may be merged
                merged[f"{left.decode()}{int(top)}:{right.decode()}{int(bottom)}"] = None
        for cell in _FORMULA.finditer(text):
            value = cell[2] or b""
            if (place := _PLACE.search(cell[1])) and (not value or (not is_calculated and _IS_ZERO.fullmatch(value))):
                empty[place[1].decode(), int(place[2])] = "read as 0" if value else "read as empty"
    sentences = _describe_formulas(empty, sheet)
    if hidden:
        sentences.append(
            f"{count(len(hidden), 'hidden row')} of sheet {sheet} ({some(hidden)}) {'is' if len(hidden) == 1 else 'are'} read like "
            "all others; delete what a filter was meant to leave out"
        )
    if merged:
        sentences.append(
            f"{count(len(merged), 'range')} of merged cells in sheet {sheet} ({some(merged)}): the value is that of the first row, "
            "the others are read as empty; unmerge them and fill them in"
        )
    return sentences


def _describe_formulas(cells: Mapping[tuple[str, int], str], sheet: str) -> list[str]:
    """A sentence on the formulas that were never calculated: their columns and rows, and as what they are read."""
    if not cells:
        return []
    rows: dict[str, list[int]] = {}
    for column, row in cells:
        rows.setdefault(column, []).append(row)
    cells_by_column = "; ".join(f"column {column}, row {some(of)}" for column, of in rows.items())
    has, them = ("has", "it") if len(cells) == 1 else ("have", "them")
    return [
        f"{count(len(cells), 'formula')} of sheet {sheet} ({cells_by_column}) {has} no value, since no program calculated {them}: "
        f"{' or '.join(sorted(set(cells.values())))}; open the workbook in Excel or LibreOffice and save it"
    ]


def _is_uncalculated(data: bytes) -> bool:
    """Whether the workbook asks Excel to calculate all its formulas when it is opened."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return "xl/workbook.xml" in archive.namelist() and bool(_UNCALCULATED.search(archive.read("xl/workbook.xml")))


def _chunks(data: bytes, sheet: str) -> Iterator[bytes]:
    """The XML of a sheet in parts that overlap, so that no tag is cut in all of them; nothing where it is not found."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part = _part_of(archive, sheet)
        if part is None:
            return
        with archive.open(part) as file:
            end = b""
            while chunk := file.read(_CHUNK):
                yield end + chunk
                end = (end + chunk)[-_OVERLAP:]


def _part_of(archive: zipfile.ZipFile, sheet: str) -> str | None:
    """The name of the file of a sheet within its workbook."""
    names = set(archive.namelist())
    if not {"xl/workbook.xml", "xl/_rels/workbook.xml.rels"} <= names:
        return None
    sheets = ElementTree.fromstring(archive.read("xl/workbook.xml")).iter(f"{_MAIN}sheet")
    relation = next((one.get(_RELATION) for one in sheets if one.get("name") == sheet), None)
    targets = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
    target = next((one.get("Target", "") for one in targets if one.get("Id") == relation), "")
    part = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"xl/{target}")
    return part if part in names else None
