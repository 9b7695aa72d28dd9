import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from pipeline.ood.reference_space import ReferenceSpace


@pytest.mark.parametrize("n", [12, 40, 300])
def test_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance(n):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, 30)) * np.linspace(0.3, 3, 30) + 5
    others = rng.standard_normal((7, 30)) * 2 + 5
    expected = np.sqrt(LedoitWolf().fit(vectors).mahalanobis(others) / 30)
    np.testing.assert_allclose(np.exp(ReferenceSpace.fit(vectors).log_distance(others)), expected, rtol=1e-3)


def test_identical_vectors_have_a_space():
    space = ReferenceSpace.fit(np.ones((5, 4)))
    assert np.isfinite(space.log_distance(np.zeros((1, 4)))).all()
    assert space.log_distance(np.zeros((1, 4)))[0] > space.log_distance(np.ones((1, 4)))[0]
