"""Tables of numbers by case become scaled arrays, one for each group of features.

Whatever is learnt from values (log or not, medians, means, clusters) is learnt from the matrix given to
`OmicsScaler.fit`, which must hold training cases alone.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from pydantic import Field

from models.registry import nearest
from models.settings import Settings
from preprocessing.errors import InputError
from preprocessing.tables import read_table

logger = logging.getLogger(__name__)

COUNTS_BEYOND = 50  # log2 of any expression measure stays below 30
MAX_CLUSTERED = 4000  # genes whose full correlation matrix is taken; the others join the nearest cluster
BINARY_SCALE = 0.5  # the largest standard deviation of a 0/1 column: a rare mutation is not blown up to 10 sd
UNGROUPED = "ungrouped"
COVARIATE = "covariate"

_SUFFIXES = {
    "mutation": ("mut", "mutation", "mutated", "snv", "promoter"),
    "cnv": ("cnv", "cna", "cn", "gistic", "amp", "amplification", "del", "deletion", "homdel"),
    "methylation": ("meth", "methylation", "beta"),
    "rna": ("rnaseq", "rna", "mrna", "expr", "expression", "tpm", "fpkm"),
    "protein": ("protein", "rppa"),
}
FEATURE_KINDS = frozenset(_SUFFIXES)
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
_SUFFIX = re.compile(r"(.+)[_. ](" + "|".join(_KIND_OF_SUFFIX) + ")", re.IGNORECASE)


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


def feature_kind(name: str, *, default: str = "rna") -> tuple[str, str]:
    """The gene's symbol and the feature's kind: `EGFR_cnv` is ("EGFR", "cnv"), `EGFR` is of the default kind."""
    found = _SUFFIX.fullmatch(name)
    return (found[1], _KIND_OF_SUFFIX[found[2].lower()]) if found else (name, default)


# --- matrix ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OmicsMatrix:
    """Features by case, unscaled.

    Attributes:
        values: (cases, features) float64, NaN where missing.
        case_ids: of the rows.
        features: names of the columns, each once.
        kinds: kind of each feature: rna, cnv, mutation, methylation, protein, covariate.
    """

    values: Float[np.ndarray, "cases features"]
    case_ids: tuple[str, ...]
    features: tuple[str, ...]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = pd.Index(self.features)[pd.Index(self.features).duplicated()]
        if len(twice):
            raise InputError(f"genes: {len(twice)} features are there more than once: {_some(twice)}; keep one of each")
        if self.values.shape != (len(self.case_ids), len(self.features)) or len(self.kinds) != len(self.features):
            raise ValueError(
                f"{self.values.shape} values, {len(self.case_ids)} cases, {len(self.features)} features, {len(self.kinds)} kinds"
            )

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, kind: str = "rna") -> "OmicsMatrix":
        """The matrix of a table of cases × features; `kind` is that of features whose name has no suffix."""
        kinds = [feature_kind(name, default=kind)[1] for name in frame.columns]
        suffix = _SUFFIXES[kind][0] if kind in _SUFFIXES and kind != "rna" else ""
        names = [name if not suffix or _SUFFIX.fullmatch(name) else f"{name}_{suffix}" for name in frame.columns]
        return cls(frame.to_numpy(np.float64), tuple(map(str, frame.index)), tuple(names), tuple(kinds))

    def take(self, case_ids: Sequence[str]) -> "OmicsMatrix":
        """The rows of these cases, in this order. KeyError for a case that is not there."""
        row = {case: position for position, case in enumerate(self.case_ids)}
        return OmicsMatrix(self.values[[row[case] for case in case_ids]], tuple(case_ids), self.features, self.kinds)

    def without(self, features: Sequence[str]) -> "OmicsMatrix":
        """The matrix without these features."""
        gone = set(features)
        keep = [position for position, name in enumerate(self.features) if name not in gone]
        return OmicsMatrix(
            self.values[:, keep],
            self.case_ids,
            tuple(self.features[i] for i in keep),
            tuple(self.kinds[i] for i in keep),
        )

    def save(self, path: Path) -> None:
        """Writes plain arrays (npz), under a temporary name first."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                format=np.array("omics-matrix/1"),
                values=self.values,
                case_ids=np.array(self.case_ids, dtype=np.str_),
                features=np.array(self.features, dtype=np.str_),
                kinds=np.array(self.kinds, dtype=np.str_),
            )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "OmicsMatrix":
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            names = (tuple(file[key].tolist()) for key in ("case_ids", "features", "kinds"))
            return cls(file["values"], *names)


def concatenate(matrices: Sequence[OmicsMatrix]) -> OmicsMatrix:
    """All features of all matrices; a case has NaN for the features of a matrix that lacks it."""
    case_ids = tuple(dict.fromkeys(case for matrix in matrices for case in matrix.case_ids))
    blocks = [
        pd.DataFrame(matrix.values, index=list(matrix.case_ids)).reindex(list(case_ids)).to_numpy()
        for matrix in matrices
    ]
    return OmicsMatrix(
        np.concatenate(blocks, axis=1),
        case_ids,
        tuple(name for matrix in matrices for name in matrix.features),
        tuple(kind for matrix in matrices for kind in matrix.kinds),
    )


def covariates(frame: pd.DataFrame, columns: Sequence[str], *, features: Sequence[str] | None = None) -> OmicsMatrix:
    """Clinical columns as numbers: numbers and flags as they are, each word of a text column as a 0/1 feature.

    Args:
        frame: labels by case.
        columns: which of them.
        features: a trained model's covariate features, so that a new cohort gets the same 0/1 features.

    Raises:
        InputError: a column that is not there, has no value, or has a word that the trained model does not know.
    """
    parts = []
    for column in columns:
        if column not in frame:
            raise InputError(f'covariates: no column "{column}"; {nearest(column, map(str, frame.columns))}')
        values = frame[column]
        if values.isna().all():
            raise InputError(f"covariates: column {column} has no value at all; leave it out")
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            parts.append(values.astype("Float64").rename(column).to_frame())
        else:
            parts.append(_one_hot(values.astype("string"), column, features))
    table = pd.concat(parts, axis=1).astype("Float64")
    return OmicsMatrix(
        table.to_numpy(dtype=np.float64, na_value=np.nan),
        tuple(map(str, table.index)),
        tuple(table.columns),
        (COVARIATE,) * table.shape[1],
    )


def _one_hot(values: pd.Series, column: str, features: Sequence[str] | None) -> pd.DataFrame:
    there = sorted(values.dropna().unique())
    words = [name.split("=", 1)[1] for name in features or () if name.startswith(f"{column}=")] or there
    if unknown := sorted(set(there) - set(words)):
        raise InputError(f"covariates: column {column} has {_some(unknown)}, which the trained model does not know")
    return pd.DataFrame({f"{column}={word}": (values == word).astype("Float64").mask(values.isna()) for word in words})


# --- gene sets -------------------------------------------------------------------------------------------------------


def read_gene_sets(path: Path | str) -> dict[str, list[str]]:
    """Genes by set, each once, in the file's order.

    Args:
        path: GMT (a line a set: name, description, genes), or CSV/TSV with one column a set.

    Raises:
        InputError: no set, a set without a gene, or what `read_table` refuses.
    """
    path = Path(path)
    if path.name.lower().endswith((".gmt", ".gmt.txt")):
        try:
            rows = [line.split("\t") for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        names = [row[0].strip() for row in rows]
        lists = [row[2:] for row in rows]
    else:
        table = read_table(path)
        names = list(table.columns)
        lists = [table[name].dropna().astype(str).tolist() for name in names]
    sets = {
        name: list(dict.fromkeys(filter(None, map(str.strip, genes)))) for name, genes in zip(names, lists, strict=True)
    }
    empty = [name for name, genes in sets.items() if not genes]
    if not sets or empty or len(sets) < len(names):
        what = f"sets without a gene: {_some(empty)}" if empty else "no set, or one name twice"
        raise InputError(f"{path}: {what}; give one column a set under its name, or a GMT file")
    return sets


def features_by_name(features: Sequence[str], kinds: Sequence[str]) -> dict[str, list[str]]:
    """The features that a name in a gene set means: plain symbols as `match_sets` says, and features by their own names."""
    by_name: dict[str, list[str]] = {}
    for feature, kind in zip(features, kinds, strict=True):
        if kind == "rna" or ("rna" not in kinds and kind != COVARIATE):
            by_name.setdefault(feature_kind(feature)[0], []).append(feature)
    return by_name | {feature: [feature] for feature in features}


def match_sets(
    sets: Mapping[str, Sequence[str]],
    features: Sequence[str],
    kinds: Sequence[str],
    *,
    table: str,
    empty: str = "error",
) -> dict[str, list[str]]:
    """The features of each set. Plain symbols mean expression where there is any, else whatever kind there is.

    Args:
        sets: genes by set, as symbols or as names of features.
        features: of the table.
        kinds: of the features.
        table: as messages name it.
        empty: what to do with a set of which no gene is in the table: "error" or "drop".

    Raises:
        InputError: a set of which no gene is in the table.
    """
    by_name = features_by_name(features, kinds)
    groups = {
        name: list(dict.fromkeys(f for gene in genes for f in by_name.get(gene, []))) for name, genes in sets.items()
    }
    lost = [name for name, members in groups.items() if not members]
    if lost and (empty == "error" or len(lost) == len(groups)):
        others = f" ({len(lost)} of {len(groups)} sets)" if len(lost) > 1 else ""
        raise InputError(
            f"gene set {lost[0]}{others}: none of its genes ({_some(sets[lost[0]])}) is in {table} ({_some(features)}); "
            f"use the same kind of gene names, take the set out, or set omics.empty_sets to drop"
        )
    if reserved := {*kinds, UNGROUPED, COVARIATE} & set(groups):
        raise InputError(f'gene set "{min(reserved)}": the name is taken by the program; call it something else')
    return {name: members for name, members in groups.items() if members}


# --- scaler ----------------------------------------------------------------------------------------------------------


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

    def scaled(self, matrix: OmicsMatrix) -> Float[np.ndarray, "cases features"]:
        """The used features, scaled, float64, nothing missing.

        Raises:
            InputError: no feature in common; counts where the scaler saw none, or the reverse.
        """
        column = {name: position for position, name in enumerate(matrix.features)}
        there = np.array([name in column for name in self.features])
        if not there.any():
            raise InputError(
                f"genes: none of the {len(there)} features that the model was trained on ({_some(self.features)}) is in "
                f"the table ({_some(matrix.features)}); use the same gene names"
            )
        if not there.all():
            logger.warning("genes: %d missing, imputed: %s", (~there).sum(), _some(self.missing(matrix)))
        values = np.full((len(matrix.case_ids), len(there)), np.nan)
        values[:, there] = matrix.values[:, [column[name] for name in self.features if name in column]]
        self._check_counts(matrix)
        _log(values, self.logged, np.array(self.features))
        values = np.where(np.isnan(values), self.fill, values)
        scaled = np.clip((values - self.centre) / self.scale, -self.limit, self.limit)
        return np.where(self.keeps_zero & (values == 0), 0.0, scaled)

    def transform(self, matrix: OmicsMatrix) -> list[Float[np.ndarray, "cases k"]]:
        """One float32 array for each group, in the order of `groups`: see `scaled`, then turned to `axes` if there are."""
        values = self.scaled(matrix).astype(np.float32)
        column = {name: position for position, name in enumerate(self.features)}
        groups = [values[:, [column[name] for name in members]] for members in self.groups.values()]
        return groups if self.axes is None else [x @ axes for x, axes in zip(groups, self.axes, strict=True)]

    def _check_counts(self, matrix: OmicsMatrix) -> None:
        """Logged values and counts are not mixed up between the training table and this one."""
        rna = matrix.values[:, np.array(matrix.kinds) == "rna"]
        if self.expects_counts is False and looks_like_counts(rna) and np.nanquantile(rna, 0.99) > 2 * COUNTS_BEYOND:
            raise InputError(
                f"genes: the table holds counts (up to {np.nanmax(rna):g}), but the model was trained on values that were "
                f"logged or standardised before; give a table of the same kind"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, `axes` apart; `from_json` of them is the same scaler to the last digit."""
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
        return cls(**{**values, "features": tuple(values["features"]), "axes": axes})


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
            f"genes: {_some(names[logged][negative])} have negative values, but counts are expected (log2(x + 1) is taken); "
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
            notes.append(f"{len(gone)} features left out, {why} the training cases: {_some(gone)}")
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
            notes.append(f"{len(small)} gene sets dissolved, fewer than {config.min_group} genes left: {_some(small)}")
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


def _some(names: Iterable[Any]) -> str:
    every = [str(name) for name in names]
    return ", ".join(every[:3]) + (", …" if len(every) > 3 else "")
