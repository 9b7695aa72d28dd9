"""Missing genes of a new case, estimated from its other genes by the covariance of the training cases.

An array measures only a part of the genes of RNA sequencing. A glioblastoma whose missing genes were set to the median of a
training cohort of mostly lower-grade gliomas would be moved towards those; the genes that were measured tell more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

LIMIT = 5.0  # standard deviations to which measured values are clipped before others are estimated from them


@dataclass(frozen=True)
class GeneImputer:
    """Normal distribution of the genes of training cases, by principal axes and an equal variance in all other directions.

    Attributes:
        features: names of the G genes.
        centre: (G,) subtracted from each value, after the logarithm where it is taken.
        scale: (G,) divides the centred value; the attributes below are in this unit.
        keeps_zero: (G,) whether a 0 stays 0 in this unit (min-max scaling).
        mean: (G,) mean vector.
        axes: (k, G) orthonormal principal axes.
        variances: (k,) variance along each axis.
        residual_variance: variance along every direction orthogonal to the axes.
    """

    features: tuple[str, ...]
    centre: Float[np.ndarray, " G"]
    scale: Float[np.ndarray, " G"]
    keeps_zero: Bool[np.ndarray, " G"]
    mean: Float[np.ndarray, " G"]
    axes: Float[np.ndarray, "k G"]
    variances: Float[np.ndarray, " k"]
    residual_variance: float

    def filled(
        self, values: Float[np.ndarray, "cases features"], names: Sequence[str]
    ) -> Float[np.ndarray, "cases features"]:
        """Return the values with missing genes set to their expectation given the measured genes of the case.

        Args:
            values: NaN where missing, after the logarithm where it is taken.
            names: of the columns; columns of other features stay as they are.

        Returns:
            A copy. A case without any of the genes stays as it is: nothing is known of it.
        """
        column = {name: position for position, name in enumerate(names)}
        shared = [position for position, name in enumerate(self.features) if name in column]
        columns = [column[self.features[position]] for position in shared]
        centre, scale = self.centre[shared], self.scale[shared]
        z = np.clip((values[:, columns] - centre) / scale, -LIMIT, LIMIT)
        z = np.where(self.keeps_zero[shared] & (values[:, columns] == 0), 0.0, z)
        patterns, group = np.unique(np.isnan(z), axis=0, return_inverse=True)
        estimated = z.copy()
        for number, missing in enumerate(patterns):
            if missing.any() and not missing.all():
                rows = group.ravel() == number
                estimated[np.ix_(rows, missing)] = self._expected(z[rows], missing, np.array(shared))
        gaps = np.isnan(values[:, columns])
        filled = values.copy()
        filled[:, columns] = np.where(gaps, estimated * scale + centre, values[:, columns])
        return filled

    def _expected(
        self, z: Float[np.ndarray, "n g"], missing: Bool[np.ndarray, " g"], shared: np.ndarray
    ) -> Float[np.ndarray, "n m"]:
        """Mean of the missing genes given the others, of cases that lack the same ones.

        With covariance A′DA + rI of axes A, the scores along the axes given measured values x are normal with mean
        (D⁻¹ + AA′/r)⁻¹ A(x − μ)/r, of the measured columns of A (Tipping & Bishop, J. R. Stat. Soc. B 61 (1999) 611).
        """
        along = np.maximum(self.variances - self.residual_variance, 1e-9)
        measured_at, missing_at = shared[~missing], shared[missing]
        axes = self.axes[:, measured_at].astype(float)
        precision = np.diag(1 / along) + axes @ axes.T / self.residual_variance
        pulled = axes @ (z[:, ~missing] - self.mean[measured_at]).T / self.residual_variance
        return self.mean[missing_at] + np.linalg.solve(precision, pulled).T @ self.axes[:, missing_at]
