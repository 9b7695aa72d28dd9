"""Names of columns, however they are written."""

import pytest

from preprocessing.case_tables.column_names import plain_name


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("Grade", "grade"),
        ("grade_who_2016", "grade"),
        ("Revised grade", "grade"),
        ("grade (WHO 2021)", "who2021_grade"),
        ("WHO2021_Grade", "who2021_grade"),
        ("CNS WHO grade 2021", "who2021_grade"),
        ("final grade 2021", "who2021_grade"),
    ],
)
def test_a_grade_of_who_2021_is_another_column_than_the_histological_grade(column, name):
    assert plain_name(column) == name
