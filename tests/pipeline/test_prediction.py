import numpy as np
import pytest

from pipeline.prediction import _has_genes

A, B, C, D = "angiogenesis", "hypoxia", "repair", "covariate"


@pytest.mark.parametrize(
    ("groups", "absent", "there"),
    [
        ([A, B, C], [0, 0, 0], True),
        ([A, B, C], [1, 0, 0], True),
        ([A, B, C], [1, 1, 0], False),  # most groups are absent
        ([A, B], [1, 0], True),
        ([A, B], [1, 1], False),
        ([A, B, D], [1, 1, 0], False),  # covariates are no genes
        ([A, B, D], [0, 0, 1], True),
        ([D], [0], True),  # a model of covariates alone
        ([D], [1], False),
    ],
)
def test_where_most_groups_of_genes_are_absent_the_genes_are(groups, absent, there):
    assert _has_genes(np.array([absent], bool), groups).tolist() == [there]
