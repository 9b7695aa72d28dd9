"""Grades of glioblastomas in tables that list a grade for lower-grade gliomas only."""

import pandas as pd
import pytest

from preprocessing.labels.recognition import recognise

WORDS = {
    "histological_type": ("Untreated primary (de novo) GBM", "Astrocytoma"),
    "primary_diagnosis.diagnoses": ("Glioblastoma", "Oligodendroglioma, NOS"),
    "CANCER_TYPE_DETAILED": ("Glioblastoma Multiforme", "Anaplastic Astrocytoma"),
    "ONCOTREE_CODE": ("GBM", "ASTR"),
    "project_id": ("TCGA-GBM", "TCGA-LGG"),
    "type": ("GBM", "LGG"),
    "Diagnose": ("Glioblastom, IDH-Wildtyp", "Astrozytom"),
    "Pathology": ("Gliosarcoma", "Astrocytoma; no glioblastoma"),
}


def recognised(column, glioblastoma, other):
    frame = pd.DataFrame(
        {"grade": ["G2", "G3", None, None], column: [other, other, glioblastoma, other]}, index=list("abcd")
    )
    return recognise(frame, source="clinical.csv")


@pytest.mark.parametrize("column", WORDS)
def test_a_glioblastoma_without_a_grade_is_of_grade_4_and_the_run_says_so(column):
    labels = recognised(column, *WORDS[column])
    assert labels.frame["grade"].fillna(0).tolist() == [2, 3, 4, 0]
    assert labels.gaps["grade"].fillna("").tolist() == ["", "", "", "no grade"]
    (note,) = [note for note in labels.notes if "glioblastoma" in note]
    assert note.startswith(f"grade: 4 in 1 case without a value in grade that {column} names glioblastoma")


@pytest.mark.parametrize(
    ("column", "word"),
    [
        ("histology", "DD glioblastoma vs. metastasis"),
        ("histology", "glioblastoma?"),
        ("cluster", "GBM"),
        ("diagnosis at recurrence", "Glioblastoma"),
        ("family_history_diagnosis_relative", "Glioblastoma"),
        ("subtype", "GBM-like"),
        ("project", "GBM/LGG"),
        ("disease", "Lower-grade glioma and glioblastoma"),
    ],
)
def test_what_may_be_another_tumour_gets_no_grade(column, word):
    labels = recognised(column, word, "Astrocytoma")
    assert labels.frame["grade"].isna().tolist() == [False, False, True, True]


def test_only_columns_that_name_a_glioblastoma_are_named():
    frame = pd.DataFrame(
        {"grade": ["G2", None], "disease": ["Glioma"] * 2, "diagnosis": ["Astrocytoma", "Glioblastoma"]},
        index=list("ab"),
    )
    (note,) = [note for note in recognise(frame, source="clinical.csv").notes if "glioblastoma" in note]
    assert "without a value in grade that diagnosis names glioblastoma" in note


def test_a_grade_that_was_not_assessed_stays_open():
    frame = pd.DataFrame({"grade": ["G2", "GX"], "histology": ["Astrocytoma", "Glioblastoma"]}, index=list("ab"))
    assert recognise(frame, source="clinical.csv").gaps["grade"].fillna("").tolist() == ["", "grade not assessed"]


def test_two_columns_that_name_different_gliomas_give_no_grade():
    frame = pd.DataFrame(
        {"grade": ["G2", None], "histology": ["Astrocytoma"] * 2, "diagnosis": ["Glioblastoma"] * 2}, index=list("ab")
    )
    assert recognise(frame, source="clinical.csv").frame["grade"].isna().tolist() == [False, True]


def test_a_glioblastoma_of_a_lower_grade_is_warned_of():
    frame = pd.DataFrame({"grade": [2, 3, 4], "histology": ["Astrocytoma", "Glioblastoma", "GBM"]}, index=list("abc"))
    labels = recognise(frame, source="clinical.csv")
    assert labels.frame["grade"].tolist() == [2, 3, 4]
    assert "warning: clinical.csv: grade: grade is below 4 in 1 case (b) that histology names glioblastoma" in str(
        labels.notes
    )


def test_a_molecular_glioblastoma_may_have_a_lower_histological_grade():
    frame = pd.DataFrame(
        {"grade": [2, 4], "integrated_diagnosis": ["Glioblastoma, IDH-wildtype"] * 2}, index=list("ab")
    )
    assert not any("below 4" in note for note in recognise(frame, source="clinical.csv").notes)
