"""Scaling of molecular features into one array per group.

Everything estimated from values (whether to take logarithms, medians, means, clusters, axes) is estimated from the matrix
given to `OmicsScaler.fit`, which must contain training cases only.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from preprocessing.io.errors import InputError, count, some
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.gene_sets import match_sets
from preprocessing.omics.grouping import group_features
from preprocessing.omics.imputation import GeneImputer
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix

logger = logging.getLogger(__name__)

COUNTS_BEYOND = 50  # log2 of any expression measure stays below 30
LARGEST_LOG = 30
ENOUGH_VALUES, LEAST_NEGATIVE = 50, 0.2  # of standardised values about half are negative
LEAST_DEVIATION = 0.02  # median standard deviation after minmax-table scaling; z-scores up to 5 keep 0.2
BINARY_SCALE = 0.5  # the largest standard deviation of a 0/1 column: a rare mutation is not blown up to 10 sd


@dataclass(frozen=True)
class OmicsScaler:
    """Scaling parameters of the training cases, sufficient to apply a trained model to another table.

    Attributes:
        groups: features of each group; groups may overlap.
        features: names of the features in use.
        fill: (features,) training median, imputed for missing values before scaling (on the log scale where logged).
        centre: (features,) subtracted from each value.
        scale: (features,) divides the centred value.
        limit: (features,) scaled values are clipped to ± this; infinite for features that are not clipped.
        keeps_zero: (features,) whether a 0 stays 0 (min-max scaling).
        logged: (features,) whether log2(x + 1) is taken first.
        expects_counts: whether the training table contained counts; None where logging was set by the user.
        notes: what was decided, one sentence each.
        axes: of each group, orthonormal directions (g, k) onto which its scaled features are projected; None where models
            read the features themselves.
        imputer: estimates missing genes of a new cohort from the measured ones; None: the training median.
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
    imputer: GeneImputer | None = None

    @classmethod
    def fit(
        cls, matrix: OmicsMatrix, groups: Mapping[str, Sequence[str]] | None, config: OmicsConfig | None = None
    ) -> "OmicsScaler":
        """Return the scaler and the feature groups of the training cases.

        Args:
            matrix: training cases only.
            groups: gene sets; None: clusters of correlated genes.
            config: scaling and grouping.

        Raises:
            InputError: a set without a gene in the matrix; no feature that varies.
        """
        config, notes = config or OmicsConfig(), list[str]()
        matched = groups and match_sets(
            groups, matrix.features, matrix.kinds, table="the gene table", empty=config.empty_sets
        )
        kinds, values = np.array(matrix.kinds), matrix.values.copy()
        counts = are_counts(values[:, kinds == "rna"])
        logged = (kinds == "rna") & (config.log == "always" or (config.log == "auto" and counts))
        _log(values, logged, np.array(matrix.features))
        if logged.any():
            notes.append(
                f"log2(x + 1) taken of {logged.sum()} genes" + (": the table contains counts" if counts else "")
            )
        extremes = _extremes(values, kinds)
        kept = _varying(values, matrix.features, config, notes)
        values, kinds, logged = values[:, kept], kinds[kept], logged[kept]
        names = tuple(matrix.features[i] for i in kept)
        fill = np.nanmedian(values, axis=0)
        values = np.where(np.isnan(values), fill, values)
        resolved = group_features(values, names, kinds, matched, config, notes)
        keep = np.isin(names, [name for members in resolved.values() for name in members])
        scaling = _scaling(values, kinds, config, extremes)
        if config.scaling == "minmax-table":
            notes += _squeezed(values, kinds, extremes)
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
        """Width of each group as model input."""
        if self.axes is not None:
            return [axes.shape[1] for axes in self.axes]
        return [len(members) for members in self.groups.values()]

    @property
    def covariates(self) -> int | None:
        """Index of the group of clinical covariates; None without covariates."""
        return list(self.groups).index(COVARIATE) if COVARIATE in self.groups else None

    def missing(self, matrix: OmicsMatrix) -> list[str]:
        """Features of the scaler that the matrix lacks; they are imputed."""
        there = set(matrix.features)
        return [name for name in self.features if name not in there]

    def aligned(self, matrix: OmicsMatrix) -> Float[np.ndarray, "cases features"]:
        """Return the scaler's features out of the matrix, float64 (cases, features), unscaled, NaN where the matrix lacks them.

        Raises:
            InputError: no feature in common; counts where the training table had none, or the reverse.
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
        """Share of each group's features that each case lacks, in [0, 1]: NaN in the matrix, or absent from it."""
        absent = np.isnan(self.aligned(matrix))
        column = {name: position for position, name in enumerate(self.features)}
        shares = [absent[:, [column[name] for name in members]].mean(axis=1) for members in self.groups.values()]
        return np.stack(shares, axis=1)

    def scaled(self, matrix: OmicsMatrix) -> Float[np.ndarray, "cases features"]:
        """Scaled features, float64 (cases, features), missing values imputed; raises InputError as `aligned` does."""
        values = self.aligned(matrix)
        if missing := self.missing(matrix):
            logger.debug("genes: %d missing, imputed: %s", len(missing), some(missing))
        _log(values, self.logged, np.array(self.features))
        return self._imputed(self.imputer.filled(values, self.features) if self.imputer else values)

    def transform(self, matrix: OmicsMatrix) -> list[Float[np.ndarray, "cases k"]]:
        """Model inputs: one float32 array (cases, k) per group, in the order of `groups`; scaled, then projected onto `axes`."""
        return self._grouped(self.scaled(matrix))

    def average(self) -> list[Float[np.ndarray, " k"]]:
        """Model input of a case without any value: one float32 vector (k,) per group, every feature imputed."""
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
        """Raise InputError where one of the training table and this one holds counts and the other does not."""
        rna = matrix.values[:, np.array(matrix.kinds) == "rna"]
        if not rna.size or np.isnan(rna).all():
            return
        if self.expects_counts is False and are_counts(rna) and np.nanquantile(rna, 0.99) > 2 * COUNTS_BEYOND:
            raise InputError(
                f"genes: the table contains counts (up to {np.nanmax(rna):g}), but the model was trained on log-transformed or "
                f"standardised values; give a table on the same scale, or use --rescale cohort"
            )
        if self.expects_counts and np.nanmax(rna) <= LARGEST_LOG:
            raise InputError(
                f"genes: no value of the table is above {np.nanmax(rna):g}, as on a log scale or after standardisation, but the "
                "model was trained on counts and takes logarithms itself; give a table on the same scale, or use --rescale cohort"
            )

    def describe_scale(self, matrix: OmicsMatrix) -> str:
        """Describe that one of the training table and this one is standardised, with values around 0, and the other not; else "".

        Args:
            matrix: a new cohort; of fewer than `ENOUGH_VALUES` values of the model's genes nothing is said.
        """
        position = {name: at for at, name in enumerate(self.features)}
        rna = [i for i, name in enumerate(matrix.features) if matrix.kinds[i] == "rna" and name in position]
        values = matrix.values[:, rna]
        values, medians = values[~np.isnan(values)], self.fill[[position[matrix.features[i]] for i in rna]]
        if len(values) < ENOUGH_VALUES:
            return ""
        before, now = float((medians < 0).mean()), float((values < 0).mean())
        remedy = "give a table on the same scale, or use --rescale matched or cohort"
        if before > LEAST_NEGATIVE and not now:
            return (
                f"none of the table's {len(values):,} values is below 0, but the model was trained on genes of which "
                f"{100 * before:.0f} % have a median below 0, as after standardisation; {remedy}"
            )
        if now > LEAST_NEGATIVE and not before:
            return (
                f"{100 * now:.0f} % of the table's values are below 0, as after standardisation, but the model was trained on "
                f"genes of which none has a median below 0; {remedy}"
            )
        return ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without `axes` and `imputer`; `from_json` restores the same scaler exactly."""
        without_axes = replace(self, axes=None, imputer=None)
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(without_axes).items()
        }
        del values["axes"], values["imputer"]
        return {"format": "omics-scaler/1", **values, "features": list(self.features), "limit": _finite(self.limit)}

    @classmethod
    def from_json(
        cls, described: Mapping[str, Any] | str, axes: tuple[Float[np.ndarray, "g k"], ...] | None = None
    ) -> "OmicsScaler":
        """Restore a scaler from `to_json` (or its text) and the axes, which are saved as arrays; InputError for another format."""
        values = dict(json.loads(described) if isinstance(described, str) else described)
        if values.pop("format", None) != "omics-scaler/1":
            raise InputError(
                "trained model: the format of its gene scaler is unknown to this version; train the model again"
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
        """Raise ValueError where arrays do not match the features or are not finite."""
        arrays = (self.fill, self.centre, self.scale, self.limit, self.keeps_zero, self.logged)
        if any(array.shape != (len(self.features),) for array in arrays):
            raise ValueError(
                f"gene scaler: {count(len(self.features), 'feature')}, arrays of {[len(array) for array in arrays]}"
            )
        if not np.isfinite(np.concatenate([self.fill, self.centre, self.scale])).all() or (self.scale == 0).any():
            raise ValueError("gene scaler: non-finite numbers, or a scale of 0")
        if unknown := {name for members in self.groups.values() for name in members} - set(self.features):
            raise ValueError(f"gene scaler: groups of unknown features: {some(sorted(unknown))}")
        widths = [len(members) for members in self.groups.values()]
        if self.axes is not None and [axes.shape[0] for axes in self.axes] != widths:
            raise ValueError(f"gene scaler: groups of {widths} features, axes of {[a.shape for a in self.axes]}")


def principal_axes(group: Float[np.ndarray, "cases g"]) -> Float[np.ndarray, "g k"]:
    """Principal axes of a group among training cases, by decreasing variance: float32 (g, k), orthonormal columns.

    k is the rank, so no variation is lost, and a linear layer on the scores can represent any linear layer on the genes.
    The coordinates matter for the optimiser: Adam takes steps of similar length along every input, so on principal axes it
    fits what many genes share before what single genes do; on 1,500 correlated genes of a few hundred cases it fits noise.
    """
    _, singular_values, axes = np.linalg.svd(group - group.mean(axis=0), full_matrices=False)
    axes = axes[: max(1, (singular_values > 1e-5 * singular_values[0]).sum())]
    widest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), widest])  # the sign of an axis must not depend on the library
    return np.ascontiguousarray((axes * signs[:, None]).T.astype(np.float32))


def are_counts(values: Float[np.ndarray, "cases genes"]) -> bool:
    """Whether expression values are counts, TPM or similar: never negative, large, right-skewed."""
    if not values.size or np.isnan(values).all() or np.nanmin(values) < 0 or np.nanmax(values) <= COUNTS_BEYOND:
        return False
    return bool(np.nanmean(values) > 1.5 * np.nanmedian(values))


def _finite(limits: np.ndarray) -> list[float | None]:
    return [None if np.isinf(limit) else float(limit) for limit in limits]


def _log(values: np.ndarray, logged: np.ndarray, names: np.ndarray) -> None:
    """Take log2(x + 1) of the logged columns, in place; InputError for negative values."""
    negative = (values[:, logged] < 0).any(axis=0)
    if negative.any():
        raise InputError(
            f"genes: {some(names[logged][negative])} have negative values, but counts are expected (log2(x + 1) is taken); "
            f"give counts, or set omics.log to never"
        )
    values[:, logged] = np.log2(values[:, logged] + 1)


def _extremes(values: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value of the table without covariates."""
    table = values[:, kinds != COVARIATE]
    there = table[~np.isnan(table)]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)


def _varying(values: np.ndarray, names: Sequence[str], config: OmicsConfig, notes: list[str]) -> list[int]:
    """Positions of the columns to keep: neither constant nor missing too often."""
    absent = np.isnan(values)
    sparse = absent.all(axis=0) | (absent.mean(axis=0) > config.max_missing)
    low = np.where(absent, np.inf, values).min(axis=0, initial=np.inf)
    high = np.where(absent, -np.inf, values).max(axis=0, initial=-np.inf)
    constant = ~sparse & (low == high)
    reasons = []
    share = f"missing in more than {config.max_missing:.0%} of"
    for which, why in ((sparse, share), (constant, "constant in")):
        gone = [names[i] for i in np.flatnonzero(which).tolist()]
        if gone:
            reasons.append(f"{count(len(gone), 'feature')} left out, {why} the training cases: {some(gone)}")
    notes += reasons
    kept = np.flatnonzero(~sparse & ~constant).tolist()
    if not kept:
        raise InputError(f"genes: none can be used of {len(values)} training cases: {'; '.join(reasons)}")
    if absent[:, kept].any():
        notes.append(f"{absent[:, kept].sum()} missing values imputed by the median of the training cases")
    return kept


def _scaling(
    values: np.ndarray, kinds: np.ndarray, config: OmicsConfig, extremes: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Centre, scale, limit and treatment of zero of each column of imputed training values.

    Mean and standard deviation are computed after winsorising at `clip` robust standard deviations from the median: one
    expression value of 3,515 among z-scores, as real tables have them, would otherwise compress all others to a point.
    """
    binary = np.isin(values, (0, 1)).all(axis=0)
    winsorised = winsorise(values, config.clip)
    scaling = {
        "centre": winsorised.mean(axis=0),
        "scale": np.where(binary, BINARY_SCALE, winsorised.std(axis=0)),
        "limit": np.full(len(kinds), config.clip),
        "keeps_zero": np.zeros(len(kinds), dtype=bool),
    }
    if config.scaling != "standard":
        table = kinds != COVARIATE
        low, high = (
            extremes if config.scaling == "minmax-table" else (values.min(axis=0)[table], values.max(axis=0)[table])
        )
        scaling["centre"][table] = (low + high) / 2
        scaling["scale"][table] = (high - low) / 2
        scaling["limit"][table] = np.inf
        scaling["keeps_zero"] = table
    return scaling


def _squeezed(values: np.ndarray, kinds: np.ndarray, extremes: tuple[float, float]) -> list[str]:
    """A note where one minimum and maximum leave most genes next to nothing of [−1, 1]."""
    low, high = extremes
    left = float(np.median(values[:, kinds != COVARIATE].std(axis=0))) / ((high - low) / 2)
    if left >= LEAST_DEVIATION:
        return []
    note = (
        f"omics.scaling = minmax-table: with values from {low:.6g} to {high:.6g}, half of the genes keep a standard deviation "
        f"below {left:.2g} in a range from −1 to 1; with minmax-gene or standard scaling they keep their variation"
    )
    logger.warning("%s", note)
    return [note]


def winsorise(values: Float[np.ndarray, "n g"], clip: float) -> Float[np.ndarray, "n g"]:
    """Return the values, each column winsorised at `clip` × 1.4826 median absolute deviations from its median.

    Columns with more than half their values equal have no such deviation and stay as they are.

    Args:
        values: g genes of n cases.
        clip: in estimated standard deviations: 1.4826 × the median absolute deviation is that of a normal distribution.

    Returns:
        In the same unit.
    """
    median = np.median(values, axis=0)
    deviation = 1.4826 * np.median(np.abs(values - median), axis=0)
    reach = np.where(deviation > 0, clip * deviation, np.inf)
    return np.clip(values, median - reach, median + reach)
