"""What counts as a difference between two texts of a run."""

import pytest

from tests.workflows.golden.texts import difference, masked


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("a: 0.5000", "a: 0.5040"),
        ("a: 0.0004", "a: 0.0000"),
        ("a: 3e-05, 12.5", "a: 0.0, 12.6"),
        ("umeml −0.214 (−0.300 to 0.100)", "umeml −0.215 (−0.301 to 0.101)"),
    ],
)
def test_decimals_may_differ_by_rounding(found, expected):
    assert difference(f"first\n{found}", f"first\n{expected}") is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("a: 0.500", "a: 0.510"),
        ("a: 0.214", "a: −0.214"),
        ("12 cases, 4 events", "12 cases, 5 events"),
        ("0.500 (0.400 to 0.600)", "0.500"),
        ("high risk 0.500", "low risk 0.500"),
        ("x: [0.1, 0.9]", "x: [0.9, 0.1]"),
        ("one\ntwo", "one"),
        ("one", "one\ntwo"),
    ],
)
def test_all_else_is_a_difference_and_its_line_is_named(found, expected):
    assert difference(f"first\n{found}", f"first\n{expected}").startswith(("line 2:", "line 3:"))


def test_times_rates_hashes_and_folders_do_not_count_but_numbers_of_things_do():
    text = (
        "07:26:37 tiling: 1.5 s; 13 slides; 58,094 slides/h; /here/run; 9f475364c165426db611e68ca83be567; 0.123456789"
    )
    assert masked(text, {"/here": "FOLDER"}) == "TIME tiling: N s; 13 slides; RATE; FOLDER/run; HASH; 0.1235"
