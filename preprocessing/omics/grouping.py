"""Groups of features: gene sets, or clusters of correlated genes, then the rest, then each other kind of feature."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from preprocessing.io.errors import InputError, count, some
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.gene_sets import UNGROUPED

MAX_CLUSTERED = 4000  # genes whose full correlation matrix is computed; the others join the nearest cluster


def group_features(
    values: Float[np.ndarray, "n g"],
    names: Sequence[str],
    kinds: Shaped[np.ndarray, " g"],
    matched: Mapping[str, Sequence[str]] | None,
    config: OmicsConfig,
    notes: list[str],
) -> dict[str, list[str]]:
    """Return the features of each group: gene sets or clusters, then the genes in none of them, then each other kind.

    Args:
        values: g features of n training cases, nothing missing.
        names: of the features.
        kinds: of the features, such as `rna`; see `OmicsMatrix`.
        matched: features by gene set; None or empty: clusters of correlated genes.
        config: number of clusters, and what becomes of genes in no set.
        notes: what was decided is appended, one sentence each.

    Raises:
        InputError: no group is left.
    """
    kept = set(names)
    if matched:
        groups = {name: [member for member in members if member in kept] for name, members in matched.items()}
        if empty := [name for name, members in groups.items() if not members]:
            notes.append(f"{len(empty)} gene sets left out, none of their genes varies: {some(empty)}")
        groups = {name: members for name, members in groups.items() if members}
    else:
        groups = _clusters(
            values[:, kinds == "rna"], [n for n, k in zip(names, kinds, strict=True) if k == "rna"], config
        )
        if groups:
            notes.append(
                f"no gene sets given: {count(len(groups), 'group')} by hierarchical clustering of the genes' correlation"
            )
    grouped = {member for members in groups.values() for member in members}
    for kind in dict.fromkeys(kinds.tolist()):
        rest = [name for name, k in zip(names, kinds, strict=True) if k == kind and name not in grouped]
        if rest and kind == "rna":
            fate = "are left out" if config.ungrouped == "drop" else "form the group ungrouped"
            notes.append(f"{count(len(rest), 'gene')} in no set {fate}")
        if rest and not (kind == "rna" and config.ungrouped == "drop"):
            groups[UNGROUPED if kind == "rna" else kind] = rest
    if not groups:
        raise InputError("genes: no group is left; give gene sets that fit the table, or set omics.ungrouped to group")
    return groups


def _clusters(values: np.ndarray, names: list[str], config: OmicsConfig) -> dict[str, list[str]]:
    """Ward clusters of genes by correlation distance √(2 − 2r); beyond the most variable genes, each joins the nearest cluster."""
    if len(names) <= config.n_clusters:
        return {f"cluster_{i + 1}": [name] for i, name in enumerate(names)}
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    unit = values - values.mean(axis=0)
    length = np.sqrt((unit**2).sum(axis=0))
    unit = unit / length  # (cases, genes): columns of length 1, whose products are correlations
    core = np.sort(np.argsort(-length, kind="stable")[:MAX_CLUSTERED])
    distance = np.sqrt(np.clip(2 - 2 * (unit[:, core].T @ unit[:, core]), 0, None))
    np.fill_diagonal(distance, 0)
    labels = fcluster(linkage(squareform(distance, checks=False), "ward"), config.n_clusters, "maxclust")
    centres = np.stack(
        [unit[:, core[labels == label]].mean(axis=1) for label in np.unique(labels)]
    )  # (clusters, cases)
    nearest_centre = np.argmax(centres @ unit, axis=0)
    nearest_centre[core] = np.searchsorted(np.unique(labels), labels)
    order = list(dict.fromkeys(nearest_centre.tolist()))  # by the first gene, so that names do not depend on scipy
    return {
        f"cluster_{i + 1}": [name for name, c in zip(names, nearest_centre, strict=True) if c == cluster]
        for i, cluster in enumerate(order)
    }
