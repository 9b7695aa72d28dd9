"""The matrix of cases × molecular features; clinical covariates are one more kind of feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from models.registry import nearest
from preprocessing.case_tables.gene_names import feature_kind, with_suffix
from preprocessing.io.atomic import atomic_file
from preprocessing.io.errors import InputError, count, some

COVARIATE = "covariate"


@dataclass(frozen=True)
class OmicsMatrix:
    """Unscaled features by case.

    Attributes:
        values: (cases, features) float64, NaN where missing.
        case_ids: of the rows.
        features: names of the columns, unique.
        kinds: kind of each feature: rna, cnv, mutation, methylation, protein, covariate.
    """

    values: Float[np.ndarray, "cases features"]
    case_ids: tuple[str, ...]
    features: tuple[str, ...]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = pd.Index(self.features)[pd.Index(self.features).duplicated()]
        if len(twice):
            raise InputError(f"genes: {len(twice)} duplicate features: {some(twice)}; keep one of each")
        if self.values.shape != (len(self.case_ids), len(self.features)) or len(self.kinds) != len(self.features):
            raise ValueError(
                f"{self.values.shape} values, {count(len(self.case_ids), 'case')}, {len(self.features)} features, "
                f"{len(self.kinds)} kinds"
            )

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, kind: str = "rna") -> "OmicsMatrix":
        """Return the matrix of a table of cases × features; `kind` applies to features whose name has no suffix."""
        kinds = [feature_kind(name, default=kind)[1] for name in frame.columns]
        names = [with_suffix(name, kind) for name in frame.columns]
        return cls(frame.to_numpy(np.float64), tuple(map(str, frame.index)), tuple(names), tuple(kinds))

    def take(self, case_ids: Sequence[str]) -> "OmicsMatrix":
        """Return the rows of these cases, in this order; KeyError for an unknown case."""
        row = {case: position for position, case in enumerate(self.case_ids)}
        return OmicsMatrix(self.values[[row[case] for case in case_ids]], tuple(case_ids), self.features, self.kinds)

    def without(self, features: Sequence[str]) -> "OmicsMatrix":
        """Return the matrix without these features."""
        gone = set(features)
        keep = [position for position, name in enumerate(self.features) if name not in gone]
        return OmicsMatrix(
            self.values[:, keep],
            self.case_ids,
            tuple(self.features[i] for i in keep),
            tuple(self.kinds[i] for i in keep),
        )

    def save(self, path: Path) -> None:
        """Write plain arrays (npz) atomically."""
        with atomic_file(path) as temporary, temporary.open("wb") as file:
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
        """Read a matrix that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            names = (tuple(file[key].tolist()) for key in ("case_ids", "features", "kinds"))
            return cls(file["values"], *names)


def concatenate(matrices: Sequence[OmicsMatrix]) -> OmicsMatrix:
    """Join matrices by case, with the features of all; NaN where a matrix lacks a case."""
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
    """Return clinical columns as numbers: numbers and flags as they are, text columns one-hot (`column=value`).

    Args:
        frame: labels by case.
        columns: names of the covariates.
        features: covariate features of a trained model, so that a new cohort gets the same one-hot features; a value that the model
            was not trained on counts as missing (see `unknown_values`).

    Raises:
        InputError: an absent or empty column.
    """
    parts = []
    for column in columns:
        if column not in frame:
            raise InputError(f'--covariates: no column "{column}"; {nearest(column, map(str, frame.columns))}')
        values = frame[column]
        if values.isna().all():
            raise InputError(f"--covariates: column {column} is empty; leave it out")
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
    words = _words(column, features) if features is not None else sorted(values.dropna().unique())
    known = values.where(values.isin(words))
    return pd.DataFrame({f"{column}={word}": (known == word).astype("Float64").mask(known.isna()) for word in words})


def _words(column: str, features: Sequence[str]) -> list[str]:
    """The values of a text column that features stand for."""
    return [name.split("=", 1)[1] for name in features if name.startswith(f"{column}=")]


def unknown_values(frame: pd.DataFrame, columns: Sequence[str], features: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of covariates that a trained model with these features was not trained on, by column.

    Of a column of words they are words, of one of numbers the words that it has here; and every number where it had words.
    """
    found = {}
    for column in columns:
        words, has_numbers = _words(column, features), column in features
        if column not in frame or not (words or has_numbers):
            continue
        values = frame[column].dropna()
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            unknown = [] if has_numbers else sorted(set(values.astype("string")))
        else:
            unknown = sorted(set(values.astype("string")) - set(words))
        if unknown:
            found[column] = unknown
    return found
