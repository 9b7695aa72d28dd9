from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from preprocessing.omics.leakage import defining_features, following_covariates, label_copies, label_followers
from preprocessing.omics.matrix import covariates

DATA = Path(__file__).resolve().parents[4] / "shared/data"

TABLE = [
    "EGFR_cnv",
    "CDKN2A_cnv",
    "CDKN2B_cnv",
    "MTAP_cnv",
    "ATRX_mut",
    "CIC_mut",
    "EGFR_mut",
    "FUBP1_mut",
    "IDH1_mut",
    "PTEN_mut",
    "TP53_mut",
    "EGFR",
    "ATRX_rnaseq",
    "IDH1",
    "CDKN2A",
    "TERT",
]


def test_mutations_and_copy_numbers_define_the_subtype_and_expression_does_not():
    found = defining_features("who2021", TABLE)
    assert set(found) == {"EGFR_cnv", "CDKN2A_cnv", "CDKN2B_cnv", "ATRX_mut", "CIC_mut", "FUBP1_mut", "IDH1_mut"}
    assert "IDH mutation" in found["IDH1_mut"]


def test_only_cdkn2_copy_numbers_define_the_grade():
    assert set(defining_features("who2021_grade", TABLE)) == {"CDKN2A_cnv", "CDKN2B_cnv"}


def test_nothing_defines_survival():
    assert defining_features(None, TABLE) == {}


@pytest.mark.parametrize(
    "name",
    [
        "chr1p",
        "1p_cnv",
        "19q_loss",
        "X1p19q",
        "codeletion",
        "1p_19q_codel",
        "chr7_gain",
        "chr10_loss",
        "7_cnv",
        "10q_cnv",
        "TERT_promoter",
        "TERTp_mut",
        "IDH_status",
        "IDH2_mutation",
        "EGFR_amplification",
        "CDKN2A_homdel",
        "EGFR.cnv",
        "EGFR-cnv",
        "IDH1 mut",
        "CDKN2A-homdel",
    ],
)
def test_other_spellings(name):
    assert name in defining_features("who2021", [name])


def test_copy_numbers_of_genes_whose_names_end_like_chromosomes_do_not_define_the_subtype():
    genes = ["KRTAP10-7", "KRTAP5-10", "IGHV3-7"]
    assert set(defining_features("who2021", [*genes, "7", "chr10"], kind="cnv")) == {"7", "chr10"}


@pytest.mark.parametrize("arm", ["1p", "19q", "7", "7p", "7q", "10", "10p", "10q"])
@pytest.mark.parametrize("spelling", ["chr{}_cnv", "{}_cnv", "arm{}_loss"])
def test_the_reason_names_the_tumour_of_which_the_arm_is_altered(arm, spelling):
    (reason,) = defining_features("who2021", [spelling.format(arm)]).values()
    expected = "1p/19q codeletion defines oligodendroglioma" if arm in ("1p", "19q") else "+7/−10 defines glioblastoma"
    assert reason.startswith(expected)


@pytest.mark.parametrize(
    "name", ["EGFR_expression", "IDH1_rna", "PTEN_cnv", "CD7", "IL10", "CCL7", "IDH3A_mut", "7", "IDH1"]
)
def test_what_does_not_define_it(name):
    assert defining_features("who2021", [name]) == {}


def test_a_table_without_suffixes_says_its_kind():
    symbols = ["IDH1", "EGFR", "CDKN2A", "TP53", "ATRX"]
    assert set(defining_features("who2021", symbols, kind="mutation")) == {"IDH1", "ATRX"}
    assert set(defining_features("who2021", symbols, kind="cnv")) == {"EGFR", "CDKN2A"}
    assert set(defining_features("who2021_grade", symbols, kind="cnv")) == {"CDKN2A"}


def test_a_label_under_another_name_is_found():
    rng = np.random.default_rng(0)
    time = pd.Series(rng.uniform(1, 60, 30), name="survival_months")
    grade = pd.Series(np.repeat([2, 3, 4], 10), name="grade", dtype="Int64")
    gene = rng.normal(size=30)
    almost = time.to_numpy().copy()
    almost[[3, 4]] = almost[[4, 3]]
    columns = {
        "gene": gene,
        "surv": time * 30.4,
        "left": -time,
        "almost": almost,
        "y": grade * 10.0,
        "flag": grade == 4,
    }
    values, names = np.column_stack([np.asarray(column, float) for column in columns.values()]), list(columns)
    assert set(label_copies(values, names, time)) == {"surv", "left"}
    assert set(label_copies(values, names, grade)) == {"y"}
    assert label_copies(values[:9], names, time[:9]) == {}
    values[0, 1] = np.nan
    assert set(label_copies(values, names, time)) == {"left"}


def test_a_feature_that_follows_the_label_more_closely_than_genes_do_is_found():
    rng = np.random.default_rng(1)
    n = 60
    time, event = rng.uniform(1, 60, n), rng.random(n) < 0.6
    grade = np.repeat([2, 3, 4], n // 3)
    followed = np.where(event, time + rng.normal(scale=4, size=n), rng.uniform(1, 60, n))
    columns = {"EGFR": rng.normal(size=n), "TP53": 0.3 * time + rng.normal(scale=6, size=n), "progress": followed}
    columns |= {"MET": grade + rng.normal(scale=0.8, size=n), "KPS": (grade == 4) + rng.normal(scale=0.2, size=n)}
    values, names = np.column_stack(list(columns.values())), list(columns)
    survival = pd.DataFrame({"survival_months": time, "event": pd.array(event, dtype="boolean")})
    classes = pd.DataFrame({"grade": pd.array(grade, dtype="Int64")})
    assert set(label_followers(values, names, survival)) == {"progress"}
    assert "rank correlation with the time of events 0.9" in label_followers(values, names, survival)["progress"]
    assert set(label_followers(values, names, classes)) == {"KPS"}
    assert label_followers(values, names, classes, keep=["KPS"]) == {}
    assert label_followers(values[:12], names, classes[:12]) == {}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_real_genes_follow_no_label_too_closely_save_two_that_report_the_study():
    # LGG and GBM were standardised apart: of two genes that hardly any tumour expresses, the common value tells the study, and
    # with it grade 4.
    genes = pd.read_csv(DATA / "gbmlgg/genes.csv.gz", index_col=0)
    cases = pd.read_csv(DATA / "gbmlgg/cases.csv", index_col=0).loc[genes.index]
    for columns in (["survival_months", "event"], ["grade"], ["subtype"]):
        labels = cases[columns].dropna()
        labels = labels.astype({"grade": "Int64"}) if "grade" in labels else labels
        found = label_followers(genes.loc[labels.index].to_numpy(), list(genes), labels)
        assert set(found) == ({"CSHL1", "LACRT"} if "grade" in labels else set())


def survival_with(**columns):
    """Survival of 60 cases, 36 of them dead, and covariates: the first two arguments of `following_covariates`."""
    rng = np.random.default_rng(1)
    event = np.repeat([True, False], [36, 24])
    labels = pd.DataFrame({"survival_months": rng.uniform(1, 60, 60), "event": pd.array(event, dtype="boolean")})
    made = {name: make(event, rng) if callable(make) else make for name, make in columns.items()}
    return covariates(pd.DataFrame(made), list(made)), labels


def test_a_covariate_that_tells_who_died_is_left_out():
    """Tumour status at the last visit, or a score that the dead alone have, is known only with the outcome."""
    matrix, labels = survival_with(
        tumor_status=lambda event, rng: np.where(event, "WITH TUMOR", "TUMOR FREE"),
        outcome=lambda event, rng: np.where(event, rng.choice(["DOD", "DOC"], 60), rng.choice(["NED", "AWD"], 60)),
        autopsy=lambda event, rng: np.where(event, rng.normal(size=60), np.nan),
        treatment_at_relapse=lambda event, rng: np.where(event, rng.choice(["A", "B"], 60), None),
        age=lambda event, rng: rng.uniform(20, 80, 60),
        hospital=lambda event, rng: rng.choice(list("ABCDEFGHIJKL"), 60),
    )
    beyond, doubtful = following_covariates(matrix, labels)
    assert set(beyond) == {"tumor_status", "outcome", "autopsy", "treatment_at_relapse"}
    assert beyond["tumor_status"] == "AUC for the event 1.000"
    assert beyond["autopsy"] == "AUC of its values (or of their absence) for the event 1.000"
    assert doubtful == {}


def test_a_covariate_that_nearly_tells_who_died_is_doubted():
    nearly = np.array(["WITH TUMOR"] * 35 + ["TUMOR FREE"] * 25)
    matrix, labels = survival_with(tumor_status=nearly)
    beyond, doubtful = following_covariates(matrix, labels)
    assert beyond == {}
    assert doubtful == {"tumor_status": "AUC for the event 0.986"}  # (35 + 1 / 2) / 36


def test_values_that_together_are_the_class_are_found():
    grade = pd.DataFrame({"grade": pd.array(np.repeat([2, 3, 4], 20), dtype="Int64")})
    codes = pd.DataFrame({"icd": np.repeat(["9400/3", "9450/3", "9401/3", "9451/3", "9440/3", "9441/3"], 10)})
    beyond, _ = following_covariates(covariates(codes, ["icd"]), grade)
    assert set(beyond) == {"icd"}


def test_a_feature_that_tells_who_died_is_left_out():
    rng = np.random.default_rng(1)
    event = np.repeat([True, False], [36, 24])
    survival = pd.DataFrame({"survival_months": rng.uniform(1, 60, 60), "event": pd.array(event, dtype="boolean")})
    values = np.column_stack([event + rng.normal(scale=0.02, size=60), rng.normal(size=60)])
    found = label_followers(values, ["relapse", "EGFR"], survival)
    assert set(found) == {"relapse"}
    assert found["relapse"].startswith("AUC for the event 1.000, higher than genes reach")
