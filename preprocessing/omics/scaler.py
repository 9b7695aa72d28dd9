"""The matrix of features becomes scaled arrays, one for each group of features.

Whatever is learnt from values (log or not, medians, means, clusters) is learnt from the matrix given to
`OmicsScaler.fit`, which must hold training cases alone.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from models.settings import Settings
from preprocessing.io.errors import InputError, some
from preprocessing.omics.gene_sets import UNGROUPED, match_sets
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix

logger = logging.getLogger(__name__)

COUNTS_BEYOND = 50  # log2 of any expression measure stays below 30
LARGEST_LOG = 30
MAX_CLUSTERED = 4000  # genes whose full correlation matrix is taken; the others join the nearest cluster
BINARY_SCALE = 0.5  # the largest standard deviation of a 0/1 column: a rare mutation is not blown up to 10 sd


class OmicsConfig(Settings):
    """How tables of genes are scaled and grouped."""

    scaling: Literal["standard", "minmax"] = Field(
        default="standard",
        description="standard: each gene by its mean and sd; minmax: the whole table to [−1, 1], zeros kept",
    )
    clip: float = Field(default=5.0, gt=0, description="standard scaling: largest distance from the mean, in sd")
    axes: Literal["principal", "genes"] = Field(
        default="principal",
        description="what a model is shown of a group: its genes turned to their principal axes, or the genes themselves",
    )
    log: Literal["auto", "always", "never"] = Field(
        default="auto", description="log2(x + 1) of expression; auto: of counts"
    )
    ungrouped: Literal["group", "drop"] = Field(
        default="group", description="genes in no set: a group of their own, or left out"
    )
    empty_sets: Literal["error", "drop"] = Field(default="error", description="gene sets without a gene in the table")
    n_clusters: int = Field(default=6, ge=1, description="groups where no gene sets are given")
    min_group: int = Field(default=1, ge=1, description="smaller gene sets are dissolved")
    max_missing: float = Field(
        default=0.5, ge=0, le=1, description="features missing in more of the training cases are left out"
    )
    ignore: tuple[str, ...] = Field(default=(), description="columns of the gene table that are not to be used")


@dataclass(frozen=True)
class OmicsScaler:
    """What was learnt from the training cases, and all that a trained model needs to take in another table.

    Attributes:
        groups: features of each group; they may overlap.
        features: those that are used.
        fill: what a missing value becomes, before scaling (after the log).
        centre, scale: value → (value − centre) / scale.
        limit: scaled values are clipped to ± this; infinite for features that are not clipped.
        keeps_zero: features of which a 0 stays 0 (min-max scaling).
        logged: features of which log2(x + 1) is taken.
        expects_counts: None where logging was the user's choice, else whether the training table held counts.
        notes: what was decided.
        axes: of each group, the directions (g, k) that its scaled features are turned to, orthonormal; None where models
            are shown the features themselves.
    """

    groups: dict[str, list[str]]
    features: tuple[str, ...]
    fill: Float[np.ndarray, " features"]
    centre: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    limit: Float[np.ndarray, " features"]
    keeps_zero: Bool[np.ndarray, " features"]
    logged: Bool[np.ndarray, " features"]
    expects_counts: bool | None
    notes: list[str]
    axes: tuple[Float[np.ndarray, "g k"], ...] | None = None

    @classmethod
    def fit(
        cls, matrix: OmicsMatrix, groups: Mapping[str, Sequence[str]] | None, config: OmicsConfig | None = None
    ) -> "OmicsScaler":
        """The scaler and the groups that these cases give.

        Args:
            matrix: training cases, and no others.
            groups: gene sets; None: clusters of correlated genes.
            config: how to scale and group.

        Raises:
            InputError: a set without a gene in the matrix; no feature that varies.
        """
        config, notes = config or OmicsConfig(), list[str]()
        matched = groups and match_sets(
            groups, matrix.features, matrix.kinds, table="the gene table", empty=config.empty_sets
        )
        kinds, values = np.array(matrix.kinds), matrix.values.copy()
        counts = looks_like_counts(values[:, kinds == "rna"])
        logged = (kinds == "rna") & (config.log == "always" or (config.log == "auto" and counts))
        _log(values, logged, np.array(matrix.features))
        if logged.any():
            notes.append(f"log2(x + 1) taken of {logged.sum()} genes" + (": the table holds counts" if counts else ""))
        extremes = _extremes(values, kinds)
        kept = _varying(values, matrix.features, config, notes)
        values, kinds, logged = values[:, kept], kinds[kept], logged[kept]
        names = tuple(matrix.features[i] for i in kept)
        fill = np.nanmedian(values, axis=0)
        values = np.where(np.isnan(values), fill, values)
        resolved = _groups(values, names, kinds, matched, config, notes)
        keep = np.isin(names, [name for members in resolved.values() for name in members])
        scaling = _scaling(values, kinds, config, extremes)
        scaler = cls(
            groups=resolved,
            features=tuple(np.array(names)[keep].tolist()),
            fill=fill[keep],
            centre=scaling["centre"][keep],
            scale=scaling["scale"][keep],
            limit=scaling["limit"][keep],
            keeps_zero=scaling["keeps_zero"][keep],
            logged=logged[keep],
            expects_counts=counts if config.log == "auto" and (kinds == "rna").any() else None,
            notes=notes,
        )
        if config.axes == "genes":
            return scaler
        return replace(scaler, axes=tuple(principal_axes(group) for group in scaler.transform(matrix)))

    @property
    def group_dims(self) -> list[int]:
        """Width of each group as a model sees it."""
        if self.axes is not None:
            return [axes.shape[1] for axes in self.axes]
        return [len(members) for members in self.groups.values()]

    @property
    def covariates(self) -> int | None:
        """Number of the group of clinical covariates, if there is one."""
        return list(self.groups).index(COVARIATE) if COVARIATE in self.groups else None

    def missing(self, matrix: OmicsMatrix) -> list[str]:
        """The features that the scaler knows and the matrix lacks: they are imputed."""
        there = set(matrix.features)
        return [name for name in self.features if name not in there]

    def aligned(self, matrix: OmicsMatrix) -> Float[np.ndarray, "cases features"]:
        """The used features as the matrix has them, NaN where it lacks them.

        Raises:
            InputError: no feature in common; counts where the scaler saw none, or the reverse.
        """
        column = {name: position for position, name in enumerate(matrix.features)}
        there = np.array([name in column for name in self.features])
        if not there.any():
            raise InputError(
                f"genes: none of the {len(there)} features that the model was trained on ({some(self.features)}) is in "
                f"the table ({some(matrix.features)}); use the same gene names, or give none in place of the table"
            )
        self._check_counts(matrix)
        values = np.full((len(matrix.case_ids), len(there)), np.nan)
        values[:, there] = matrix.values[:, [column[name] for name in self.features if name in column]]
        return values

    def missing_share(self, matrix: OmicsMatrix) -> Float[np.ndarray, "cases groups"]:
        """Which share of each group's features each case lacks: NaN in the matrix, or not there at all."""
        absent = np.isnan(self.aligned(matrix))
        column = {name: position for position, name in enumerate(self.features)}
        shares = [absent[:, [column[name] for name in members]].mean(axis=1) for members in self.groups.values()]
        return np.stack(shares, axis=1)

    def scaled(self, matrix: OmicsMatrix) -> Float[np.ndarray, "cases features"]:
        """The used features, scaled, float64, nothing missing; InputError as `aligned`."""
        values = self.aligned(matrix)
        if missing := self.missing(matrix):
            logger.debug("genes: %d missing, imputed: %s", len(missing), some(missing))
        _log(values, self.logged, np.array(self.features))
        return self._imputed(values)

    def transform(self, matrix: OmicsMatrix) -> list[Float[np.ndarray, "cases k"]]:
        """One float32 array for each group, in the order of `groups`: see `scaled`, then turned to `axes` if there are."""
        return self._grouped(self.scaled(matrix))

    def average(self) -> list[Float[np.ndarray, " k"]]:
        """Each group of a case of which nothing is known: every feature as if it were missing."""
        return [group[0] for group in self._grouped(self._imputed(np.full((1, len(self.features)), np.nan)))]

    def _imputed(self, values: Float[np.ndarray, "cases features"]) -> Float[np.ndarray, "cases features"]:
        values = np.where(np.isnan(values), self.fill, values)
        scaled = np.clip((values - self.centre) / self.scale, -self.limit, self.limit)
        return np.where(self.keeps_zero & (values == 0), 0.0, scaled)

    def _grouped(self, scaled: Float[np.ndarray, "cases features"]) -> list[Float[np.ndarray, "cases k"]]:
        values = scaled.astype(np.float32)
        column = {name: position for position, name in enumerate(self.features)}
        groups = [values[:, [column[name] for name in members]] for members in self.groups.values()]
        return groups if self.axes is None else [x @ axes for x, axes in zip(groups, self.axes, strict=True)]

    def _check_counts(self, matrix: OmicsMatrix) -> None:
        """Logged values and counts are not mixed up between the training table and this one."""
        rna = matrix.values[:, np.array(matrix.kinds) == "rna"]
        if not rna.size or np.isnan(rna).all():
            return
        if self.expects_counts is False and looks_like_counts(rna) and np.nanquantile(rna, 0.99) > 2 * COUNTS_BEYOND:
            raise InputError(
                f"genes: the table holds counts (up to {np.nanmax(rna):g}), but the model was trained on values that were "
                f"logged or standardised before; give a table of the same kind"
            )
        if self.expects_counts and np.nanmax(rna) <= LARGEST_LOG:
            raise InputError(
                f"genes: no value of the table is above {np.nanmax(rna):g}, as if they were logged or standardised, but the "
                "model was trained on counts and logs them itself; give a table of the same kind"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without `axes`; `from_json` restores the same numbers."""
        own = replace(self, axes=None)
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(own).items()
        }
        del values["axes"]
        return {"format": "omics-scaler/1", **values, "features": list(self.features), "limit": _finite(self.limit)}

    @classmethod
    def from_json(
        cls, described: Mapping[str, Any] | str, axes: tuple[Float[np.ndarray, "g k"], ...] | None = None
    ) -> "OmicsScaler":
        """What `to_json` gave, or its text, and the axes, which are too large for text."""
        values = dict(json.loads(described) if isinstance(described, str) else described)
        if values.pop("format", None) != "omics-scaler/1":
            raise InputError(
                "trained model: its gene scaler has a format that this version does not know; train it again"
            )
        values["limit"] = [np.inf if limit is None else limit for limit in values["limit"]]
        for field in fields(cls):
            if field.name in ("fill", "centre", "scale", "limit"):
                values[field.name] = np.array(values[field.name], dtype=np.float64)
            elif field.name in ("keeps_zero", "logged"):
                values[field.name] = np.array(values[field.name], dtype=bool)
        scaler = cls(**{**values, "features": tuple(values["features"]), "axes": axes})
        scaler._require_sound()
        return scaler

    def _require_sound(self) -> None:
        """Raise ValueError where the parts do not fit each other; numbers that are not finite give no finite feature."""
        arrays = (self.fill, self.centre, self.scale, self.limit, self.keeps_zero, self.logged)
        if any(array.shape != (len(self.features),) for array in arrays):
            raise ValueError(
                f"gene scaler: {len(self.features)} features, arrays of {[len(array) for array in arrays]}"
            )
        if not np.isfinite(np.concatenate([self.fill, self.centre, self.scale])).all() or (self.scale == 0).any():
            raise ValueError("gene scaler: numbers that are not finite, or a scale of 0")
        if unknown := {name for members in self.groups.values() for name in members} - set(self.features):
            raise ValueError(f"gene scaler: groups of features that it does not have: {some(sorted(unknown))}")
        widths = [len(members) for members in self.groups.values()]
        if self.axes is not None and [axes.shape[0] for axes in self.axes] != widths:
            raise ValueError(f"gene scaler: groups of {widths} features, axes of {[a.shape for a in self.axes]}")


def principal_axes(group: Float[np.ndarray, "cases g"]) -> Float[np.ndarray, "g k"]:
    """The directions of a group's variation among training cases, widest first, as orthonormal float32 columns.

    No direction in which the cases differ is lost: k is the rank. A model that is shown the cases along these axes could
    compute what it can compute from the genes; but Adam, whose steps are about as long along every input, then follows
    what many genes do together before what single genes do. Shown 1,500 correlated genes of a few hundred cases, it
    follows the noise.
    """
    _, spread, axes = np.linalg.svd(group - group.mean(axis=0), full_matrices=False)
    axes = axes[: max(1, (spread > 1e-5 * spread[0]).sum())]
    widest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), widest])  # which of ± a direction is must not depend on the library
    return np.ascontiguousarray((axes * signs[:, None]).T.astype(np.float32))


def looks_like_counts(values: Float[np.ndarray, "cases genes"]) -> bool:
    """Whether expression values are counts, TPM or the like: nowhere negative, large, and skewed to the right."""
    if not values.size or np.isnan(values).all() or np.nanmin(values) < 0 or np.nanmax(values) <= COUNTS_BEYOND:
        return False
    return bool(np.nanmean(values) > 1.5 * np.nanmedian(values))


def _finite(limits: np.ndarray) -> list[float | None]:
    return [None if np.isinf(limit) else float(limit) for limit in limits]


def _log(values: np.ndarray, logged: np.ndarray, names: np.ndarray) -> None:
    """Takes log2(x + 1) of the logged columns, in place."""
    negative = (values[:, logged] < 0).any(axis=0)
    if negative.any():
        raise InputError(
            f"genes: {some(names[logged][negative])} have negative values, but counts are expected (log2(x + 1) is taken); "
            f"give counts, or set omics.log to never"
        )
    values[:, logged] = np.log2(values[:, logged] + 1)


def _extremes(values: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value of the whole table, covariates apart."""
    table = values[:, kinds != COVARIATE]
    there = table[~np.isnan(table)]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)


def _varying(values: np.ndarray, names: Sequence[str], config: OmicsConfig, notes: list[str]) -> list[int]:
    """The columns that are worth keeping: not constant, and not missing too often."""
    absent = np.isnan(values)
    sparse = absent.all(axis=0) | (absent.mean(axis=0) > config.max_missing)
    low = np.where(absent, np.inf, values).min(axis=0, initial=np.inf)
    high = np.where(absent, -np.inf, values).max(axis=0, initial=-np.inf)
    constant = ~sparse & (low == high)
    share = f"missing in more than {config.max_missing:.0%} of"
    for which, why in ((sparse, share), (constant, "constant in")):
        gone = [names[i] for i in np.flatnonzero(which).tolist()]
        if gone:
            notes.append(f"{len(gone)} features left out, {why} the training cases: {some(gone)}")
    kept = np.flatnonzero(~sparse & ~constant).tolist()
    if not kept:
        raise InputError(f"genes: not one of {len(names)} features varies among {len(values)} training cases")
    if absent[:, kept].any():
        notes.append(f"{absent[:, kept].sum()} missing values imputed by the median of the training cases")
    return kept


def _scaling(
    values: np.ndarray, kinds: np.ndarray, config: OmicsConfig, extremes: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Centre, scale, limit and treatment of zero of each column of imputed training values.

    Mean and standard deviation are taken of values that were first drawn in to `clip` robust standard deviations of the
    median: one expression value of 3,515 among z-scores, as real tables have them, would press all others to a point.
    """
    binary = np.isin(values, (0, 1)).all(axis=0)
    drawn_in = _without_outliers(values, config.clip)
    scaling = {
        "centre": drawn_in.mean(axis=0),
        "scale": np.where(binary, BINARY_SCALE, drawn_in.std(axis=0)),
        "limit": np.full(len(kinds), config.clip),
        "keeps_zero": np.zeros(len(kinds), dtype=bool),
    }
    if config.scaling == "minmax":  # as the authors: one minimum and maximum of the whole table
        low, high = extremes
        table = kinds != COVARIATE
        scaling["centre"][table] = (low + high) / 2
        scaling["scale"][table] = (high - low) / 2
        scaling["limit"][table] = np.inf
        scaling["keeps_zero"] = table
    return scaling


def _without_outliers(values: np.ndarray, clip: float) -> np.ndarray:
    """The values, none farther from its column's median than `clip` times 1.4826 median absolute deviations.

    Columns of which more than half the values are equal have no such deviation: they stay as they are.
    """
    median = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - median), axis=0)
    reach = np.where(spread > 0, clip * spread, np.inf)
    return np.clip(values, median - reach, median + reach)


def _groups(
    values: np.ndarray,
    names: Sequence[str],
    kinds: np.ndarray,
    matched: Mapping[str, Sequence[str]] | None,
    config: OmicsConfig,
    notes: list[str],
) -> dict[str, list[str]]:
    """Gene sets or clusters first, then the genes in none of them, then each other kind of feature."""
    kept = set(names)
    if matched:
        groups = {name: [member for member in members if member in kept] for name, members in matched.items()}
        small = [name for name, members in groups.items() if len(members) < config.min_group]
        if small:
            notes.append(f"{len(small)} gene sets dissolved, fewer than {config.min_group} genes left: {some(small)}")
        groups = {name: members for name, members in groups.items() if name not in small}
    else:
        groups = _clusters(
            values[:, kinds == "rna"], [n for n, k in zip(names, kinds, strict=True) if k == "rna"], config
        )
        if groups:
            notes.append(
                f"no gene sets given: {len(groups)} groups by hierarchical clustering of the genes' correlation"
            )
    grouped = {member for members in groups.values() for member in members}
    for kind in dict.fromkeys(kinds.tolist()):
        rest = [name for name, k in zip(names, kinds, strict=True) if k == kind and name not in grouped]
        if rest and kind == "rna":
            does = "left out" if config.ungrouped == "drop" else "are a group of their own"
            notes.append(f"{len(rest)} genes in no set {does}")
        if rest and not (kind == "rna" and config.ungrouped == "drop"):
            groups[UNGROUPED if kind == "rna" else kind] = rest
    if not groups:
        raise InputError("genes: no group is left; give gene sets that fit the table, or set omics.ungrouped to group")
    return groups


def _clusters(values: np.ndarray, names: list[str], config: OmicsConfig) -> dict[str, list[str]]:
    """Ward's clusters of genes by correlation distance; beyond the most variable genes, each joins the nearest cluster."""
    if len(names) <= config.n_clusters:
        return {f"cluster_{i + 1}": [name] for i, name in enumerate(names)}
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    unit = values - values.mean(axis=0)
    spread = np.sqrt((unit**2).sum(axis=0))
    unit = unit / spread  # (cases, genes): columns of length 1, whose products are correlations
    core = np.sort(np.argsort(-spread, kind="stable")[:MAX_CLUSTERED])
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
