from pathlib import Path

import pandas as pd
import pytest

from preprocessing.case_tables.gene_columns import is_annotation

GENE_SETS = Path(__file__).resolve().parents[4] / "shared/data/gene_sets"


@pytest.mark.parametrize(
    "name",
    [
        "grade",
        "Survival",
        "OS_MONTHS",
        "OS.time",
        "PFI.time",
        "vital_status",
        "vitalStatus",
        "VITALSTATUS",
        "daysToDeath",
        "censorship",
        "tumorgrade",
        "who2021_grade",
        "timetoevent",
        "age",
        "is_female",
        "oncotree_code",
        "slide_id",
        "site",
        "train",
        "project",
        "histology",
        "IDH_status",
        "grade2021",
        "Transcriptome.Subtype",
        "purity",
        "Unnamed:_0",
        "overallsurvival",
        "Unnamed: 0.1",
        "X.1",
        "...1",
        "S.No",
        "Mutation Count",
        "TMB",
        "BMI",
        "op_date",
        "group",
    ],
)
def test_columns_that_speak_of_labels_are_no_genes(name):
    assert is_annotation(name)


@pytest.mark.parametrize(
    "name",
    [
        "AGER",
        "OS9",
        "STATH",
        "EVENTLESS",
        "IDS",
        "EFS",
        "MAG",
        "PIGR",
        "TIMELESS",
        "TIMP1",
        "SEXD",
        "HLA-A",
        "NKX2-1-AS1",
        "IDH1_mut",
        "EGFR_cnv",
        "7SK",
        "XIST",
        "BMI-1",
        "NOS1",
        "NRAS",
        "1956",
    ],
)
def test_gene_symbols_are_not_swallowed(name):
    assert not is_annotation(name)


@pytest.mark.skipif(not GENE_SETS.is_dir(), reason="the shared data are not here")
def test_every_real_gene_is_a_gene():
    names = {name for path in GENE_SETS.glob("*.csv") for name in pd.read_csv(path, dtype=str).to_numpy().flat}
    symbols = {name for name in names if isinstance(name, str)}
    assert len(symbols) > 6000
    assert [name for name in symbols if is_annotation(name)] == []


@pytest.mark.parametrize("name", ["P-value", "P.value", "Correlation", "RMSE", "Pearson Correlation"])
def test_the_fit_of_a_deconvolution_is_no_feature(name):
    """CIBERSORT appends it to the fractions of each sample."""
    assert is_annotation(name)
    assert not is_annotation("Macrophages M2")
