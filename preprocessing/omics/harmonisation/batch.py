"""Expression of several cohorts on one scale: the mean and sd of each gene in each cohort are brought to those of one of them.

Location and scale by cohort are what ComBat (Johnson, Li, Rabinovic, Biostatistics 2007) adjusts, which also shrinks them over
genes: that matters in batches of a few cases, and a cohort on another scale needs `rescale.MIN_CASES`. As with ComBat, what
cohorts differ in by their composition is erased too: of a cohort of glioblastomas and one of lower-grade gliomas, a part of
the grade.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from preprocessing.omics.harmonisation.rescale import MIN_CASES, robust_mean_sd
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import are_counts

OTHER_MEAN = 0.5  # sd: at the median gene, between means on different scales; LGG and GBM of the TCGA on one: 0.13
OTHER_SD = 2.0  # ratio of sds at the median gene
# Between the means of the largest cohort and those of a few cases, in sd of the former at the median gene: single cases of
# TCGA's GBM and LGG lie up to 1.0 from all others, five of them 0.5.
FAR = 2.0


class GeneScale(NamedTuple):
    """Mean and sd of each gene in one cohort, after log2(x + 1) where its values are counts."""

    centre: Float[np.ndarray, " genes"]
    sd: Float[np.ndarray, " genes"]
    logged: bool

    @classmethod
    def of(cls, values: Float[np.ndarray, "cases genes"]) -> "GeneScale":
        """Estimate the scale from unscaled values, outliers winsorised; a gene without a value, or that is constant, has sd 1."""
        logged = are_counts(values)
        known = ~np.isnan(values).all(axis=0)
        centre, sd = np.zeros(values.shape[1]), np.ones(values.shape[1])
        centre[known], found = robust_mean_sd((np.log2(values + 1) if logged else values)[:, known])
        sd[known] = np.where(found > 0, found, 1.0)
        return cls(centre, sd, logged)

    def standardised(self, values: Float[np.ndarray, "cases genes"]) -> Float[np.ndarray, "cases genes"]:
        """Return the values in sd from the mean."""
        return ((np.log2(values + 1) if self.logged else values) - self.centre) / self.sd

    def restored(self, scores: Float[np.ndarray, "cases genes"]) -> Float[np.ndarray, "cases genes"]:
        """Return values of this cohort's scale from scores in sd."""
        values = self.centre + self.sd * scores
        return np.maximum(np.exp2(values) - 1, 0) if self.logged else values


def scales_differ(matrix: OmicsMatrix, cohort_of: Mapping[str, str]) -> str:
    """Say how expression is on another scale in some cohort than in the largest one; "" where all are on one scale.

    Args:
        matrix: unscaled features of all cases.
        cohort_of: the cohort of each case.
    """
    if "rna" not in matrix.kinds:
        return ""
    found = CohortScales.fit(matrix, cohort_of, matrix.case_ids)
    largest = found.scales[found.reference]
    small = small_cohorts(matrix, cohort_of)
    for name, scale in found.scales.items():
        if scale.logged != largest.logged:
            with_counts, without = (name, found.reference) if scale.logged else (found.reference, name)
            return f"{with_counts} has counts, {without} has not"
        if name in small:
            away = np.median(np.abs(scale.centre - largest.centre) / largest.sd)
            if away > FAR:
                return f"means of {found.reference} and {name} differ by {away:.2g} sd at the median gene"
            continue
        distance = np.median(np.abs(scale.centre - largest.centre) / np.sqrt((scale.sd**2 + largest.sd**2) / 2))
        ratio = np.exp2(np.median(np.abs(np.log2(scale.sd / largest.sd))))
        if distance > OTHER_MEAN or ratio > OTHER_SD:
            return (
                f"means of {found.reference} and {name} differ by {distance:.2g} sd at the median gene, sds by a factor of "
                f"{ratio:.2g}"
            )
    return ""


def small_cohorts(matrix: OmicsMatrix, cohort_of: Mapping[str, str]) -> dict[str, int]:
    """Return the number of cases of the cohorts that have too few of them to tell their scale."""
    names, counts = np.unique([cohort_of[case] for case in matrix.case_ids], return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True) if count < MIN_CASES}


@dataclass(frozen=True)
class CohortScales:
    """Scale of each gene in each of several cohorts, estimated from training cases.

    Attributes:
        features: names of the genes.
        reference: the cohort to whose scale the others are brought: that with the most training cases.
        scales: by cohort. One with too few training cases has that of all its cases, as a new cohort has with `--rescale cohort`.
    """

    features: tuple[str, ...]
    reference: str
    scales: Mapping[str, GeneScale]

    @classmethod
    def fit(cls, matrix: OmicsMatrix, cohort_of: Mapping[str, str], train: Sequence[str]) -> "CohortScales":
        """Estimate the scales of expression.

        Args:
            matrix: unscaled features of all cases.
            cohort_of: the cohort of each case.
            train: the training cases; only they count in cohorts that have at least `rescale.MIN_CASES` of them.
        """
        genes = [i for i, kind in enumerate(matrix.kinds) if kind == "rna"]
        cohorts = np.array([cohort_of[case] for case in matrix.case_ids])
        is_train = np.isin(matrix.case_ids, list(train))
        names, counts = np.unique(cohorts[is_train], return_counts=True)
        scales = {}
        for name in dict.fromkeys(cohorts.tolist()):
            enough = (cohorts[is_train] == name).sum() >= MIN_CASES
            rows = (cohorts == name) & (is_train if enough else True)
            scales[name] = GeneScale.of(matrix.values[rows][:, genes])
        reference = str(names[int(np.argmax(counts))])
        return cls(tuple(matrix.features[i] for i in genes), reference, scales)

    def apply(self, matrix: OmicsMatrix, cohort_of: Mapping[str, str]) -> OmicsMatrix:
        """Return the matrix with the expression of all cohorts on the scale of the reference."""
        column = {name: i for i, name in enumerate(matrix.features)}
        genes = np.array([column[name] for name in self.features], int)
        cohorts = np.array([cohort_of[case] for case in matrix.case_ids])
        values = matrix.values.copy()
        for name, scale in self.scales.items():
            rows = np.flatnonzero(cohorts == name)
            if name != self.reference and len(rows):
                block = np.ix_(rows, genes)
                values[block] = self.scales[self.reference].restored(scale.standardised(values[block]))
        return OmicsMatrix(values, matrix.case_ids, matrix.features, matrix.kinds)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which `from_json` makes the same scales."""
        scales = {
            name: {"centre": one.centre.tolist(), "sd": one.sd.tolist(), "logged": one.logged}
            for name, one in self.scales.items()
        }
        return {"features": list(self.features), "reference": self.reference, "scales": scales}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "CohortScales":
        """Restore the scales from `to_json`."""
        scales = {
            name: GeneScale(np.array(one["centre"]), np.array(one["sd"]), bool(one["logged"]))
            for name, one in described["scales"].items()
        }
        return cls(tuple(described["features"]), described["reference"], scales)
