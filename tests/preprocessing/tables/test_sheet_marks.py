"""Hidden rows, merged cells and hidden sheets of Excel workbooks: what a reader sees in them and a table has not."""

import zipfile

import openpyxl
import pytest

from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.tables.reading import read_table


@pytest.fixture
def workbook():
    """A sheet of twelve cases, to be changed."""
    book = openpyxl.Workbook()
    book.active.title = "labels"
    book.active.append(["case_id", "grade"])
    for i in range(12):
        book.active.append([f"P{i}", 2 + i % 3])
    return book


def notes_of(book, path):
    book.save(path)
    return [note for note in read_clinical(path).notes if note.startswith("warning")]


def test_a_plain_sheet_has_no_warning(workbook, tmp_path):
    workbook.active.merge_cells("D1:D1")
    assert notes_of(workbook, tmp_path / "plain.xlsx") == []


def test_rows_that_a_filter_hides_are_read_and_warned_of(workbook, tmp_path):
    for row in (3, 4, 9):
        workbook.active.row_dimensions[row].hidden = True
    path = tmp_path / "hidden.xlsx"
    assert notes_of(workbook, path) == [
        f"warning: {path}: 3 hidden rows of sheet labels (3, 4, 9) are read like all others; delete what a filter was meant to "
        "leave out"
    ]
    assert len(read_table(path)) == 12


def test_cells_merged_over_rows_are_warned_of_and_a_merged_title_is_not(workbook, tmp_path):
    sheet = workbook.active
    sheet.merge_cells("B4:B6")
    path = tmp_path / "merged.xlsx"
    (warning,) = notes_of(workbook, path)
    assert warning.startswith(
        f"warning: {path}: 1 range of merged cells in sheet labels (B4:B6): the value is that of the first row"
    )
    sheet.unmerge_cells("B4:B6")
    sheet.insert_rows(1, 2)
    sheet["A1"] = "Grades of all cases"
    sheet.merge_cells("A1:B2")
    assert notes_of(workbook, path) == []


def test_marks_are_those_of_the_sheet_that_is_read_and_a_hidden_sheet_is_not_the_first(workbook, tmp_path):
    old = workbook.create_sheet("old & before", 0)
    old.append(["case_id", "grade"])
    old.append(["P0", 4])
    old.append(["P1", 4])
    old.row_dimensions[2].hidden = True
    old.sheet_state = "hidden"
    path = tmp_path / "sheets.xlsx"
    assert notes_of(workbook, path) == []
    assert read_table(path)["grade"].tolist() == [2, 3, 4] * 4
    (warning,) = [note for note in read_clinical(f"{path}:old & before").notes if note.startswith("warning")]
    assert "1 hidden row of sheet old & before (2) is read like all others" in warning


@pytest.mark.parametrize("value", ["", "<v></v>", "<v/>", "<v>0</v>"])
@pytest.mark.parametrize("formula", ["<f>1+1</f>", '<f t="shared" si="0"/>'])
def test_formulas_that_no_program_calculated_are_warned_of(workbook, tmp_path, formula, value):
    """openpyxl leaves the value out, other writers put 0 there; both have Excel calculate when the workbook is opened."""
    for row in (3, 5):
        workbook.active.cell(row, 2, "=1+1")
    path = tmp_path / "formulas.xlsx"
    workbook.save(path)
    rewrite(
        path,
        lambda text: text.replace("<f>1+1</f><v />", f"{formula}{value}").replace(
            "<f>1+1</f><v></v>", f"{formula}{value}"
        ),
    )
    warnings = [note for note in read_clinical(path).notes if note.startswith("warning")]
    assert warnings == [
        f"warning: {path}: 2 formulas of sheet labels (column B, row 3, 5) have no value, since no program calculated them: read "
        f"as {'0' if '0' in value else 'empty'}; open the workbook in Excel or LibreOffice and save it"
    ]


@pytest.mark.parametrize("value", ["2", "0"])
def test_formulas_with_a_value_are_read(workbook, tmp_path, value):
    workbook.active.cell(3, 2, "=1+1")
    path = tmp_path / "formulas.xlsx"
    workbook.save(path)
    rewrite(
        path,
        lambda text: text.replace("</f><v />", f"</f><v>{value}</v>").replace("</f><v></v>", f"</f><v>{value}</v>"),
    )
    rewrite(path, lambda text: text.replace('fullCalcOnLoad="1"', ""), part="xl/workbook.xml")
    assert not any(note.startswith("warning") for note in read_clinical(path).notes)
    assert read_table(path)["grade"].iloc[1] == float(value)


def rewrite(path, change, *, part="xl/worksheets/sheet1.xml"):
    """Change the XML of a part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part].decode()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
