import pandas as pd
import pytest

from preprocessing.io.errors import InputError
from preprocessing.labels.spelling import misspelt, perhaps_missing, require_one_spelling


def values(*names):
    return pd.Series(names, index=[f"p{i}" for i in range(len(names))], dtype="string")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Methylated", "methylated"), ("IDH mut", "IDH-mut"), ("low_grade", "Low grade"), ("GBM, IDH-wt", "GBM IDH-wt")],
)
def test_two_spellings_of_one_name_are_refused(one, other):
    with pytest.raises(
        InputError, match=rf'column x has "{one}" \(2 cases\) and "{other}" \(1 case\), which differ in'
    ):
        require_one_spelling(values(one, other, one, None), "column x")


def test_names_that_differ_in_more_than_capitals_are_names():
    require_one_spelling(values("ER+", "ER-", "1", "-1", "T1", "T2", "1p/19q", "x", None), "column x")


def test_names_that_the_user_has_listed_are_different_and_their_variants_are_refused():
    require_one_spelling(values("a", "A"), "column x", known=["a", "A"])
    with pytest.raises(InputError, match=r'"yes" \(1 case\) and "Yes" \(0 cases\)'):
        require_one_spelling(values("yes", "no"), "column x", known=["Yes", "no"])


def test_a_failed_formula_is_no_name():
    with pytest.raises(
        InputError, match=r"column x, case p1: #REF! is a formula that failed .*\(2 cases\); correct it"
    ):
        require_one_spelling(values("a", "#REF!", "#REF!"), "column x")


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("Unmethylatd", "Unmethylated", True),
        ("glioblastoma, idh wildtpye", "Glioblastoma, IDH wildtype", True),
        ("Stage I", "Stage II", False),
        ("typical", "atypical", False),
        ("hypermethylated", "hypomethylated", False),
        ("cluster A1", "cluster A2", False),
        ("unmethylated", "methylated", False),
    ],
)
def test_a_likely_misspelling(name, other, expected):
    assert (misspelt(name, [other]) == other) is expected


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ({"Methylated": 40, "Unmethylated": 60, "Indeterminate": 12}, ["Indeterminate"]),
        ({"Methylated": 40, "Unmethylated": 60, "N.D": 12, "No result": 2}, ["N.D", "No result"]),
        ({"yes": 40, "no": 60, "999": 12}, ["999"]),
        ({"yes": 40, "no": 60, "0": 30}, ["0"]),
        ({"1": 40, "2": 60, "?x": 5}, ["?x"]),
        ({"1": 40, "2": 60, "three": 40}, []),
        ({"high": 4, "1": 60}, []),
        ({"CR": 4, "PR": 6, "SD": 3}, []),
    ],
)
def test_classes_that_may_stand_for_a_missing_value(cases, expected):
    assert perhaps_missing(cases) == expected
