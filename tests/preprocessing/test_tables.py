import gzip

import numpy as np
import pandas as pd
import pytest

from preprocessing import tables
from preprocessing.errors import InputError
from preprocessing.tables import read_table


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="genes.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file


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
        ("case_id,EGFR,TP53,EGFR\na,1,2,3\n", "more than once: EGFR"),
        ("case_id,EGFR,TP53\na,1,2\nb,1\n", "row 3 has 2 fields, the header 3"),
        ("# one\n\n# two\ncase_id,EGFR,TP53\n\na,1,2\nb,1\n", "row 7 has 2 fields, the header 3"),
        ('case_id,EGFR,note\na,1,"x\ny, ""z""\n"\nb,1', "row 5 has 2 fields, the header 3"),
        ('# one\ncase_id,note,EGFR\na,"x\n\ny",1\n\n"b",1\n', "row 7 has 2 fields, the header 3"),
        (b"case_id,EGFR\n\xff\xfe,1\n", "is not UTF-8"),
        (b"PK\x03\x04rest", "spreadsheet"),
    ],
)
def test_unreadable_tables(write, text, message):
    with pytest.raises(InputError, match=message):
        read_table(write(text))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv")


def test_large_tables_are_read_the_same(write, monkeypatch):
    text = 'case_id,EGFR,TP53,subtype\n"a, the first",0.1234567890123456,NA,x\nb,,-3e-5,NA\nc,1,2,\n'
    path = write(text)
    small = read_table(path)
    monkeypatch.setattr(tables, "LARGE", 0)
    large = read_table(path)[small.columns.tolist()]
    pd.testing.assert_frame_equal(large, small, check_dtype=False)
    unquoted = write(text.replace('"a, the first"', "a"))
    assert read_table(unquoted)["subtype"].isna().tolist() == [False, True, True]
