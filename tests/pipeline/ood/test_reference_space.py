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


def test_directions_beyond_the_axes_share_their_mean_variance():
    """Of 80 directions, the 64 axes are those of variance 100; the other 16 have 1, which is not spread over all 80."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 80)) * np.where(np.arange(80) < 64, 10.0, 1.0)
    space = ReferenceSpace.fit(vectors)
    assert space.axes.shape == (64, 80)
    fitted, variances = LedoitWolf().fit(vectors), np.linalg.eigvalsh(np.cov(vectors.T, ddof=0))
    sphere = fitted.shrinkage_ * variances.mean()
    assert space.residual_variance == pytest.approx((1 - fitted.shrinkage_) * variances[:16].mean() + sphere, rel=1e-3)
