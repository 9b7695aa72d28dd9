"""What a loaded model estimates missing genes with."""

import numpy as np
import pandas as pd

from pipeline.inference.trained import gene_imputer
from pipeline.ood.profiles import read_genes
from pipeline.ood.reference import ReferenceCohort
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.matrix import OmicsMatrix, concatenate, covariates
from preprocessing.omics.scaler import OmicsScaler

RANDOM = np.random.default_rng(0)
STRONG = RANDOM.normal(size=(3, 40))


def genes(n):
    """Forty genes that three programmes drive, on a log scale."""
    values = 7 + RANDOM.normal(size=(n, 3)) @ STRONG + 0.5 * RANDOM.normal(size=(n, 40))
    return pd.DataFrame(values, [f"c{RANDOM.integers(1 << 40)}" for _ in range(n)], [f"G{i}" for i in range(40)])


def test_the_reference_cohort_estimates_missing_genes_better_than_the_median():
    train, new = genes(80), genes(40)
    ages = pd.DataFrame({"age": RANDOM.normal(60, 9, len(train))}, train.index)
    matrix = concatenate([OmicsMatrix.from_frame(train), covariates(ages, ["age"])])
    scaler = OmicsScaler.fit(matrix, None, OmicsConfig())
    reference = ReferenceCohort.fit([], read_genes(scaler, matrix))
    imputer = gene_imputer(reference, scaler)
    assert imputer is not None
    assert imputer.features == tuple(name for name in scaler.features if name != "age")
    measured = [name for name in new if name not in ("G0", "G1", "G2")]
    found = imputer.filled(new.assign(G0=np.nan, G1=np.nan, G2=np.nan).to_numpy(), list(new))
    error = found[:, :3] - new.to_numpy()[:, :3]
    assert (error**2).mean() < 0.3 * (new.iloc[:, :3].var().mean())
    np.testing.assert_array_equal(found[:, 3:], new[measured].to_numpy())
    assert gene_imputer(None, scaler) is None
    assert gene_imputer(ReferenceCohort.fit([], None), scaler) is None
