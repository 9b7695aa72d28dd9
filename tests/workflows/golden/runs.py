"""Small whole runs: their inputs, invented here, and their commands."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from tests.workflows.tasks.small_runs import random_genes
from workflows.demo import write_cohort
from workflows.run_pipeline import main

HERE = ("--workers", "0", "--device", "cpu")
SMALL = (
    *("--folds", "2", "--epochs", "5", "--set", "train.lr=0.002", "--set", "bootstrap=40"),
    *("--set", "train.members=3", "--set", "train.batch_cases=8", "--set", "encoder.precision=float32"),
    *("--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1", "--set", "models.abmil.hidden=16"),
)


@dataclass(frozen=True)
class Ended:
    """A command that has ended: what it printed and with which exit code."""

    console: str
    code: int


def command(*arguments: object) -> Ended:
    """Run a command in this process, as a program whose output is no terminal."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([str(one) for one in arguments])
    return Ended(printed.getvalue(), code)


# --- Slides and genes, the three tasks of the WHO classification --------------------------------------------------------


def write_slides(folder: Path) -> None:
    """Twelve cases with drawn slides of few tiles; a slide of another case cannot be read, and one case has no slide."""
    write_cohort(folder, cases=12, size_px=640)
    genes = pd.read_csv(folder / "genes.csv")
    without = genes.iloc[[0]].assign(case_id="TCGA-ZZ-0900")
    pd.concat([genes, without]).to_csv(folder / "genes.csv", index=False)
    (folder / "slides" / "TCGA-ZZ-0901-01Z-00-DX1.svs").write_bytes(b"not a slide")


def train_on_slides(folder: Path) -> Ended:
    inputs = (folder / "slides", folder / "genes.csv", "--gene-sets", folder / "gene_sets.csv", "--covariates", "age")
    return command(*inputs, *HERE, *SMALL, "--store", folder / "store", "--explain", "1", "--out", folder / "run")


def predict_slides(folder: Path) -> Ended:
    """New cases, drawn alike: of one the genes are missing, of two the slides, of one the grade; and two genes of all."""
    write_cohort(folder / "others", cases=9, size_px=640, seed=1)
    for slide in (folder / "others" / "slides").iterdir():
        slide.rename(slide.with_name(slide.name.replace("-00", "-07", 1)))
    genes = (
        pd.read_csv(folder / "others" / "genes.csv")
        .drop(columns=["ERBB2", "subtype"])
        .rename(columns={"EGFR": "egfr_"})
    )
    genes["case_id"] = genes["case_id"].str.replace("-00", "-07")
    genes.loc[5, "grade"] = None
    genes.drop(index=3).to_csv(folder / "new_genes.csv", index=False)
    for case in genes["case_id"][6:8]:
        for slide in (folder / "others" / "slides").glob(f"{case}*"):
            slide.unlink()
    inputs = (
        folder / "others" / "slides",
        folder / "new_genes.csv",
        "--trained",
        folder / "run" / "models",
        "--cases",
        "any",
    )
    return command(*inputs, *HERE, "--set", "bootstrap=40", "--store", folder / "store", "--out", folder / "new")


# --- Genes of two cohorts, labels of every kind -------------------------------------------------------------------------

N = 24
TASKS = {
    "response": {"column": "Response", "classes": ["no", "yes"], "positive": "yes"},
    "purity": {"column": "Purity", "unit": "%"},
    "stage": {"column": "Stage", "kind": "ordinal", "classes": ["I", "II", "III"]},
    "mutations": {"column": ["TP53_mut", "ATRX_mut"]},
    "pfi": {"column": ["PFI_days", "PFI_event"]},
}


def write_labels(folder: Path, name: str, *, seed: int, n: int = N, shift: float = 0.0, scale: float = 1.0) -> None:
    """Genes, copy numbers and a clinical table of n cases; the first genes decide the labels, of which some are missing."""
    rng = np.random.default_rng(seed)
    genes = random_genes([f"{name}-{i:02d}" for i in range(n)], seed=seed)
    signal = genes["TP53"] + genes["EGFR"]
    time, lost = (600 * np.exp(-signal)).clip(5, 5000).round(), rng.uniform(100, 3000, n).round()
    clinical = pd.DataFrame(
        {
            "Response": np.where(signal + 0.3 * rng.normal(size=n) > 0, "yes", "no"),
            "Purity": (50 + 10 * signal + rng.normal(size=n)).round(2),
            "Stage": pd.qcut(signal, 3, labels=["I", "II", "III"]).astype(str),
            "TP53_mut": (genes["PTEN"] > 0).astype(int),
            "ATRX_mut": (genes["RB1"] > 0.2).astype(int),
            "PFI_days": np.minimum(time, lost),
            "PFI_event": (time <= lost).astype(int),
            "age": rng.integers(30, 80, n),
            "scanner": rng.choice(["A", "B"], n),
        },
        index=genes.index,
    ).astype(object)
    for position, column in enumerate(clinical.columns[:6]):
        clinical.iloc[3 * position % n, clinical.columns.get_loc(column)] = None
    (genes * scale + shift).round(4).to_csv(folder / f"{name}.csv")
    copies = pd.DataFrame(rng.integers(-2, 3, (n, 4)), genes.index, ["TP53", "EGFR", "CDKN2A", "PTEN"])
    copies.drop(index=genes.index[5]).to_csv(folder / f"{name}_cnv.csv")
    clinical.to_csv(folder / f"{name}_clinical.csv")


def cohorts_of(folder: Path, names: Sequence[str]) -> dict[str, dict[str, object]]:
    files = {name: f"{folder / name}" for name in names}
    return {
        name: {
            **{"slides": "none", "genes": f"{file}.csv", "clinical": f"{file}_clinical.csv"},
            "further_tables": [f"{file}_cnv.csv:cnv"],
        }
        for name, file in files.items()
    }


def write_tasks(folder: Path) -> None:
    write_labels(folder, "one", seed=1)
    write_labels(folder, "two", seed=2, shift=30.0, scale=4.0)
    given = {"cohorts": cohorts_of(folder, ["one", "two"]), "tasks": TASKS, "variants": {"narrow": {"hidden": 8}}}
    (folder / "train.yaml").write_text(yaml.safe_dump(given))


def train_on_labels(folder: Path) -> Ended:
    options = ("--config", folder / "train.yaml", "--split-by", "case,cohort", "--covariates", "age", "--explain", "1")
    return command(*options, *HERE, *SMALL, "--folds", "3", "--store", folder / "store", "--out", folder / "run")


def predict_labels(folder: Path) -> Ended:
    """Two new cohorts: one with labels, on the scale of the larger training cohort; one of few cases on another scale."""
    write_labels(folder, "three", seed=3, n=16)
    write_labels(folder, "four", seed=4, n=6, shift=3.0)
    (folder / "new.yaml").write_text(yaml.safe_dump({"cohorts": cohorts_of(folder, ["three", "four"])}))
    options = ("--config", folder / "new.yaml", "--trained", folder / "run" / "models", "--explain", "1")
    options += ("--task", "mutations,purity,stage")
    return command(*options, *HERE, "--set", "bootstrap=40", "--store", folder / "store", "--out", folder / "new")
