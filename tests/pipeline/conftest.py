"""Cases with a signal in their genes, and the real gene table, for the tests of simple predictors."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedKFold

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "gbmlgg"


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """120 cases: clinical table, months, events, 150 features (three carry the hazard, two of them the class), classes."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 150))
    age, grade = generator.normal(55, 12, 120), generator.integers(2, 5, 120)
    hazard = features[:, :3].sum(axis=1) + (age - 55) * 0.05 + (grade - 3) * 0.5
    death, lost = generator.exponential(30 * np.exp(-hazard)), generator.uniform(5, 120, 120)
    clinical = pd.DataFrame({"age": age, "is_female": generator.integers(0, 2, 120), "grade": grade.astype(float)})
    classes = np.digitize(features[:, 0] + features[:, 1], [-0.6, 0.6])
    return clinical, np.minimum(death, lost), death <= lost, features, classes


@pytest.fixture(scope="session")
def real() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Clinical table, months, events and genes of TCGA's GBM-LGG cases with RNA."""
    if not REAL.exists():
        pytest.skip(f"needs the real cohort, which lies beside the checkout: {REAL} is absent")
    genes = pd.read_csv(REAL / "genes.csv.gz").set_index("case_id").clip(-5, 5)
    cases = pd.read_csv(REAL / "cases.csv").set_index("case_id").loc[genes.index]
    return cases, cases["survival_months"].to_numpy(), cases["event"].to_numpy() == 1, genes.to_numpy()


@pytest.fixture(scope="session")
def five_folds():
    """The fold of each case, stratified."""

    def five_folds(labels: np.ndarray) -> np.ndarray:
        folds = np.zeros(len(labels), dtype=int)
        splits = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
        for number, (_, test) in enumerate(splits):
            folds[test] = number
        return folds

    return five_folds
