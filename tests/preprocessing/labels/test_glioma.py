"""Grade and subtype of gliomas in the spellings of public tables, and the subtype where no column has it."""

import pandas as pd
import pytest

from preprocessing.labels.glioma import with_who2021
from preprocessing.labels.recognition import recognise

GRADES = {"G2": 2, "WHO III": 3, "IV": 4}
# Names of the columns, then each subtype's values of IDH and 1p/19q.
TABLES = {
    "Ceccarelli": ("TCGA Grade", "IDH status", "1p/19q codeletion", "WT", "Mutant", "non-codel", "codel"),
    "by assay": ("TCGA Grade", "IDH mutation status", "1p/19q codeletion", "WT (maf)", "mutant (maf)", "Non-codel", "Codel"),
    "TCGAbiolinks": ("paper_Grade", "paper_IDH.status", "paper_X1p.19q.codeletion", "WT", "Mutant", "non-codel", "codel"),
    "CGGA": ("Grade", "IDH_mutation_status", "1p19q_codeletion_status", "Wildtype", "Mutant", "Non-codel", "Codel"),
    "GLASS": ("grade", "idh_status", "codel_status", "IDHwt", "IDHmut", "noncodel", "codel"),
    "a clinic": ("who grade (2016)", "IDH1/2", "1p/19q", "wild-type", "IDH1 R132H", "retained", "co-deleted"),
    "numbers": ("tumor_grade", "IDH_mut", "codeletion", 0, 1, 0, 1),
}  # fmt: skip


def labels_of(frame):
    return with_who2021(recognise(frame, source="clinical.csv"), frame, source="clinical.csv")


@pytest.mark.parametrize("name", TABLES)
def test_grade_and_markers_are_read_in_every_spelling_and_give_the_subtype(name, caplog):
    grade, idh, codel, wildtype, mutant, retained, codeleted = TABLES[name]
    frame = pd.DataFrame(
        {
            grade: [*GRADES, None],
            idh: [wildtype, mutant, mutant, mutant],
            codel: [retained, codeleted, retained, None],
        },
        index=["wt", "oligo", "astro", "open"],
    )
    labels = labels_of(frame)
    assert labels.frame["grade"].dropna().tolist() == [2, 3, 4]
    assert labels.frame["subtype"].dropna().to_dict() == {
        "wt": "IDHwt",
        "oligo": "IDHmut-codel",
        "astro": "IDHmut-non-codel",
    }
    assert labels.gaps["subtype"].dropna().to_dict() == {"open": "undetermined: IDH-mutant, 1p/19q status is not known"}
    note = next(note for note in labels.notes if note.startswith("subtype: no such column"))
    assert f"derived from {idh}, {codel} by the rule of WHO 2021" in note
    assert note.endswith("IDHwt 1, IDHmut-codel 1, IDHmut-non-codel 1; undetermined in 1 case")
    assert caplog.text == ""


def test_a_column_of_subtypes_is_not_replaced():
    frame = pd.DataFrame({"subtype": ["A", "B"], "IDH status": ["WT", "Mutant"], "codel": [0, 1]}, index=["p1", "p2"])
    labels = labels_of(frame)
    assert labels.frame["subtype"].tolist() == ["A", "B"]
    assert not any("derived" in note for note in labels.notes)


def test_without_codeletion_no_subtype_is_made_of_idh_alone():
    frame = pd.DataFrame({"IDH status": ["WT", "Mutant"]}, index=["p1", "p2"])
    assert "subtype" not in labels_of(frame).frame


def test_a_subtype_that_rests_on_age_is_warned_of():
    frame = pd.DataFrame(
        {"IDH1 R132H": ["neg", "neg", "pos"], "1p/19q": ["intact"] * 3, "grade": [4, 4, 4], "age": [70, 40, 40]},
        index=list("abc"),
    )
    labels = labels_of(frame)
    assert labels.frame["subtype"].fillna("").tolist() == ["IDHwt", "", "IDHmut-non-codel"]
    assert any(
        "subtype: 1 case IDH-wildtype by IDH1 alone" in note and "by construction" in note for note in labels.notes
    )
    complete = labels_of(frame.assign(IDH2="WT"))
    assert complete.frame["subtype"].tolist() == ["IDHwt", "IDHwt", "IDHmut-non-codel"]
    assert not any("by construction" in note for note in complete.notes)
