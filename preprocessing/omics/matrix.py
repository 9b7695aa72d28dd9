"""Tables of numbers by case: the matrix of all molecular features, and covariates as one more kind of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from models.registry import nearest
from preprocessing.io.atomic import whole_file
from preprocessing.io.errors import InputError, some

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


def feature_kind(name: str, *, default: str = "rna") -> tuple[str, str]:
    """The gene's symbol and the feature's kind: `EGFR_cnv` is ("EGFR", "cnv"), `EGFR` is of the default kind."""
    found = _SUFFIX.fullmatch(name)
    return (found[1], _KIND_OF_SUFFIX[found[2].lower()]) if found else (name, default)


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
            raise InputError(f"genes: {len(twice)} features are there more than once: {some(twice)}; keep one of each")
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
        """Writes plain arrays (npz), whole or not at all."""
        with whole_file(path) as draft, draft.open("wb") as file:
            np.savez_compressed(
                file,
                format=np.array("omics-matrix/1"),
                values=self.values,
                case_ids=np.array(self.case_ids, dtype=np.str_),
                features=np.array(self.features, dtype=np.str_),
                kinds=np.array(self.kinds, dtype=np.str_),
            )

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
        raise InputError(f"covariates: column {column} has {some(unknown)}, which the trained model does not know")
    return pd.DataFrame({f"{column}={word}": (values == word).astype("Float64").mask(values.isna()) for word in words})
