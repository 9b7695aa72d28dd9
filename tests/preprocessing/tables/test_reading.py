import gzip

import numpy as np
import pandas as pd
import pytest

from preprocessing.io.errors import InputError
from preprocessing.tables import reading
from preprocessing.tables.reading import read_number, read_table


@pytest.mark.parametrize("text", ["1_000", "١٢", "0x10", "inf", "nan", "1e999", ""])
def test_what_is_no_plain_decimal_is_no_number(text):
    assert read_number(text) is None


def test_a_number_is_a_plain_decimal():
    assert [read_number(text) for text in ("-1.5", "+2", ".5", "3.", "1E-3")] == [-1.5, 2, 0.5, 3, 0.001]


@pytest.mark.parametrize("sep", [",", "\t", ";"])
def test_separators_missing_values_and_exact_numbers(write, sep):
    rows = [["case_id", "EGFR", "mgmt"], ["007", "0.1234567890123456", "[Not Available]"], ["008", "--", "yes"]]
    table = read_table(write("\n".join(sep.join(row) for row in rows)))
    assert table["case_id"].tolist() == ["007", "008"]
    assert table["EGFR"].tolist()[0] == 0.1234567890123456
    assert np.isnan(table["EGFR"].tolist()[1])
    assert table["mgmt"].isna().tolist() == [True, False]


def test_numbers_are_read_to_the_last_digit(write):
    numbers = np.random.default_rng(0).normal(size=300).tolist()
    table = read_table(write("case_id,EGFR\n" + "".join(f"p{i},{number!r}\n" for i, number in enumerate(numbers))))
    assert table["EGFR"].tolist() == numbers


def test_gzip_byte_order_mark_comments_and_windows_line_ends(write):
    text = b"#made by hand\r\ncase_id,EGFR\r\na,1\r\n"
    table = read_table(write(gzip.compress(b"\xef\xbb\xbf" + text), "genes.csv.gz"))
    assert table.columns.tolist() == ["case_id", "EGFR"]
    assert table["EGFR"].tolist() == [1]


def test_header_without_the_first_name_as_r_writes_it(write):
    table = read_table(write('"EGFR"\t"TP53"\n"a"\t1\t2\n"b"\t3\t4\n'))
    assert table.columns.tolist() == ["", "EGFR", "TP53"]
    assert table[""].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("case_id,EGFR\n", "is empty"),
        ("case_id,EGFR,TP53,EGFR\na,1,2,3\n", "1 duplicate columns: EGFR"),
        ("case_id,EGFR,TP53\na,1,2\nb,1\n", "row 3 has 2 fields, the header 3"),
        ("# one\n\n# two\ncase_id,EGFR,TP53\n\na,1,2\nb,1\n", "row 7 has 2 fields, the header 3"),
        ('case_id,EGFR,note\na,1,"x\ny, ""z""\n"\nb,1', "row 5 has 2 fields, the header 3"),
        ('# one\ncase_id,note,EGFR\na,"x\n\ny",1\n\n"b",1\n', "row 7 has 2 fields, the header 3"),
        (b"case_id,EGFR\n\xff\xfe,1\n", "is not UTF-8"),
        (",,\n,,\n", "is empty: no column has a name or a value"),
        (b"PK\x03\x04rest", "File is not a zip file"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest",
            "is a spreadsheet in the old format of Excel ..xls.; save it as .xlsx or CSV",
        ),
        (b"\xfd7zXZ\x00rest", "cannot be read: "),
        ("\n<!DOCTYPE html>\n<html>,</html>\n", "is a web page or an error message .a download that failed"),
        ("version https://git-lfs.github.com/spec/v1\nsize 1\n", "is a pointer of Git LFS"),
    ],
)
def test_unreadable_tables(write, text, message):
    with pytest.raises(InputError, match=message):
        read_table(write(text))


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "sep=;;;", "# by hand\n\nsep=;\n# more"])
def test_the_line_that_reports_excel_the_separator_is_heeded(write, first):
    table = read_table(write(f"{first}\nx,y;EGFR\na,b;1.5\nc,d;2\n"))
    assert table["x,y"].tolist() == ["a,b", "c,d"]
    assert table["EGFR"].tolist() == [1.5, 2]
    with pytest.raises(InputError, match="row 5 has 3 fields, the header 2; is there a title above the header"):
        read_table(write("sep=;\nx;EGFR\na;1\n\nb;1;2\n"))


def test_a_header_behind_a_comment_sign_is_refused(write):
    with pytest.raises(InputError, match=r"numbers where the header should be \(a, 1, 2\).*remove its #"):
        read_table(write("# by hand\n#case_id,EGFR,TP53\na,1,2\nb,3,4\n"))
    cbioportal = "#Patient\tAge\n#STRING\tNUMBER\n#1\t1\nPATIENT_ID\tAGE\nTCGA-06-0125\t50\n"
    assert read_table(write(cbioportal)).columns.tolist() == ["PATIENT_ID", "AGE"]


@pytest.mark.parametrize("large", [20_000_000, 0])
def test_the_index_is_the_line_of_the_file(write, monkeypatch, large):
    monkeypatch.setattr(reading, "LARGE", large)
    text = '# one\ncase_id,note,EGFR\n\na,"x\n\ny ""z""",1\n\n   \nb,5",2\nc,6",3\n,,\nd,"",4\n'
    table = read_table(write(text))
    assert table.index.tolist() == [4, 9, 10, 11, 12]
    assert table["note"].tolist()[1:3] == ['5"', '6"']
    tabs = read_table(write("case_id\tEGFR\tMET\na\t1\t2\n\t\t\nb\t3\t4\n"))
    assert tabs.index.tolist() == [2, 3, 4]


@pytest.mark.parametrize("short", ['""', '"b"', '"b\nc"', '"b,1,2"', " ,"])
def test_a_short_row_of_quotes_is_refused(write, short):
    with pytest.raises(InputError, match=r"row 3 has \d fields, the header 3; is the file cut short"):
        read_table(write(f"case_id,EGFR,TP53\na,1,2\n{short}\n"))


def test_missing_values_in_any_capitals(write):
    words = ["Na", "n.a.", "NOT REPORTED", "Not Allowed To Collect", "[Pending]", "UNKNOWN", "'--", "nan", "Null"]
    table = read_table(write("case_id,EGFR,grade\n" + "".join(f"p,{word},{word}\n" for word in words) + "q,1.5,G2\n"))
    assert table["grade"].isna().tolist() == [True] * len(words) + [False]
    assert table["EGFR"].astype(float).dropna().tolist() == [1.5]


def test_cells_that_excel_was_reported_to_take_as_text_are_what_they_hold(write):
    table = read_table(write('case_id,EGFR\n="007",1.5\n"=""TCGA-06-0125""",2\n="NA",3\n'))
    assert table["case_id"].tolist()[:2] == ["007", "TCGA-06-0125"]
    assert table["case_id"].isna().tolist() == [False, False, True]


def test_columns_that_pandas_named_are_dropped_where_they_are_empty(write):
    table = read_table(write("case_id,EGFR,Unnamed: 2,Unnamed: 3\na,1,,5\nb,2,,6\n"))
    assert table.columns.tolist() == ["case_id", "EGFR", "Unnamed: 3"]


def test_signs_that_nobody_sees_are_left_out(write):
    table = read_table(write("case_id,\ufeffEGFR\n\u200bTCGA-06-0125,1\n\ufeffp2\u00a0,2\n"))
    assert table.columns.tolist() == ["case_id", "EGFR"]
    assert table["case_id"].tolist() == ["TCGA-06-0125", "p2"]


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize("missing", ["NA", "Not Reported"])
def test_large_tables_are_read_the_same(write, monkeypatch, missing):
    text = f'case_id,EGFR,TP53,subtype\n"a, the first",0.1234567890123456,{missing},x\nb,,-3e-5,NA\nc,1,2,\n'
    path = write(text)
    small = read_table(path)
    monkeypatch.setattr(reading, "LARGE", 0)
    large = read_table(path)[small.columns.tolist()]
    pd.testing.assert_frame_equal(large, small, check_dtype=False)
    unquoted = write(text.replace('"a, the first"', "a"))
    assert read_table(unquoted)["subtype"].isna().tolist() == [False, True, True]


def test_names_that_are_broken_within_a_cell_of_a_workbook_are_one_line(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (
        ["case_id", "Overall\nsurvival\n(months)", "note_x000D_\nof x"],
        ["p1", 12.5, "one\ntwo"],
        ["p2", 3, "three"],
    ):
        book.active.append(row)
    book.save(tmp_path / "clinical.xlsx")
    frame = read_table(tmp_path / "clinical.xlsx")
    assert list(frame.columns) == ["case_id", "Overall survival (months)", "note of x"]
    assert frame["note of x"].tolist() == ["one two", "three"]


@pytest.mark.parametrize("header", [",grade", '"",grade', "grade", '"grade"', ",WHO grade of the tumour"])
def test_the_name_of_the_only_column_beside_row_names_is_no_title(write, header):
    frame = read_table(write(f"{header}\nP1,2\nP2,3\n"))
    assert frame.columns.tolist() == ["", header.replace('"', "").strip(",")]
    assert frame.iloc[:, 1].tolist() == [2, 3]
    semicolons = read_table(write("purity\nP1;2,5\nP2;3,5\n"))
    assert semicolons.to_dict("list") == {"": ["P1", "P2"], "purity": [2.5, 3.5]}


@pytest.mark.parametrize("title", ["Table S1", "Table S1,", "Grades of the cohort"])
def test_a_title_above_two_columns_is_left_out(write, title):
    frame = read_table(write(f"{title}\npatient,grade\nP1,2\nP2,3\n"))
    assert frame.columns.tolist() == ["patient", "grade"]
    assert frame["grade"].tolist() == [2, 3]


@pytest.mark.parametrize("above", [0, 1, 3])
def test_lines_above_the_header_are_counted(write, above):
    remarks = read_table(write("# a remark\n" * above + "patient,grade,age\nP1,2,50\nP2,3,60\n")).attrs["remarks"]
    assert remarks == ([f"{above} line{'s' if above > 1 else ''} above the header ignored"] if above else [])


def test_a_sentence_below_a_wide_table_is_a_remark_and_in_a_table_of_two_columns_a_row_without_a_value(write):
    wide = read_table(write("patient,grade,age\nP1,2,50\nAges are in years,,\nNA is not available,,\n"))
    assert wide["patient"].tolist() == ["P1"]
    assert wide.attrs["remarks"] == ["2 remarks below the table ignored: Ages are in years, NA is not available"]
    narrow = read_table(write("patient,grade\nP1,2\nthe third patient,\n"))
    assert narrow["patient"].tolist() == ["P1", "the third patient"]
