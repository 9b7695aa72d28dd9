"""Which cases of the input are used, and why the others are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.case_tables.case_rows import Dropped
from preprocessing.cohort import Cohort, audit_cases
from preprocessing.cohort.flow import describe_gaps, left_out
from preprocessing.omics.harmonisation.rescale import Target
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import LeftOut, Slide, SlideFile


def slide(slide_id, case):
    return Slide(slide_id, case, Path(f"{slide_id}.svs"), (0.5, 0.5), "metadata", (10, 10), slide_id)


def file_of(one):
    return SlideFile(one.slide_id, one.case_id, one.path)


BOTH, SECOND, LONE, NORMAL = (
    slide("s2", "both"),
    slide("s1", "both"),
    slide("s3", "slides only"),
    slide("s4", "normal"),
)
BROKEN = SlideFile("s5", "broken", Path("s5.svs"))
GENES = pd.DataFrame(
    np.arange(8.0).reshape(4, 2), pd.Index(["both", "genes only", "normal", "broken"], name="case_id"), ["A", "B"]
)
COHORT = Cohort(
    found=(*map(file_of, (BOTH, SECOND, LONE, NORMAL)), BROKEN),
    slides=(BOTH, SECOND, LONE, NORMAL),
    left_out=(LeftOut(BROKEN, "failed", "it is truncated"),),
    omics=OmicsMatrix.from_frame(GENES),
    labels=pd.DataFrame({"grade": ["2"]}, index=["labels only"]),
    annotations=pd.DataFrame(),
    rows_dropped=(Dropped("row 9", "another sample", "row only"),),
    notes=(),
    needs="both",
    excluded={"normal": "sample type 11 (normal)"},
    gaps=pd.DataFrame({"grade": ["G5 is no grade", None]}, index=["both", "genes only"]),
)


@pytest.mark.parametrize(
    ("needs", "used", "without_s3"),
    [
        ("both", ["both"], ["both"]),
        ("any", ["both", "broken", "genes only", "slides only"], ["both", "broken", "genes only"]),
        ("slides", ["both", "slides only"], ["both"]),
        ("genes", ["both", "broken", "genes only"], ["both", "broken", "genes only"]),
    ],
)
def test_a_case_is_used_if_it_has_what_is_needed_and_a_sample_of_a_used_type(needs, used, without_s3):
    cohort = replace(COHORT, needs=needs)
    assert cohort.used_cases() == used
    assert cohort.used_cases({"s1", "s2", "s4"}) == without_s3
    gone = left_out(cohort)
    assert sorted([*gone, *used]) == cohort.named_cases()
    assert all(gone.values())


def test_all_cases_of_slides_and_tables_are_named_and_slides_are_sorted():
    everyone = ["both", "broken", "genes only", "labels only", "normal", "row only", "slides only"]
    assert COHORT.named_cases() == everyone
    assert [one.slide_id for one in COHORT.slides_by_case()["both"]] == ["s1", "s2"]
    assert COHORT.slides_by_case({"s2"}) == {"both": [BOTH]}


@pytest.mark.parametrize(
    ("needs", "usable", "expected"),
    [
        ("both", None, {"slides only": "no genes", "genes only": "no slide", "broken": "no usable slide"}),
        ("both", {"s2"}, {"slides only": "no usable slide and no genes", "genes only": "no slide"}),
        ("slides", None, {"genes only": "no slide", "broken": "no usable slide", "row only": "no slide"}),
        ("genes", None, {"slides only": "no genes", "labels only": "no genes"}),
        ("any", {"s2"}, {"slides only": "no usable slide and no genes", "labels only": "no slide and no genes"}),
    ],
)
def test_the_reason_names_what_is_missing(needs, usable, expected):
    reasons = left_out(replace(COHORT, needs=needs), usable)
    assert {case: reasons[case] for case in expected} == expected
    assert reasons["normal"] == "sample type 11 (normal)"


def test_the_audit_counts_the_slides_that_have_not_failed_and_says_why_a_case_has_none():
    def row(failures):
        return audit_cases(COHORT, failures).set_index("case_id").loc["both"].to_dict()

    assert row({})["n_slides"] == 2
    assert {name: row({"s1": "it crashed"})[name] for name in ("status", "n_slides")} == {
        "status": "used",
        "n_slides": 1,
    }
    gone = row({"s1": "it crashed", "s2": "no tissue found"})
    assert (gone["status"], gone["n_slides"], gone["has_genes"]) == ("left out", 0, True)
    assert gone["reason"] == "no usable slide (s2: no tissue found; s1: it crashed)"


def test_gaps_are_counted_by_reason():
    assert describe_gaps(COHORT, "grade", ["both", "genes only", "slides only"]) == [
        "3 usable cases without label: 2 in no table of labels (genes only, slides only); 1 G5 is no grade (both)",
        "6 cases left out: 2 no slide and no genes; 1 no usable slide; 1 no slide; 1 sample type 11 (normal); 1 no genes",
    ]
    assert (
        describe_gaps(COHORT, "subtype", ["both"])[0] == "1 usable case without label: 1 in no table of labels (both)"
    )
    whole = replace(COHORT, needs="any", excluded={}, labels=pd.DataFrame(), rows_dropped=())
    assert describe_gaps(whole, "grade", []) == []


def test_a_cohort_is_rescaled_to_the_training_genes_unless_by_none():
    cases = [f"c{i}" for i in range(30)]
    genes = pd.DataFrame(np.random.default_rng(0).normal(7, 3, (30, 2)), cases, ["A", "B"])
    cohort = replace(COHORT, omics=OmicsMatrix.from_frame(genes))
    targets = {"A": Target(-2.0, 0.5, False)}
    values = cohort.rescaled(targets, "cohort").omics.values
    assert values[:, 0].mean() == pytest.approx(-2, abs=0.1)
    assert values[:, 0].std() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(values[:, 1], genes["B"])
    assert cohort.rescaled(targets, "none") is cohort
