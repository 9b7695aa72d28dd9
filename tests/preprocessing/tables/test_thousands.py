import pandas as pd
import pytest

from preprocessing.tables.reading import parse_table


def table(tmp_path, *cells, sep=";", other="x"):
    lines = "\n".join(f"c{row}{sep}{cell}{sep}{other}" for row, cell in enumerate(cells))
    return parse_table(tmp_path / "table.csv", f"case_id{sep}days{sep}note\n{lines}\n")


@pytest.mark.parametrize("sep", [";", "\t", ","])
def test_points_that_separate_thousands_are_read_as_such(tmp_path, sep):
    """A time in days, as Excel writes it in Germany, Spain or the Netherlands: 2083 days are no 2.083 days."""
    frame = table(tmp_path, "2.083", "560", "1.200", "NA", "31", "12.345", "", '"7"', sep=sep)
    expected = [2083, 560, 1200, None, 31, 12345, None, 7]
    pd.testing.assert_series_equal(frame["days"].reset_index(drop=True), pd.Series(expected, name="days", dtype=float))
    assert frame.attrs["remarks"] == ["points read as separators of thousands: days"]


@pytest.mark.parametrize(
    "cells",
    [
        ["2.083", "560", "1.2", "3", "31", "12.345"],  # a number with one decimal
        ["2.083", "560", "0.125", "3", "31", "12.345", "1.001"],  # no number of thousands begins with 0
        ["2.083", "1560", "1.200", "3", "31", "12.345"],  # written without a separator
        ["2.083", "560", "1.200"],  # too few to tell
        ["2.083", "5.560", "1.200", "3.100"],  # three decimals each
        ["0", "0", "0", "1.200", "3.125", "5.875"],  # no counts below a thousand
    ],
)
def test_decimals_stay_decimals(tmp_path, cells):
    frame = table(tmp_path, *cells)
    assert frame["days"].tolist() == [float(cell) for cell in cells]
    assert frame.attrs["remarks"] == []


def test_a_column_with_too_few_numbers_to_tell_follows_one_that_is_certain(tmp_path):
    rows = [
        "c1;2.083;1.250;0",
        "c2;560;3.125;1",
        "c3;1.200;4.000;0",
        "c4;31;5.000;1",
        "c5;12.345;6.000;1",
        "c6;7;7.000;0",
    ]
    frame = parse_table(tmp_path / "table.csv", "case_id;EGFR;ACTB;event\n" + "\n".join(rows) + "\n")
    assert frame["ACTB"].tolist() == [1250, 3125, 4000, 5000, 6000, 7000]
    assert frame["event"].tolist() == [0, 1, 0, 1, 1, 0]


def test_a_column_with_too_few_numbers_to_tell_stays_where_another_has_decimals(tmp_path):
    rows = [
        "c1;2.083;1.250;0.5",
        "c2;560;3.125;1",
        "c3;1.200;4.125;0.25",
        "c4;31;5.875;1",
        "c5;12.345;6.125;1",
        "c6;7;7.125;0",
    ]
    frame = parse_table(tmp_path / "table.csv", "case_id;days;dose;purity\n" + "\n".join(rows) + "\n")
    assert frame["days"].tolist() == [2083, 560, 1200, 31, 12345, 7]
    assert frame["dose"].tolist() == [1.25, 3.125, 4.125, 5.875, 6.125, 7.125]
    assert frame["purity"].tolist() == [0.5, 1, 0.25, 1, 1, 0]
