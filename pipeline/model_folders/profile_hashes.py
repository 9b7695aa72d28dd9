"""Salted hashes of gene profiles, by which a case is recognised under another id without its values being kept."""

from collections.abc import Sequence

import numpy as np

from preprocessing.io.fingerprints import fingerprint
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix

N_FEATURES, FEWEST = 20, 10  # that are hashed; fewer are alike by chance
SEEN_FEATURES = 500  # of a large table, evenly spaced, from which they are chosen


def distinctive_features(matrix: OmicsMatrix) -> tuple[str, ...]:
    """Return the molecular features with the most different values, none of them missing; empty where there are too few.

    Args:
        matrix: unscaled features of the cases that are to be recognised.
    """
    is_full = ~np.isnan(matrix.values).any(axis=0) & (np.array(matrix.kinds) != COVARIATE)
    full = np.flatnonzero(is_full).tolist()
    seen = full[:: max(1, len(full) // SEEN_FEATURES)]
    different = {matrix.features[at]: len({f"{value:.3g}" for value in matrix.values[:, at]}) for at in seen}
    enough = len(matrix.case_ids) / 2
    best = sorted((name for name, n in different.items() if n > enough), key=lambda name: (-different[name], name))
    return tuple(best[:N_FEATURES]) if len(best) >= FEWEST else ()


def profile_hashes(matrix: OmicsMatrix, features: Sequence[str], salt: str) -> dict[str, str]:
    """Return the hash of these features of each case that has all of them, by case; to three digits, as tables are rounded.

    Args:
        matrix: unscaled features of the cases.
        features: as `distinctive_features` returns them.
        salt: of all hashes.
    """
    if not features or not set(features) <= set(matrix.features):
        return {}
    values = matrix.values[:, [matrix.features.index(name) for name in features]]
    known = ~np.isnan(values).any(axis=1)
    return {
        case: fingerprint(salt, [f"{value:.3g}" for value in row])
        for case, row, is_known in zip(matrix.case_ids, values, known, strict=True)
        if is_known
    }
