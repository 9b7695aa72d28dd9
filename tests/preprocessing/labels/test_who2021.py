from pathlib import Path

import pandas as pd
import pytest

from preprocessing.labels.who2021 import who2021

DATA = Path(__file__).resolve().parents[4] / "shared/data"
ASTRO, OLIGO, GBM = (
    "Astrocytoma, IDH-mutant",
    "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted",
    "Glioblastoma, IDH-wildtype",
)


def diagnose(**values):
    row = who2021(pd.DataFrame({name: [value] for name, value in values.items()}, index=["p1"])).iloc[0]
    return row["who2021_diagnosis"], row["who2021_grade"], row["who2021_rule"]


@pytest.mark.parametrize(
    ("values", "diagnosis", "grade", "rule"),
    [
        ({"IDH1_mut": 1, "1p/19q codeletion": "codel", "grade": 2}, OLIGO, 2, "1p/19q-codeleted"),
        (
            {"IDH status": "Mutant", "1p19q_status": "non-codel", "grade": "G3", "CDKN2A_cnv": -1},
            ASTRO,
            3,
            "by histology",
        ),
        (
            {"IDH status": "Mutant", "1p19q_status": "intact", "grade": 2, "CDKN2B_cnv": -2},
            ASTRO,
            4,
            "homozygous deletion",
        ),
        ({"IDH1_mut": 0, "IDH2_mut": 0, "grade": 4}, GBM, 4, "grade 4 histology"),
        ({"IDH_status": "WT", "grade": 2, "TERT_promoter_status": "Mutant"}, GBM, 4, "TERT promoter"),
        ({"IDH_status": "WT", "grade": 2, "EGFR_cnv": 2}, GBM, 4, "EGFR amplification"),
        ({"IDH_status": "WT", "grade": 2, "Chr.7.gain.Chr.10.loss": "Gain chr 7 & loss chr 10"}, GBM, 4, r"\+7/−10"),
        ({"IDH_status": "WT", "grade": 2, "chr7_gain": 1, "chr10_loss": 1}, GBM, 4, r"\+7/−10"),
        ({"idh_codel_subtype": "LGG_IDHmut-non-codel", "grade": 2}, ASTRO, 2, "CDKN2A/B status is not known"),
        ({"subtype": "IDHmut-codel", "grade": 3}, OLIGO, 3, "codeleted"),
    ],
)
def test_diagnoses(values, diagnosis, grade, rule):
    found = diagnose(**values)
    assert found[:2] == (diagnosis, grade)
    assert pd.Series([found[2]]).str.contains(rule).all()


@pytest.mark.parametrize("value", ["IDH-mutant", "IDH1 R132H", "IDH2 mut", "idhmut", "pos", "p.R132H", "R172K"])
def test_idh_mutations_in_every_spelling(value, caplog):
    assert diagnose(IDH_status=value, codel="no", grade=2)[0] == ASTRO
    assert not caplog.records


@pytest.mark.parametrize("value", ["IDH-wildtype", "IDHwt", "IDH1 wild type", "neg", "Not mutated"])
def test_idh_wildtype_in_every_spelling(value, caplog):
    assert diagnose(IDH_status=value, grade=4)[0] == GBM
    assert not caplog.records


@pytest.mark.parametrize("value", ["+", "NOS", "IDH"])
def test_a_marker_of_which_nothing_is_understood_is_warned_of(value, caplog):
    assert diagnose(IDH_status=value, grade=4)[2] == "undetermined: IDH status is not known"
    assert f'"{value}" of case p1' in caplog.text


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"grade": 2}, "IDH status is not known"),
        ({"IDH1_mut": 0, "grade": 4}, "IDH1 is not mutated, IDH2 is not known"),
        ({"IDH1_mut": 1, "grade": 2}, "1p/19q status is not known"),
        ({"IDH_status": "WT", "grade": 2, "EGFR_cnv": 1}, "not known: TERT promoter mutation, +7/−10"),
        (
            {"IDH_status": "WT", "grade": 3, "EGFR_cnv": 1, "tert_mut": 0, "chr7_gain_chr10_loss": "no"},
            "none of the criteria of glioblastoma is met",
        ),
    ],
)
def test_what_cannot_be_decided_stays_missing(values, rule):
    diagnosis, grade, why = diagnose(**values)
    assert pd.isna(diagnosis)
    assert pd.isna(grade)
    assert why.startswith("undetermined")
    assert rule in why


def test_histological_grade_only():
    assert diagnose(IDH_status="WT", who2021_grade=4)[2].startswith("undetermined")


@pytest.mark.parametrize("word", ["Unknown", "not tested", "equivocal", "N/A", "pending"])
def test_a_marker_that_was_not_determined_is_missing(word):
    assert diagnose(IDH_status=word)[2] == "undetermined: IDH status is not known"


def test_markers_as_laboratories_write_them():
    assert diagnose(IDH_status="WT", TERT_promoter="C228T")[:2] == ("Glioblastoma, IDH-wildtype", 4)
    assert diagnose(IDH_status="p.R132H", codel="non-codel", grade=3)[:2] == ("Astrocytoma, IDH-mutant", 3)


@pytest.mark.parametrize("marker", [{"CDKN2A_homdel": 0}, {"CDKN2A_cnv": 0}])
def test_a_cdkn2a_that_is_known_to_be_there_is_not_called_unknown(marker):
    diagnosis = diagnose(IDH_status="mutant", codel="non-codel", grade=2, **marker)
    assert diagnosis == ("Astrocytoma, IDH-mutant", 2, "IDH-mutant, not 1p/19q-codeleted; grade by histology")


def test_an_astrocytoma_of_grade_1_does_not_exist():
    _, grade, rule = diagnose(IDH_status="mutant", codel="non-codel", grade=1)
    assert pd.isna(grade)
    assert rule.endswith("grade 1 does not exist for it")


def test_an_idh_status_that_the_subtype_contradicts_leaves_the_case_open(caplog):
    assert diagnose(IDH_status="WT", subtype="IDHmut-codel", TERT_promoter="C228T")[2].startswith("undetermined")
    assert "contradict each other in 1 cases, whose diagnosis stays open: p1" in caplog.text


def test_a_predicted_subtype_does_not_settle_what_two_columns_dispute():
    given = pd.DataFrame({"IDH_status": ["WT"], "subtype": ["IDHmut-codel"], "grade": [4]}, index=["p1"])
    diagnosis = who2021(given, predicted=pd.DataFrame({"subtype": ["IDHwt"]}, index=["p1"])).iloc[0]
    assert pd.isna(diagnosis["who2021_diagnosis"])
    assert diagnosis["who2021_rule"] == "undetermined: IDH status and subtype contradict each other"
    assert diagnosis["who2021_predicted"] == ""


def test_a_marker_that_is_not_understood_is_reported_and_counts_as_not_known(caplog):
    assert diagnose(IDH_status="WT", TERT_promoter="perhaps", grade=4)[:2] == (GBM, 4)
    assert diagnose(IDH_status="perhaps")[2] == "undetermined: IDH status is not known"
    for name, message in zip(("TERT_promoter", "IDH_status"), caplog.messages, strict=True):
        assert message.startswith(f"clinical table: column {name}: 1 values are not understood and count as not known")
        assert '"perhaps" of case p1; write 1 or 0' in message


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_agrees_with_the_published_diagnoses():
    cases = pd.read_csv(DATA / "gbmlgg/cases.csv", index_col="case_id")
    copies = pd.read_csv(DATA / "gbmlgg/cnv_mut.csv", index_col="case_id")
    inputs = cases[["grade", "subtype_ceccarelli", "subtype"]].join(copies)
    found = who2021(inputs)
    known = cases["who2021_diagnosis"].notna() & found["who2021_diagnosis"].notna()
    assert known.sum() >= 530
    assert (cases["who2021_diagnosis"] == found["who2021_diagnosis"])[known].all()
    grades = cases.loc[known, "who2021_grade"].dropna()
    assert (grades == found.loc[grades.index, "who2021_grade"]).mean() > 0.98
