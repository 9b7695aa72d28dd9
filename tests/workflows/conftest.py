"""A tiny cohort and one finished run of it, which the tests of a worker share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from workflows.demo import write_cohort
from workflows.run_pipeline import main

QUICK = (
    *("--workers", "0", "--device", "cpu", "--folds", "2", "--epochs", "2", "--set", "bootstrap=20"),
    *("--explain", "0", "--set", "train.batch_cases=4", "--set", "encoder.precision=float32"),
    *("--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1", "--set", "models.abmil.hidden=16"),
)


@dataclass(frozen=True)
class Cohort:
    """Inputs on disk: 12 cases, 13 slides, genes with labels; `store` holds the features once a run has made them."""

    folder: Path

    @property
    def slides(self) -> Path:
        return self.folder / "slides"

    @property
    def genes(self) -> Path:
        return self.folder / "genes.csv"

    @property
    def sets(self) -> Path:
        return self.folder / "gene_sets.csv"

    @property
    def store(self) -> Path:
        return self.folder / "features.zarr"

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.genes)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, cases=12, size_px=640)
    return Cohort(folder)


@pytest.fixture(scope="session")
def walk(cohort: Cohort) -> Callable[..., int]:
    """Runs the command in this process, small and on the cohort's store; the exit code."""

    def walk(slides: object, genes: object, *options: object) -> int:
        return main([str(part) for part in (slides, genes, "--store", cohort.store, *QUICK, *options)])

    return walk


@pytest.fixture(scope="session")
def finished(cohort: Cohort, walk: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of all three tasks, with baselines and explanations."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert walk(cohort.slides, cohort.genes, "--gene-sets", cohort.sets, "--explain", "1", "--out", out) == 0
    return out
