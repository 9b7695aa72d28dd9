"""A tiny cohort and one finished run of it, which the tests of a worker share."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from preprocessing.features.store import FeatureStore
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
def quick() -> tuple[str, ...]:
    """The options of a small run."""
    return QUICK


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


# Other processes, and other processors still more, may round each sum of float32 otherwise; features are stored as float16.
FLOAT32, FLOAT16 = 1e-5, 2e-3


def _assert_same_json(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_same_json(one[key], other[key], f"{where}: {key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for number, both in enumerate(zip(one, other, strict=True)):
            _assert_same_json(*both, f"{where}: {number}")
    elif isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=FLOAT32, abs=FLOAT32, nan_ok=True), where
    else:
        assert one == other, where


@pytest.fixture(scope="session")
def assert_same_results() -> Callable[[Path, Path], None]:
    """Compares the tables and metrics of two run folders: numbers to float32's precision, all else exactly."""

    def assert_same(run: Path, expected: Path) -> None:
        for name in ("predictions.csv", "cases.csv"):
            ours, theirs = (pd.read_csv(one / name, float_precision="round_trip") for one in (run, expected))
            pd.testing.assert_frame_equal(ours, theirs, rtol=FLOAT32, atol=FLOAT32)
        ours, theirs = (json.loads((one / "metrics.json").read_text()) for one in (run, expected))
        _assert_same_json(ours, theirs, "metrics.json")

    return assert_same


@pytest.fixture(scope="session")
def assert_same_features() -> Callable[..., None]:
    """Compares a slide's features in two stores: coordinates and cells exactly, features to float16's precision."""

    def assert_same(store: object, other: object, key: str) -> None:
        ours, theirs = (FeatureStore(str(place)).read_features(key) for place in (store, other))
        np.testing.assert_array_equal(ours.coords, theirs.coords)
        np.testing.assert_array_equal(ours.cells, theirs.cells)
        scale = np.abs(theirs.features.astype(float)).max()
        np.testing.assert_allclose(ours.features.astype(float), theirs.features, rtol=0, atol=FLOAT16 * scale)

    return assert_same
