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


def diagnose(notes=None, **values):
    row = who2021(pd.DataFrame({name: [value] for name, value in values.items()}, index=["p1"]), notes=notes).iloc[0]
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
def test_idh_mutations_in_every_spelling(value):
    notes = []
    assert diagnose(notes, IDH_status=value, codel="no", grade=2)[0] == ASTRO
    assert notes == []


@pytest.mark.parametrize("value", ["IDH-wildtype", "IDHwt", "IDH1 wild type", "neg", "Not mutated"])
def test_idh_wildtype_in_every_spelling(value):
    notes = []
    assert diagnose(notes, IDH_status=value, grade=4)[0] == GBM
    assert notes == []


@pytest.mark.parametrize("value", ["+", "NOS", "IDH"])
def test_a_marker_of_which_nothing_is_understood_is_warned_of(value):
    notes = []
    assert diagnose(notes, IDH_status=value, grade=4)[2] == "undetermined: IDH status is not known"
    assert f'"{value}" of case p1' in notes[0]


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


@pytest.mark.parametrize(("codel", "diagnosis", "grades"), [("non-codel", ASTRO, {2, 3, 4}), ("codel", OLIGO, {2, 3})])
def test_grades_that_do_not_exist_for_a_tumour(codel, diagnosis, grades):
    for given in (1, 2, 3, 4):
        found, grade, rule = diagnose(IDH_status="mutant", codel=codel, grade=given)
        assert found == diagnosis
        assert pd.isna(grade) if given not in grades else grade == given
        assert rule.endswith(f"grade {given} does not exist for it") == (given not in grades)


@pytest.mark.parametrize(
    ("gain", "loss", "known"),
    [(1, 1, "met"), (1, 0, "no"), (0, 1, "no"), (1, None, "?"), (None, 1, "?"), (0, None, "no")],
)
def test_gain_of_7_and_loss_of_10_count_together_only(gain, loss, known):
    others = {"TERT_promoter": "WT", "EGFR_amp": 0, "grade": 2}
    found, _, rule = diagnose(IDH_status="WT", chr7_gain=gain, chr10_loss=loss, **others)
    assert found == GBM if known == "met" else pd.isna(found)
    assert rule.endswith({"met": "with +7/−10", "no": "is met", "?": "not known: +7/−10"}[known])


@pytest.mark.parametrize(
    ("known", "subtype", "named"),
    [
        ({}, "IDHwt", "IDH"),
        ({}, "IDHmut-codel", "IDH; 1p/19q"),
        ({"IDH_status": "mutant"}, "IDHmut-codel", "1p/19q"),
        ({"IDH_status": "WT"}, "IDHmut-codel", ""),
    ],
)
def test_a_predicted_1p19q_is_named_only_where_it_counts(known, subtype, named):
    given = pd.DataFrame({"grade": 4, **known}, index=["p1"])
    found = who2021(given, predicted=pd.DataFrame({"subtype": [subtype]}, index=["p1"])).iloc[0]
    assert found["who2021_predicted"] == named
    assert found["who2021_rule"].endswith(f"(predicted: {named})") == bool(named)


def test_an_idh_status_that_the_subtype_contradicts_leaves_the_case_open():
    notes = []
    assert diagnose(notes, IDH_status="WT", subtype="IDHmut-codel", TERT_promoter="C228T")[2].startswith("undetermined")
    assert "contradict each other in 1 case, whose diagnosis stays open: p1" in notes[0]


def test_a_predicted_subtype_does_not_settle_what_two_columns_dispute():
    given = pd.DataFrame({"IDH_status": ["WT"], "subtype": ["IDHmut-codel"], "grade": [4]}, index=["p1"])
    diagnosis = who2021(given, predicted=pd.DataFrame({"subtype": ["IDHwt"]}, index=["p1"])).iloc[0]
    assert pd.isna(diagnosis["who2021_diagnosis"])
    assert diagnosis["who2021_rule"] == "undetermined: IDH status and subtype contradict each other"
    assert diagnosis["who2021_predicted"] == ""


def test_a_marker_that_is_not_understood_is_reported_and_counts_as_not_known():
    notes = []
    assert diagnose(notes, IDH_status="WT", TERT_promoter="perhaps", grade=4)[:2] == (GBM, 4)
    assert diagnose(notes, IDH_status="perhaps")[2] == "undetermined: IDH status is not known"
    for name, message in zip(("TERT_promoter", "IDH_status"), notes, strict=True):
        assert message.startswith(
            f"warning: clinical table: column {name}: 1 value is not understood and counts as not known"
        )
        assert '"perhaps" of case p1; write 1 or 0' in message


# --- One arm, one codon, one gene ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "lost", "kept"),
    [
        (("1p", "19q"), "deleted", "intact"),
        (("1p", "19q"), 1, 0),
        (("1p_status", "19q_status"), "Loss", "retained"),
        (("LOH 1p", "LOH 19q"), "yes", "no"),
        (("del(1p)", "del(19q)"), "LOH", "no loss"),
        (("1p FISH", "19q FISH"), "1p deleted", "19q normal"),
        (("X1p", "X19q"), "lost", "gain"),
        (("1p deletion", "19q deletion"), "positive", "negative"),
        (("chr1p", "chr19q"), "deletion", "partial deletion"),
        (("1p_cnv", "19q_cnv"), -1, 1),
    ],
)
def test_codeletion_is_the_loss_of_both_arms(names, lost, kept):
    rows = [(lost, lost), (lost, kept), (kept, None), (lost, None), (None, None)]
    frame = pd.DataFrame(rows, columns=list(names)).astype(object).assign(IDH_status="mutant", grade=2)
    notes = []
    found = who2021(frame, notes=notes)
    assert found["who2021_subtype"].fillna("").tolist() == [
        "IDHmut-codel",
        "IDHmut-non-codel",
        "IDHmut-non-codel",
        "",
        "",
    ]
    assert found["who2021_diagnosis"].fillna("").tolist() == [OLIGO, ASTRO, ASTRO, "", ""]
    assert found["who2021_rule"][3] == "undetermined: IDH-mutant, 1p is lost, the other arm is not known"
    assert found["who2021_rule"][4] == "undetermined: IDH-mutant, 1p/19q status is not known"
    assert notes == []


def test_numbers_of_arms_with_one_below_zero_are_copy_numbers():
    frame = pd.DataFrame({"1p": [-1, 1, 0], "19q": [-1, -1, -1]}).assign(IDH_status="mutant")
    assert who2021(frame)["who2021_subtype"].tolist() == ["IDHmut-codel", "IDHmut-non-codel", "IDHmut-non-codel"]


@pytest.mark.parametrize("name", ["1p19q", "IDH_status", "1p"])
def test_numbers_without_a_known_meaning_are_no_flags(name):
    notes = []
    frame = pd.DataFrame({"IDH_status": "mutant", "1p19q": "codel"}, index=["a", "b", "c"]).assign(
        **{name: [1, 2, None]}
    )
    found = who2021(frame.drop(columns="1p19q") if name == "1p" else frame, notes=notes)
    assert found["who2021_diagnosis"].isna().all()
    assert (
        f'column {name}: 2 values are not understood and count as not known in the WHO 2021 diagnosis: "1' in notes[0]
    )


def test_log_ratios_of_arms_are_no_losses():
    notes = []
    frame = pd.DataFrame({"1p": [-0.02, 0.01], "19q": [-0.01, -0.03]}).assign(IDH_status="mutant")
    assert who2021(frame, notes=notes)["who2021_subtype"].isna().all()
    assert len(notes) == 2
    assert "column 1p: 2 values are not understood" in notes[0]


@pytest.mark.parametrize("word", ["present", "absent", "maybe"])
def test_a_word_that_may_mean_the_arm_or_its_loss_is_warned_of(word):
    notes = []
    assert diagnose(notes, **{"1p": word, "19q": "lost", "IDH_status": "mutant"})[2].startswith("undetermined")
    assert f'"{word}" of case p1' in notes[0]


def test_arms_that_contradict_the_codeletion_leave_it_open():
    notes = []
    values = {"1p": "lost", "19q": "intact", "1p19q": "codeleted", "IDH_status": "mutant"}
    assert diagnose(notes, **values)[2] == "undetermined: IDH-mutant, 1p/19q status is not known"
    assert "1p/19q codeletion and the status of 1p and 19q contradict each other in 1 case" in notes[0]
    assert diagnose(**values, ATRX="loss")[2] == "undetermined: IDH-mutant, 1p/19q status is not known"


@pytest.mark.parametrize("name", ["IDH1 R132H", "IDH1_R132H_status", "IDH1.R132H", "IDH_R132H", "IDH1", "IDH1 R132"])
@pytest.mark.parametrize("value", ["mutant", "R132H", "R132H positive", 1])
def test_a_mutation_of_idh1_needs_no_idh2(name, value):
    notes = []
    assert diagnose(notes, **{name: value, "1p": "loss", "19q": "loss", "grade": 3})[:2] == (OLIGO, 3)
    assert notes == []


@pytest.mark.parametrize("value", ["WT", "negative", "R132H negative", "R132H not detected", "IDH1 wild type", 0])
def test_without_r132h_a_glioblastoma_from_55_years_on_is_idh_wildtype(value):
    diagnosis, grade, rule = diagnose(**{"IDH1 R132H": value, "grade": 4, "age": 55})
    assert (diagnosis, grade) == (GBM, 4)
    assert rule.startswith("IDH-wildtype with grade 4 histology; no R132H, and from 55 years on")
    for other in ({"grade": 4, "age": 54}, {"grade": 3, "age": 70}, {"grade": 4}):
        rule = diagnose(**{"IDH1 R132H": value}, **other)[2]
        assert rule == "undetermined: IDH1 has no R132H, other mutations of IDH1 and IDH2 are not excluded"
    assert diagnose(**{"IDH1 R132H": value, "IDH2 R172": "WT", "grade": 4, "age": 40})[0] == GBM


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATRX", "loss"),
        ("ATRX status", "lost"),
        ("ATRX IHC", "nuclear loss"),
        ("ATRX", "mutant"),
        ("ATRX_loss", "yes"),
        ("ATRX_mut", 1),
    ],
)
def test_loss_or_mutation_of_atrx_makes_an_astrocytoma_without_a_test_of_1p_19q(name, value):
    notes = []
    diagnosis, grade, rule = diagnose(notes, IDH_status="mutant", grade=3, **{name: value})
    assert (diagnosis, grade) == (ASTRO, 3)
    assert "by loss or mutation of ATRX no codeletion needs to be excluded" in rule
    assert diagnose(IDH_status="mutant", codel="codel", grade=3, **{name: value})[0] == OLIGO
    assert notes == []


@pytest.mark.parametrize("value", ["retained", "positive", "negative", "WT", 6.5])
def test_without_a_loss_of_atrx_1p_19q_has_to_be_known(value):
    notes = []
    assert (
        diagnose(notes, IDH_status="mutant", grade=3, ATRX=value)[2]
        == "undetermined: IDH-mutant, 1p/19q status is not known"
    )
    assert notes == []


def test_expression_under_a_bare_symbol_is_no_marker():
    notes = []
    assert diagnose(notes, IDH1=7.25, TERT=0.5)[2] == "undetermined: IDH status is not known"
    assert notes == []


def test_a_gain_of_egfr_is_no_amplification():
    assert diagnose(IDH_status="WT", grade=2, EGFR_amplification="gain")[2].startswith("undetermined")
    assert diagnose(IDH_status="WT", grade=2, EGFR_amplification="amplified")[0] == GBM


def test_amplification_and_homozygous_deletion_are_read_under_the_bare_gene():
    frame = pd.DataFrame(
        {
            "IDH_status": ["WT", "WT", "WT", "mutant", "mutant", "mutant"],
            "EGFR": ["amplified", "gain", "not amplified", None, None, None],
            "CDKN2A/B": [None, None, None, "homozygous deletion", "hemizygous deletion", "no homozygous deletion"],
            "1p/19q LOH": [None, None, None, "no", "no LOH", "intact"],
            "grade": [2, 2, 2, 2, 3, 3],
        }
    )
    notes = []
    found = who2021(frame, notes=notes)
    assert found["who2021_grade"].fillna(0).tolist() == [4, 0, 0, 4, 3, 3]
    assert found["who2021_subtype"].tolist() == ["IDHwt"] * 3 + ["IDHmut-non-codel"] * 3
    assert notes == []


@pytest.mark.parametrize(
    ("value", "grade"), [("homdel", 4), ("HD", 4), ("yes", 4), ("hemizygous", 2), ("intact", 2), ("no", 2)]
)
def test_only_the_loss_of_both_copies_of_cdkn2a_makes_grade_4(value, grade):
    assert diagnose(IDH_status="mutant", codel="no", grade=2, CDKN2A_homozygous_deletion=value)[1] == grade


def test_a_deletion_of_unknown_extent_is_no_homozygous_one():
    notes = []
    frame = pd.DataFrame({"IDH_status": ["mutant"] * 3, "codel": "no", "grade": 2})
    found = who2021(frame.assign(**{"CDKN2A deletion": ["homozygous", "deleted?", "unclear extent"]}), notes=notes)
    assert found["who2021_grade"].tolist() == [4, 2, 2]
    assert "2 values are not understood and count as not known" in notes[0]
    assert who2021(frame.assign(**{"CDKN2A deletion": ["yes", "no", "yes"]}))["who2021_grade"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "values",
    [
        {"H3 K27M": "mutant"},
        {"H3K27M_status": 1},
        {"H3F3A": "K27M"},
        {"H3.3 G34": "G34R"},
        {"histology": "Medulloblastoma"},
        {"diagnosis": "Diffuse midline glioma, H3 K27-altered"},
        {"primary_diagnosis": "Pilocytic astrocytoma"},
    ],
)
def test_a_tumour_of_another_family_is_no_glioblastoma(values):
    notes = []
    frame = pd.DataFrame({"IDH_status": ["WT"], "grade": [4], **{name: [value] for name, value in values.items()}})
    found = who2021(frame, notes=notes).iloc[0]
    assert pd.isna(found["who2021_diagnosis"])
    assert pd.isna(found["who2021_subtype"])
    assert found["who2021_rule"].endswith("which is no adult-type diffuse glioma")
    assert notes == []


@pytest.mark.parametrize(
    "values",
    [
        {"H3 K27M": "wt"},
        {"H3F3A": "WT"},
        {"H3.3 G34": 0},
        {"H3F3A": 7.5},
        {"H3": 7.5},
        {"H3K27me3": "positive"},
        {"H3K27me3": "lost"},  # as in many oligodendrogliomas
        {"histology": "GBM"},
        {"diagnosis": "Glioblastoma, H3 K27M negative"},
        {"diagnosis": "Glioblastoma, H3.3 G34-wildtype"},
        {"diagnosis": "Astrocytoma, no metastasis"},
    ],
)
def test_without_a_mutation_of_h3_it_may_be_one(values):
    assert diagnose(IDH_status="WT", grade=4, **values)[0] == GBM


def test_a_histological_glioblastoma_is_of_grade_4():
    assert diagnose(IDH_status="WT", histology="Glioblastoma, NOS")[:2] == (GBM, 4)
    assert diagnose(IDH_status="WT", integrated_diagnosis="Glioblastoma")[0] is not GBM


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
