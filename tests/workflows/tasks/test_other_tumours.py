"""A cohort of breast cancers, of the shape of the TCGA's tables: nothing of glioma is applied or mentioned."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from tests.workflows.tasks.small_runs import SMALL, quick, random_genes, run_pipeline

N = 48
CASES = [f"TCGA-{site}-A{i:03d}" for i, site in enumerate(["A1", "A2", "BH", "E2"] * 12)]
GENES = ["ESR1", "PGR", "ERBB2", "MKI67", "KRT5", "FOXA1", "GATA3", "TP53", "EGFR", "MYC", "CDH1", "PTEN"]
MARKERS = ["IDH1_mut", "CDKN2A_cnv", "EGFR_cnv", "TERT_mut", "PIK3CA_mut"]
FOREIGN = re.compile(r"gliom|glioblast|astrocyt|oligodendro|idh-|1p/19q|who 2021|who cns", re.IGNORECASE)
QUICK = quick(explain=1)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brca")
    rng = np.random.default_rng(0)
    genes = random_genes(CASES, GENES)
    for name in MARKERS:
        genes[name] = rng.integers(0, 2, N)
    clinical = pd.DataFrame(
        {
            "project": "TCGA-BRCA",
            "histological_type": rng.choice(["Infiltrating Ductal Carcinoma", "Infiltrating Lobular Carcinoma"], N),
            "grade": rng.integers(1, 4, N),
            "subtype": np.where(genes["ESR1"] > 0, "LumA", "Basal"),
            "OS.time": rng.integers(30, 3000, N),
            "OS": rng.integers(0, 2, N),
            "age": rng.integers(30, 80, N),
            "HER2_score": (genes["ERBB2"] * 10 + 50 + 10 * rng.normal(size=N)).round(1),
        },
        index=genes.index,
    )
    genes.to_csv(folder / "genes.csv")
    clinical.to_csv(folder / "clinical.csv")
    (folder / "defining.csv").write_text("feature,reason,task\nESR1,the receptor defines the subtype,subtype\n")
    return folder


def test_a_run_says_not_a_word_of_glioma(tables, tmp_path, capsys):
    out = tmp_path / "run"
    inputs = (
        "none",
        tables / "genes.csv",
        "--clinical",
        tables / "clinical.csv",
        "--defining-features",
        tables / "defining.csv",
    )
    tasks = ("--task", "survival,grade,subtype", "--task", "her2=HER2_score", "--split-by", "case,site")
    assert run_pipeline(*inputs, *tasks, *QUICK, *SMALL, "--out", out) == 0
    printed = "".join(capsys.readouterr())
    report, metrics = (out / "report.html").read_text(), json.loads((out / "metrics.json").read_text())
    visible = re.sub(r"<script.*?</script>", "", report, flags=re.DOTALL)
    assert not FOREIGN.findall(printed)
    assert not FOREIGN.findall(visible)
    assert not FOREIGN.findall(json.dumps(metrics))
    excluded = {name: one["excluded_features"] for name, one in metrics["tasks"].items()}
    assert excluded["subtype"] == {"ESR1": "the receptor defines the subtype"}
    assert excluded["survival"] == excluded["grade"] == excluded["her2"] == {}
    assert not (out / "diagnoses.csv").exists()
    assert set(metrics["tasks"]["her2"]["schemes"]) == {"site"}


def test_the_rules_of_glioma_can_be_requested(tables, tmp_path, capsys):
    inputs = (
        "none",
        tables / "genes.csv",
        "--clinical",
        tables / "clinical.csv",
        "--tumour",
        "glioma",
        "--task",
        "subtype",
    )
    assert run_pipeline(*inputs, *QUICK, "--dry-run", "--out", tmp_path / "run") == 0
    assert "IDH mutation defines the subtype" in " ".join(capsys.readouterr().err.split())
