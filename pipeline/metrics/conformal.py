"""Conformal prediction sets: the classes that a case may have, with a promised coverage.

The score of a class is 1 − its probability (LAC: Sadinle, Lei & Wasserman 2019, "Least ambiguous set-valued classifiers
with bounded error levels", JASA 114), and a set holds every class whose score is at most the threshold: the
⌈(n + 1)·90 %⌉-th smallest score of the true class among n calibration cases. For cases that are exchangeable with those,
scored by the same model, at least 90 % of the sets hold the true class, over all cases, not within each class.

Calibration cases are out-of-fold: each was scored by a model that had not seen it. A tested case of a training run is
calibrated on the cases of the other folds. For new cases the final model replaces the fold models: it
was trained on more cases than each of them, and the coverage then holds as far as it scores new cases no worse than they
did; this is checked, not proven (cf. Vovk 2015, "Cross-conformal predictors", Ann. Math. Artif. Intell. 74).

A set is never empty: the likeliest class is always in it, which can only raise the coverage. With fewer than nine
calibration cases nothing can be promised but all classes.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

COVERAGE = 0.9
COLUMN = f"set_{100 * COVERAGE:.0f}"


def threshold(scores: Float[np.ndarray, " n"], *, coverage: float = COVERAGE) -> float:
    """The largest score that a set lets in; infinite where there are too few scores for the coverage."""
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def thresholds(scores: Float[np.ndarray, " n"] | Float[np.ndarray, "n L"]) -> Float[np.ndarray, "..."]:
    """The threshold of each of L labels, from the cases whose label is known (no NaN); of a single one a scalar."""
    if scores.ndim == 1:
        return np.array(threshold(scores))
    return np.array([threshold(column[~np.isnan(column)]) for column in scores.T])


def prediction_sets(
    probabilities: Float[np.ndarray, "n k"], thresholds: Float[np.ndarray, " n"], classes: Sequence[str]
) -> list[str]:
    """The classes of each case's set, the likeliest first, separated by `;`.

    Args:
        probabilities: of the K classes.
        thresholds: of each case.
        classes: their names.
    """
    sets = []
    for row, limit in zip(probabilities, thresholds, strict=True):
        order = np.argsort(-row, kind="stable")
        sets.append(";".join(classes[k] for i, k in enumerate(order) if i == 0 or 1 - row[k] <= limit))
    return sets


def contains(classes: str, label: str) -> bool:
    """Whether a set, written as `prediction_sets` returns it, contains the class."""
    return label in classes.split(";")
