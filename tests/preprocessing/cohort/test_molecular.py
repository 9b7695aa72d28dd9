import pytest

from preprocessing.cohort.molecular import further_table
from preprocessing.io.errors import InputError


def test_a_kind_that_is_mistyped_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "copies.csv"
    path.touch()
    assert further_table(f"{path}:cnv") == (path, "cnv")
    assert further_table(str(path)) == (path, "rna")
    with pytest.raises(InputError, match=r'copies.csv:rnaa: unknown kind "rnaa": did you mean "rna"\? Known: cnv, '):
        further_table(f"{path}:rnaa")


def test_colons_of_file_names_and_sheets_are_no_kinds(tmp_path):
    odd = tmp_path / "2026-01-01T10:30"
    for path in (odd, tmp_path / "2026-01-01T10", tmp_path / "book.xlsx"):
        path.touch()
    assert further_table(str(odd)) == (odd, "rna")
    assert further_table(f"{tmp_path}/book.xlsx:Sheet1")[1] == "rna"
