"""Scales and thresholds of a training cohort, both from training cases that were held out.

Distances of the very cases that a space was fitted on are too small, hence every case is measured by a space, and scored by
scales, fitted on other cases. A pair of thresholds on the largest deviation of a case holds its error rates whatever the
number of measures.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.ood.measures import MEASURES, deviation
from pipeline.ood.reference_space import ReferenceSpace

N_PARTS = 10  # of the training cases, each held out once
LEVELS = (0.95, 0.99)  # shares of cases like the training cases that lie within the first and the second threshold


class Scale(NamedTuple):
    """Distribution of a measure over held-out training cases, in the measure's unit.

    Attributes:
        centre: median.
        sd: robust standard deviation; see `fit_scales`.
    """

    centre: float
    sd: float


def assign_parts(cases: Iterable[str]) -> dict[str, int]:
    """Assign each case to one of `N_PARTS` parts at random; the order of the cases does not matter."""
    ids = np.random.default_rng(0).permutation(sorted(cases))
    return {str(case): i % N_PARTS for i, case in enumerate(ids)}


def held_out_measures(
    vectors: Float[np.ndarray, "n D"],
    cases: Sequence[str],
    parts: Mapping[str, int],
    measure: Callable[[ReferenceSpace, Sequence[int]], pd.DataFrame],
) -> pd.DataFrame:
    """Measure every row by a space that was fitted without its part.

    Args:
        vectors: of slides or cases, (n, D).
        cases: the case of each row.
        parts: the part of each case.
        measure: computes the measures of some rows, given a space.

    Returns:
        A row for each vector, indexed by case, part by part.
    """
    part_of = np.array([parts[case] for case in cases])
    tables = []
    for part in np.unique(part_of):
        rows = np.flatnonzero(part_of == part).tolist()
        table = measure(ReferenceSpace.fit(vectors[part_of != part]), rows)
        tables.append(table.set_axis([cases[i] for i in rows]))
    return pd.concat(tables)


def fit_scales(measures: pd.DataFrame) -> dict[str, Scale]:
    """Fit the scale of each measure that has any value.

    The standard deviation is the larger of half the central 68 % and 1/3.92 of the central 95 %, so that a few outliers do not
    widen it but heavy tails do; it is at least `Measure.min_sd`.
    """
    scales = {}
    for name in measures.columns[measures.notna().any()]:
        low, left, centre, right, high = np.nanquantile(measures[name], [0.025, 0.16, 0.5, 0.84, 0.975])
        sd = max((right - left) / 2, (high - low) / 3.92, MEASURES[name].min_sd)
        scales[name] = Scale(float(centre), float(sd))
    return scales


def largest_deviations(measures: pd.DataFrame, parts: Mapping[str, int]) -> pd.Series:
    """Find the largest deviation of each row, in standard deviations, by scales that were fitted without its part.

    Args:
        measures: as `held_out_measures` returns them.
        parts: the part of each case.

    Returns:
        Deviations of 0 or more, in the order and with the index of `measures`.
    """
    part_of = np.array([parts[case] for case in measures.index])
    largest = np.zeros(len(measures))
    for part in np.unique(part_of):
        held_out = measures[part_of == part]
        scales = fit_scales(measures[part_of != part])
        sizes = [
            deviation(((held_out[name] - scale.centre) / scale.sd).to_numpy(), MEASURES[name])
            for name, scale in scales.items()
        ]
        largest[part_of == part] = np.nanmax(sizes, axis=0)
    return pd.Series(largest, index=measures.index)


def fit_thresholds(largest: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Fit the deviations that 95 % and 99 % of further cases stay within, if they are exchangeable with these.

    With enough cases, this is the rank that split-conformal prediction takes (Papadopoulos et al., ECML 2002); with fewer, the
    upper limit of a prediction interval of the logarithm under a normal distribution.

    Args:
        largest: the largest deviation of each held-out case, in standard deviations; at least two.

    Returns:
        The two thresholds, in standard deviations; the second is no smaller than the first.
    """
    from scipy.special import stdtrit  # scipy.stats takes long to import

    n, ordered, logs = len(largest), np.sort(largest), np.log(np.maximum(largest, 1e-3))
    thresholds = []
    for level in LEVELS:
        rank = math.ceil((n + 1) * level)
        margin = stdtrit(n - 1, level) * logs.std(ddof=1) * math.sqrt(1 + 1 / n)
        thresholds.append(float(ordered[rank - 1] if rank <= n else math.exp(logs.mean() + margin)))
    return thresholds[0], max(thresholds)
