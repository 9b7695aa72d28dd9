"""The scale of molecular values, guessed from the values: counts, TPM, log2, z-scores, beta values, copy numbers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preprocessing.io.errors import count, some
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix

SAMPLED_VALUES = 2_000_000
FIRST_CASES = 5  # of which one value that is no small whole number shows that a table holds expression
LARGEST_LOG = 30  # log2 of any expression measure stays below it
PER_MILLION = 1_000_000
LARGEST_PERCENT = 100


@dataclass(frozen=True)
class ValueScale:
    """Values of a table in brief.

    Attributes:
        name: counts, TPM, FPKM or intensities, log2, z-scores, beta values, 0/1, copy numbers, …; "unknown" without a value.
        low: the smallest value.
        high: the largest value.
        missing: share of missing values, in [0, 1].
    """

    name: str
    low: float
    high: float
    missing: float

    def describe(self) -> str:
        """Return one phrase, as "values −3.1 to 4.2, 0.5 % missing, probably z-scores"."""
        return f"values {self.low:g} to {self.high:g}, {self.missing:.1%} missing, probably {self.name}".replace(
            "%", " %"
        )


def guess_scale(values: Float[np.ndarray, "cases features"], *, kind: str = "rna") -> ValueScale:
    """Return range, share of missing values and probable scale of a table of one kind of features, as `rna` or `cnv`."""
    n_missing = int(np.isnan(values).sum())
    if n_missing == values.size:
        return ValueScale("unknown", float("nan"), float("nan"), 1.0 if values.size else 0.0)
    missing = n_missing / values.size
    low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    there = np.ravel(values, order="K")[:: max(1, values.size // SAMPLED_VALUES)]
    there = there[~np.isnan(there)]
    if not there.size:
        there = values[~np.isnan(values)]
    name = _name_of_kind(kind, there, low, high) or _name(values, there, low, high)
    return ValueScale(name, low, high, missing)


def _name_of_kind(kind: str, there: np.ndarray, low: float, high: float) -> str | None:
    """The scale of copy numbers, methylation and mutations; None for expression, and where the values fit any kind."""
    whole = bool((there == np.round(there)).all())
    if kind == "cnv" and not (whole and -2 <= low < 0 and high <= 2):
        return "0/1" if whole and 0 <= low <= high <= 1 else "log2 ratios" if low < 0 else "numbers of copies"
    if kind == "methylation" and not 0 <= low <= high <= 1:
        return "M-values" if low < 0 else "percent" if high <= LARGEST_PERCENT else "intensities"
    if kind == "mutation" and not (whole and 0 <= low <= high <= 1):
        return (
            "numbers of mutations"
            if whole and low >= 0
            else "fractions of alleles"
            if 0 <= low <= high <= 1
            else "scores"
        )
    return None


def _name(values: np.ndarray, there: np.ndarray, low: float, high: float) -> str:
    whole = bool((there == np.round(there)).all())
    if whole and set(np.unique(there[:100_000])) <= {0.0, 1.0} and low >= 0 and high <= 1:
        return "0/1 (mutations)"
    if whole and low >= -2 and high <= 2 and low < 0:
        return "copy numbers (GISTIC)"
    if low >= 0 and high <= 1:
        return "beta values"
    if low < 0:
        return (
            "z-scores" if abs(np.median(there)) < 0.5 and 0.3 < np.percentile(np.abs(there), 68) < 2 else "log2 ratios"
        )
    if high <= LARGEST_LOG:
        return "log2"
    if whole:
        return "counts"
    totals = np.nansum(values, axis=1)
    return (
        "TPM"
        if values.shape[1] > 1000 and np.all(np.abs(totals / PER_MILLION - 1) < 0.1)
        else "FPKM, TPM or intensities"
    )


def kind_of_values(values: Float[np.ndarray, "cases features"]) -> str | None:
    """Return mutation for values of 0 and 1, cnv for whole numbers from -2 to 2 (GISTIC); None where any kind is possible."""
    first = values[:FIRST_CASES]
    if not np.isin(first[~np.isnan(first)], range(-2, 3)).all():
        return None
    scale = guess_scale(values)
    return (
        {"0/1 (mutations)": "mutation", "copy numbers (GISTIC)": "cnv"}.get(scale.name)
        if scale.low < scale.high
        else None
    )


def describe_features(matrix: OmicsMatrix) -> list[str]:
    """Return one sentence per kind of feature: number of cases, first ids, first features, range, missing share, scale."""
    kinds = np.array(matrix.kinds)
    sentences = []
    for kind in dict.fromkeys(name for name in matrix.kinds if name != COVARIATE):
        at = np.flatnonzero(kinds == kind)
        names = [matrix.features[position] for position in at[:4]]
        block = matrix.values if len(at) == len(kinds) else matrix.values[:, at]
        scale = guess_scale(block, kind=kind)
        sentences.append(
            f"{kind}: {count(len(matrix.case_ids), 'case')} ({some(matrix.case_ids)}) × {count(len(at), 'feature')} "
            f"({some(names)}), " + scale.describe()
        )
        empty = np.isnan(block)
        for what, n in (("cases", int(empty.all(axis=1).sum())), ("features", int(empty.all(axis=0).sum()))):
            if n:
                sentences.append(
                    f"warning: {kind}: {n} of {block.shape[what == 'features']} {what} have no value at all"
                )
    return sentences
