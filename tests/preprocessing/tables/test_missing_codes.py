import pytest

from preprocessing.tables.missing_codes import describe_missing_code

PURITIES = [0.2, 0.9, 0.5, 0.4, 0.3, 0.7, 0.6, 0.8, 0.25, 0.35]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            [*PURITIES, -999, -999, float("nan")],
            "-999 in 2 cases lies far from all other values (0.2 to 0.9); if it stands for",
        ),
        (
            [60, 70, 80, 90, 100] * 2 + [999],
            "999 in 1 case lies far from all other values (60 to 100); if it stands for",
        ),
        ([0, 1] * 5 + [9], "9 in 1 case lies far from all other values (0 to 1); if it stands for"),
    ],
)
def test_a_code_far_from_all_other_values_is_described(values, expected):
    assert describe_missing_code(values).startswith(expected)


@pytest.mark.parametrize(
    "values",
    [
        [30, 2500, 1200, 999, 999, 800, 40, 77, 1500, 60, 70, 90],  # days, among which 999 is one
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5, 6],
        [*PURITIES, 1000],  # no code, whatever else it is
        [0, 2, 4.5] * 4 + [9],  # as far from the others as these from each other
        [*PURITIES[:5], -999],  # too few to tell
        [1.0] * 12 + [9],  # the others do not differ
        [float("nan")] * 12,
        [],
    ],
)
def test_values_that_are_no_codes(values):
    assert describe_missing_code(values) == ""
