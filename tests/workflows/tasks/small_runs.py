"""Small runs on genes alone, which the tests of tasks have in common."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workflows.run_pipeline import main

GENES = ("TP53", "EGFR", "PTEN", "RB1", "NF1", "MYC", "KRAS", "BRAF", "CDK4", "MDM2", "AKT1", "MTOR")
SMALL = ("--set", "train.members=1", "--set", "models.umeml.hidden=16", "--set", "models.umeml.blocks=1")


def quick(*, epochs: int = 1, explain: int = 0) -> tuple[str, ...]:
    """Return the options of a run of two folds in this process."""
    return (
        *("--workers", "0", "--device", "cpu", "--folds", "2", "--epochs", str(epochs)),
        *("--set", "bootstrap=20", "--explain", str(explain)),
    )


def random_genes(cases: Sequence[str], names: Sequence[str] = GENES, *, seed: int = 1) -> pd.DataFrame:
    """Return standard normal values, cases × genes, under `case_id`."""
    values = np.random.default_rng(seed).normal(size=(len(cases), len(names)))
    return pd.DataFrame(values, index=pd.Index(cases, name="case_id"), columns=list(names))


def run_pipeline(*arguments: object) -> int:
    """Run the command with these arguments, and return its exit code."""
    return main([str(one) for one in arguments])
