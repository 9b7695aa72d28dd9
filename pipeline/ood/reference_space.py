"""Where the vectors of a training cohort lie, and how far off others are.

The distance is Mahalanobis', with a covariance that is shrunk towards a sphere (Ledoit & Wolf, J. Multivariate Anal.
88 (2004) 365): it has a closed form, fits 20 slides as well as 1,000, and in the directions in which training slides
do not differ, where distortions show first, it is strict, as the distance to nearest neighbours is not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

AXES = 64  # along which the training cohort's spread is told apart; the other directions share one spread


@dataclass(frozen=True)
class Space:
    """Where the vectors of a training cohort lie.

    Attributes:
        centre: their mean.
        axes: directions in which they differ most, orthonormal.
        variances: along the axes, shrunk.
        rest: the variance along every other direction.
    """

    centre: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "k D"]
    variances: Float[np.ndarray, " k"]
    rest: float

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "n D"]) -> "Space":
        """Of at least two vectors. All is computed from their products (n, n), so that D may be large."""
        n, width = vectors.shape
        centre = vectors.mean(axis=0, dtype=float)
        apart = vectors - centre
        products = apart @ apart.T / n
        values, turned = np.linalg.eigh(products)
        values, turned = values[::-1].clip(0), turned[:, ::-1]
        sphere = values.sum() / width
        from_sphere = max((values**2).sum() - width * sphere**2, 1e-30)
        noise = (np.diag(products) ** 2).sum() - (values**2).sum() / n
        shrink = float(np.clip(noise / from_sphere, 0, 1))
        kept = min(AXES, int((values > 1e-9 * max(values[0], 1e-30)).sum()))
        axes = (apart.T @ turned[:, :kept] / np.sqrt(n * values[:kept].clip(1e-30))).T
        rest = values[kept:].sum() / max(1, width - kept)
        tiny = 1e-12 + 1e-6 * sphere
        return cls(
            centre,
            axes,
            (1 - shrink) * values[:kept] + shrink * sphere + tiny,
            float((1 - shrink) * rest + shrink * sphere + tiny),
        )

    def distance(self, vectors: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
        """Natural logarithm of the Mahalanobis distance, by root mean square over the dimensions."""
        apart = vectors - self.centre
        along = apart @ self.axes.T
        off = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = (along**2 / self.variances).sum(axis=1) + off / self.rest
        return np.log(np.sqrt(squared / vectors.shape[1]) + 1e-6)
