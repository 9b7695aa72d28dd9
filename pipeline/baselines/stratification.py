"""Stratified folds, as scikit-learn draws them; its import would take longer than all that is done with them here."""

import numpy as np
from jaxtyping import Int

INNER_FOLDS = 5


def stratified_folds(strata: Int[np.ndarray, " n"], n_folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold that tests each case: those of scikit-learn's `StratifiedKFold`.

    Sorted by stratum, in the order of their first cases, the cases are counted off to the folds, which fixes how many of a
    stratum a fold tests; which of them, is drawn.

    Args:
        strata: the stratum of each case, as a number.
        n_folds: how many.
        seed: of the drawing.
    """
    first, codes = np.unique(strata, return_index=True, return_inverse=True)[1:]
    codes = np.argsort(np.argsort(first))[codes]  # numbered in the order of their first cases
    counted_off = np.arange(len(codes)) % n_folds  # of the sorted cases
    in_order, tested_by = np.sort(codes), np.empty(len(codes), dtype=np.int64)
    draw = np.random.RandomState(seed)
    for code in range(len(first)):
        folds = np.sort(counted_off[in_order == code])
        draw.shuffle(folds)
        tested_by[codes == code] = folds
    return tested_by


def inner_folds(labels: Int[np.ndarray, " m"], seed: int) -> list[tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]]:
    """Five inner folds, stratified by label; fewer where a label has fewer cases.

    Args:
        labels: class numbers of the m cases.
        seed: of the folds.

    Returns:
        For each fold the indices of the a fitted cases and of the b = m − a held-out cases.
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    n_folds = max(2, min(INNER_FOLDS, smallest))
    held_by = stratified_folds(labels, n_folds, seed)
    return [(np.flatnonzero(held_by != fold), np.flatnonzero(held_by == fold)) for fold in range(n_folds)]
