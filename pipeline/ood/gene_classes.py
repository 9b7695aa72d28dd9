"""Genes of each class of a training cohort: what the genes of a cohort that is composed otherwise would be like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from pipeline.ood.profiles import GeneProfiles

MIN_CASES = 5  # of a class, whose mean and standard deviation then count


@dataclass(frozen=True)
class GeneClasses:
    """Mean and standard deviation of each gene in each class of the training cases.

    Attributes:
        names: the K classes with at least `MIN_CASES` cases.
        counts: cases of each.
        means: (K, G), in standard deviations of the training cases.
        sds: (K, G), likewise.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    means: Float[np.ndarray, "K G"]
    sds: Float[np.ndarray, "K G"]

    @classmethod
    def fit(cls, genes: GeneProfiles, classes: Mapping[str, str]) -> "GeneClasses | None":
        """Fit to the training cases; None unless two classes have enough of them.

        Args:
            genes: of the training cases.
            classes: the class of each case by its id, as far as it is known.
        """
        of_case = np.array([classes.get(case, "") for case in genes.case_ids])
        names, counts = np.unique(of_case[of_case != ""], return_counts=True)
        enough = counts >= MIN_CASES
        if enough.sum() < 2:
            return None
        members = [genes.values[of_case == name] for name in names[enough]]
        return cls(
            names=tuple(names[enough].tolist()),
            counts=tuple(counts[enough].tolist()),
            means=np.stack([values.mean(axis=0) for values in members]),
            sds=np.stack([values.std(axis=0) for values in members]),
        )

    def mixture(self, shares: Mapping[str, float]) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
        """Return mean and standard deviation of the genes of a cohort with these shares of the classes.

        Args:
            shares: of `names`, adding up to 1; a class that is not named has none.

        Returns:
            In standard deviations of the training cases. The variance is that within classes plus that of their means.
        """
        weights = np.array([shares.get(name, 0.0) for name in self.names])
        mean = weights @ self.means
        return mean, np.sqrt(weights @ (self.sds**2 + (self.means - mean) ** 2))

    @property
    def shares(self) -> dict[str, float]:
        """Share of each class among the training cases of all `names`."""
        return {name: count / sum(self.counts) for name, count in zip(self.names, self.counts, strict=True)}

    @property
    def separation(self) -> float:
        """Share of the genes' variance that is between classes, 0 to 1."""
        mean, sd = self.mixture(self.shares)
        between = np.array(list(self.shares.values())) @ (self.means - mean) ** 2
        return float(between.sum() / max(float((sd**2).sum()), 1e-30))

    def to_json(self) -> dict[str, Any]:
        """Names and counts, in plain JSON values."""
        return {"names": list(self.names), "counts": list(self.counts)}

    def arrays(self) -> dict[str, Float32[np.ndarray, "K G"]]:
        """Means and standard deviations, float32, by name."""
        return {f"gene_classes.{name}": getattr(self, name).astype(np.float32) for name in ("means", "sds")}

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any], arrays: Mapping[str, Float32[np.ndarray, "..."]]
    ) -> "GeneClasses | None":
        """Restore from `to_json` and `arrays`; None where the content is empty, as of a task without classes.

        Raises:
            ValueError: names, counts and arrays do not fit together, or numbers are not finite.
        """
        if not content:
            return None
        means, sds = arrays["gene_classes.means"].astype(float), arrays["gene_classes.sds"].astype(float)
        names, counts = tuple(content["names"]), tuple(content["counts"])
        if means.ndim != 2 or means.shape != sds.shape or not len(means) == len(names) == len(counts):
            shapes = f"{means.shape} and {sds.shape}"
            raise ValueError(f"{len(names)} classes with {len(counts)} counts have gene arrays of {shapes}")
        if not np.isfinite([means, sds]).all() or not all(count > 0 for count in counts):
            raise ValueError("genes of classes that are not finite, or classes without cases")
        return cls(names, counts, means, sds)
