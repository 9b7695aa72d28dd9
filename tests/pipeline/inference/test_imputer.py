"""What a loaded model estimates missing genes with."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

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


@pytest.mark.parametrize("scaling", ["minmax-gene", "minmax-table"])
def test_genes_that_are_often_zero_are_estimated_where_min_max_scaling_leaves_them(scaling):
    """Min-max scaling keeps a zero at 0, in the middle of the range, and so does the reference cohort."""
    table = genes(160)
    table = table.where(table > table.quantile(0.33), 0.0)
    train, new = table.iloc[:110], table.iloc[110:]
    matrix = OmicsMatrix.from_frame(train)
    scaler = OmicsScaler.fit(matrix, None, OmicsConfig(scaling=scaling))
    imputer = gene_imputer(ReferenceCohort.fit([], read_genes(scaler, matrix)), scaler)
    hidden = [column for column in new if int(column[1:]) % 3 == 0]
    at = np.isin(scaler.features, hidden)
    truth = scaler.scaled(OmicsMatrix.from_frame(new))[:, at]
    lacking = OmicsMatrix.from_frame(new.drop(columns=hidden))
    by_median, estimated = (
        np.sqrt(np.mean((one.scaled(lacking)[:, at] - truth) ** 2))
        for one in (scaler, replace(scaler, imputer=imputer))
    )
    assert estimated < 0.6 * by_median


def test_a_reference_cohort_of_other_genes_is_refused():
    matrix = OmicsMatrix.from_frame(genes(30))
    scaler = OmicsScaler.fit(matrix, None, OmicsConfig())
    fewer = OmicsScaler.fit(OmicsMatrix.from_frame(genes(30).iloc[:, :39]), None, OmicsConfig())
    reference = ReferenceCohort.fit([], read_genes(scaler, matrix))
    with pytest.raises(ValueError, match="reference cohort has 40 genes, the model 39"):
        gene_imputer(reference, fewer)
