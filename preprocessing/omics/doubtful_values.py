"""Values that are possible one by one, and doubtful together: cases with the same values, and scales that are mixed."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from preprocessing.io.errors import count, some
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix
from preprocessing.omics.value_scale import LARGEST_LOG
from preprocessing.tables.missing_codes import CODES, describe_missing_code

MANY_VALUES = 10  # different ones in a case: cases with few mutations may well be alike
GAP = 10  # between the largest of the logarithms and the least of the other maxima; those of one scale have none
MANY_FEATURES = 50  # of a case, of which the largest is then no logarithm where the others are none
MEASURED = ("rna", "protein", "methylation")  # kinds of which no two features of a case are equal but by chance
ENOUGH = 10  # features on either side of the gap


def doubts(matrix: OmicsMatrix) -> Iterator[str]:
    """Yield a warning for cases with the same values, codes for missing ones, and scales of which only some are logarithms."""
    if not matrix.case_ids:
        return
    kinds = np.array(matrix.kinds)
    for kind in dict.fromkeys(name for name in matrix.kinds if name != COVARIATE):
        at = np.flatnonzero(kinds == kind)
        values = matrix.values[:, at]
        yield from _same_cases(values, matrix.case_ids)
        yield from _missing_codes(values, [matrix.features[i] for i in at])
        if kind in MEASURED:
            yield from _without_differences(values, matrix.case_ids)
        if np.isnan(values).all() or np.nanmin(values) < 0:
            continue
        if len(at) >= MANY_FEATURES:
            yield from _mixed(np.fmax.reduce(values, axis=1), matrix.case_ids, "case", enough=1)
        yield from _mixed(np.fmax.reduce(values, axis=0), [matrix.features[i] for i in at], "feature", enough=ENOUGH)


def _same_cases(values: Float[np.ndarray, "n g"], cases: tuple[str, ...]) -> Iterator[str]:
    groups: dict[bytes, list[str]] = {}
    for case, row in zip(cases, values, strict=True):
        if len(np.unique(row[~np.isnan(row)])) >= MANY_VALUES:
            groups.setdefault((row + 0.0).tobytes(), []).append(case)  # + 0.0: of -0.0 it makes 0.0
    alike = [group for group in groups.values() if len(group) > 1]
    if alike:
        yield (
            f"warning: {sum(map(len, alike))} cases have every value in common with another: "
            f"{some(' = '.join(group) for group in alike)}; if they are samples of one patient, --case-pattern gives them the "
            "patient's id: under different ids a model is tested on patients that it was trained on"
        )


def _missing_codes(values: Float[np.ndarray, "n g"], features: list[str]) -> Iterator[str]:
    """A warning of features with a value such as -999, which may stand for a missing one; 999 may be a count."""
    lowest = np.fmin.reduce(values, axis=0)
    likely = np.flatnonzero(np.isin(lowest, [code for code in CODES if code < -10])).tolist()
    found = {features[i]: code for i in likely if (code := describe_missing_code(values[:, i]))}
    if found:
        first, code = next(iter(found.items()))
        yield f"warning: {count(len(found), 'feature')} ({some(found)}) may have a code for missing values: of {first}, {code}"


def _without_differences(values: Float[np.ndarray, "n g"], cases: tuple[str, ...]) -> Iterator[str]:
    """A warning of cases with one value for all features: nothing was measured, or the row was filled in."""
    if values.shape[1] < MANY_VALUES:
        return
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    flat = [case for case, is_flat in zip(cases, low == high, strict=True) if is_flat]
    if flat:
        yield (
            f"warning: {count(len(flat), 'case')} ({some(flat)}) {'has' if len(flat) == 1 else 'have'} the same value for every "
            "feature, as of a failed sample; leave the row out, or its cells empty"
        )


def _mixed(
    highest: Float[np.ndarray, " n"], names: "tuple[str, ...] | list[str]", noun: str, *, enough: int
) -> Iterator[str]:
    """A warning where some of the largest values may be logarithms, the others are none, and nothing lies between."""
    low: Bool[np.ndarray, " n"] = (highest > 1) & (highest <= LARGEST_LOG)
    high: Bool[np.ndarray, " n"] = highest > LARGEST_LOG
    if min(low.sum(), high.sum()) < enough or highest[high].min() < GAP * highest[low].max():
        return
    few = [name for name, is_low in zip(names, low, strict=True) if is_low]
    yield (
        f"warning: the largest value of {len(few)} of {count(len(names), noun)} ({some(few)}) is {highest[low].max():g} at most, "
        f"that of the others {highest[high].min():g} at least: where some are logarithms and some are not, bring all to one scale"
    )
