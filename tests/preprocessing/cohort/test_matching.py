import pandas as pd
import pytest

from preprocessing.cohort.matching import describe_patients, describe_relatives, match_cases, spellings


def test_names_that_differ_in_capitals_only_are_one():
    matched, notes = match_cases({"case1", "B2", "C3"}, {"CASE1", "b2", "C3"})
    assert matched == {"case1": "CASE1", "B2": "b2"}
    assert notes == [
        "2 cases of the slides capitalised differently in the tables, and treated as the same case: B2 as b2, case1 as CASE1"
    ]


def test_names_that_are_ambiguous_without_capitals_stay():
    assert match_cases({"a1"}, {"A1", "a1"}) == ({}, [])
    assert match_cases({"a1", "A1"}, {"aA", "x"})[0] == {}
    assert match_cases({"ab", "Ab"}, {"AB"})[0] == {}


def test_likely_partners_are_pointed_out_and_not_matched():
    slides = {"H12_345", "H12-346_HE", "p7", "Patinet 5", "Z9"}
    tables = {"H12-345", "H12-346", "p007", "Patient 5", "Q1"}
    matched, (warning,) = match_cases(slides, tables)
    assert matched == {}
    assert warning.startswith("warning: 4 cases of the slides missing from the tables, which have similar ids")
    assert "H12-346_HE (H12-346?)" in warning
    assert "H12_345 (H12-345?)" in warning


def test_neighbouring_numbers_are_not_similar():
    assert match_cases({"case101", "case102"}, {"case103", "case104"}) == ({}, [])


def test_spellings_contain_the_usual_capitals():
    assert {"h12", "H12"} <= spellings(["h12"])


@pytest.mark.parametrize(
    "ids",
    [
        [f"GB{i:03d}_{part}" for i in range(5) for part in "AB"],
        [f"GB{i}-{part}" for i in range(5) for part in (1, 2)],
        [f"GB{i}{part}" for i in range(5) for part in "ab"],
        [f"GB{i}{part}" for i in range(5) for part in ("", "_recurrent")],
        [f"GB{i}{part}" for i in range(5) for part in (".N1", ".T")],
    ],
)
def test_ids_of_which_some_continue_others_are_perhaps_of_one_patient(ids):
    (warning,) = describe_relatives([*ids, "X1", "X2"])
    assert warning.startswith(f"warning: 10 cases may be samples of 5 patients, by their ids ({ids[0]} = {ids[1]}, ")
    assert "--case-pattern" in warning


@pytest.mark.parametrize(
    "ids",
    [
        [f"P{i:03d}" for i in range(120)],
        [f"LAB-{i}" for i in range(9)],
        [f"{site:02d}-{i:04d}" for site in range(5) for i in range(24)],
        [f"S{site}-{i}" for site in range(3) for i in range(1, 9)],
        ["GB1_A", "GB2_B", "GB3_A"],
        [],
    ],
)
def test_numbered_cases_are_no_samples_of_one_patient(ids):
    assert describe_relatives(ids) == []


@pytest.mark.parametrize(
    "titles",
    [
        ["Glioblastoma of patient 12", "patient 12, recurrence", "Patient 13", "Patient 14"],
        ["pt_A7_primary", "PT-A7-rec", "pt_B7", "pt_B8"],
        ["Case No. 3 tumor", "case no. 3 second surgery", "case no. 33", "case no. 4"],
    ],
)
def test_patients_named_in_texts_are_warned_of(titles):
    annotations = pd.DataFrame({"title": titles, "grade": [2, 3, 4, 4]}, index=["GSM1", "GSM2", "GSM3", "GSM4"])
    (warning,) = describe_patients(annotations, annotations.index)
    assert "2 cases may be samples of 1 patient, by column title (GSM1 = GSM2)" in warning
    assert describe_patients(annotations, ["GSM1", "GSM3", "GSM4"]) == []


def test_texts_that_name_a_patient_each_or_a_group_are_not_warned_of():
    index = ["GSM1", "GSM2", "GSM3", "GSM4"]
    for titles in (
        ["patient 1", "patient 2", "patient 3", "patient 4"],
        ["case 1"] * 4,
        ["biopsy of patient", "x", "y", "z"],
        ["pT2", "pT3", "pT2", "pT1a"],
        ["PTV60", "PTV40", "PTV60", "PTV60"],
    ):
        assert describe_patients(pd.DataFrame({"title": titles}, index=index), index) == []
