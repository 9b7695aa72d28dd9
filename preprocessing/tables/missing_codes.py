"""Numbers that stand for a missing value, as -999 or 9: the codes of registries and of statistics programs."""

from collections.abc import Iterable

import numpy as np

from preprocessing.io.errors import count

CODES = tuple(sign * (10**digits - 1) for digits in range(1, 7) for sign in (1, -1))
ENOUGH = 10  # other values, to tell that a code lies outside of them


def describe_missing_code(values: Iterable[float]) -> str:
    """Describe the least or largest value where it may stand for a missing one, with the remedy; "" where neither does.

    It is a number of nines, and further from the others than these are from each other.

    Args:
        values: numbers of the cases, NaN where missing.
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return ""
    for code in (known.min(), known.max()):
        others = known[known != code]
        if code not in CODES or len(others) < ENOUGH:
            continue
        low, high = others.min(), others.max()
        if max(low - code, code - high) > high - low > 0:
            return (
                f"{code:g} in {count(len(known) - len(others), 'case')} lies far from all other values ({low:g} to {high:g}); "
                "if it stands for a missing value, leave the cell empty"
            )
    return ""
