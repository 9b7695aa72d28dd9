"""A new cohort on the scale of the training cohort: per-gene standardisation or rank mapping within the new cohort.

Expression measured on another platform (array against RNA-seq), or prepared in another way (log2 against z-scores), has its own
location and spread of each gene. All methods keep the order of the cases in each gene. Two of them assume that the new cohort is
composed like the training cohort: in a cohort of glioblastomas only, they erase what glioblastomas have in common. The third,
`matched`, is given targets of a training cohort that is composed like the new one (`pipeline.inference.composition`).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from preprocessing.io.errors import InputError
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler, are_counts, winsorise

Method = Literal["none", "cohort", "rank", "matched"]
MIN_CASES = 20  # whose mean and spread can stand for a cohort's
CLIP = 5.0  # robust standard deviations, as in the scaler


class Target(NamedTuple):
    """Location and spread of a gene among training cases, after the logarithm where it is taken."""

    centre: float
    scale: float
    logged: bool


def targets_of(scalers: list[OmicsScaler]) -> dict[str, Target]:
    """Return the training distribution of each feature, from the first scaler that has it."""
    targets: dict[str, Target] = {}
    for scaler in scalers:
        for position, name in enumerate(scaler.features):
            found = Target(float(scaler.centre[position]), float(scaler.scale[position]), bool(scaler.logged[position]))
            targets.setdefault(name, found)
    return targets


def rescale(matrix: OmicsMatrix, targets: Mapping[str, Target], method: Method) -> OmicsMatrix:
    """Return the matrix with its expression values on the scale of the training cohort.

    Args:
        matrix: unscaled features of the new cohort.
        targets: distribution of each feature in training; other features stay as they are.
        method: cohort and matched: (x − mean) / sd of the new cohort, outliers winsorised; rank: normal quantiles of the ranks;
            none: nothing.

    Raises:
        InputError: fewer than `MIN_CASES` cases, of which no mean and spread can be taken.
    """
    at = [i for i, name in enumerate(matrix.features) if matrix.kinds[i] == "rna" and name in targets]
    if method == "none" or not at:
        return matrix
    if len(matrix.case_ids) < MIN_CASES:
        raise InputError(
            f"--rescale {method}: {len(matrix.case_ids)} cases are too few to stand for a cohort; give at least {MIN_CASES}, or "
            "values on the scale of the training cohort"
        )
    values = matrix.values.copy()
    block = values[:, at]
    rna = matrix.values[:, [kind == "rna" for kind in matrix.kinds]]
    block = np.log2(block + 1) if are_counts(rna) else block
    scores = _normal_scores(block) if method == "rank" else _standardised(block)
    target = [targets[matrix.features[position]] for position in at]
    mapped = np.array([one.centre for one in target]) + np.array([one.scale for one in target]) * scores
    logged = np.array([one.logged for one in target])
    values[:, at] = np.where(logged, np.maximum(np.exp2(np.where(logged, mapped, 0.0)) - 1, 0), mapped)
    return OmicsMatrix(values, matrix.case_ids, matrix.features, matrix.kinds)


def robust_mean_sd(values: Float[np.ndarray, "n g"]) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Return mean and sd of each column by winsorised estimates; missing values count as the median."""
    filled = np.where(np.isnan(values), np.nanmedian(values, axis=0, keepdims=True), values)
    drawn_in = winsorise(filled, CLIP)
    return drawn_in.mean(axis=0), drawn_in.std(axis=0)


def _standardised(values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n g"]:
    """Scores of mean 0 and sd 1 in each column by winsorised estimates; 0 in a constant column, NaN where missing."""
    mean, sd = robust_mean_sd(values)
    scores = (values - mean) / np.where(sd > 0, sd, 1.0)
    return np.where((sd > 0) | np.isnan(values), scores, 0.0)


def _normal_scores(values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n g"]:
    """Normal quantiles of (rank − ½) / n in each column (Blom's family), NaN where missing."""
    from scipy.special import ndtri  # scipy.stats takes long to import

    ranks = pd.DataFrame(values).rank().to_numpy()
    return ndtri((ranks - 0.5) / np.maximum((~np.isnan(values)).sum(axis=0), 1))
