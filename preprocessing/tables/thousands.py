"""Numbers whose thousands are separated by points, as spreadsheets set to continental Europe write them: 2.083 for 2083."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

_WITH_POINTS = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")
_BELOW_THOUSAND = re.compile(r"[-+]?\d{1,3}")
SEEN_ROWS = 2_000  # in which a column must look so before its text is read again
CERTAIN, POSSIBLE, DECIMALS = "certain", "possible", "decimals"
ENOUGH = 3  # numbers with points, and numbers without: eighths such as 1.125 beside a 2 are decimals


def read_thousands(frame: pd.DataFrame, read_text: Callable[[list[int]], pd.DataFrame]) -> list[int]:
    """Read columns as whole numbers, in place, where points separate thousands.

    They do where every number is either whole and below a thousand, or has a point and exactly three digits after it: among
    decimals some would end in a zero, which is not written, and none would be whole. Where one column is of this kind and no
    other has decimals, a column with too few numbers to tell is read in the same way.

    Args:
        frame: cells by position, as numbers.
        read_text: returns the columns at these positions as text.

    Returns:
        Positions of the columns that were changed.
    """
    numeric = np.flatnonzero([dtype.kind == "f" for dtype in frame.dtypes])
    head = np.abs(np.nan_to_num(frame.iloc[:SEEN_ROWS].iloc[:, numeric].to_numpy(float)))
    is_whole = head == np.floor(head)
    small = np.minimum(head, 1000.0)
    fits = (small >= 1) & (small < 1000) & (np.abs(small * 1000 - np.rint(small * 1000)) < 1e-6)
    may = ((is_whole & (small < 1000)) | fits).all(axis=0) & ~is_whole.all(axis=0)
    certain = may & ((~is_whole).sum(axis=0) >= ENOUGH) & ((is_whole & (head > 0)).sum(axis=0) >= ENOUGH)
    if not certain.any():
        return []
    texts = read_text([int(position) for position in numeric[may]])
    kinds = {int(position): _kind(texts[position].dropna()) for position in numeric[may]}
    if CERTAIN not in kinds.values():
        return []
    has_decimals = DECIMALS in kinds.values() or (~may & ~is_whole.all(axis=0)).any()
    changed = [at for at, kind in kinds.items() if kind == CERTAIN or (kind == POSSIBLE and not has_decimals)]
    for position in changed:
        frame[position] = texts[position].str.replace(".", "", regex=False).astype(float).to_numpy()
    return changed


def _kind(texts: pd.Series) -> str:
    """Whether the numbers have separators of thousands for certain, possibly, or decimals."""
    with_points = texts.map(lambda text: _WITH_POINTS.fullmatch(text) is not None)
    below = texts.map(lambda text: _BELOW_THOUSAND.fullmatch(text) is not None)
    if not (with_points | below).all():
        return DECIMALS
    above_zero = below & (texts.str.strip("+-0") != "")
    return CERTAIN if min(with_points.sum(), above_zero.sum()) >= ENOUGH else POSSIBLE
