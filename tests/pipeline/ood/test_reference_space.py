import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from pipeline.ood.reference_space import Space


@pytest.mark.parametrize("n", [12, 40, 300])
def test_distance_is_mahalanobis_with_ledoit_and_wolfs_covariance(n):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, 30)) * np.linspace(0.3, 3, 30) + 5
    others = rng.standard_normal((7, 30)) * 2 + 5
    expected = np.sqrt(LedoitWolf().fit(vectors).mahalanobis(others) / 30)
    np.testing.assert_allclose(np.exp(Space.fit(vectors).distance(others)), expected, rtol=1e-3)


def test_vectors_that_are_all_alike_have_a_space():
    space = Space.fit(np.ones((5, 4)))
    assert np.isfinite(space.distance(np.zeros((1, 4)))).all()
    assert space.distance(np.zeros((1, 4)))[0] > space.distance(np.ones((1, 4)))[0]
