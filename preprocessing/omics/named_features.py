"""Features that a user names as defining a label, in a file."""

import io
import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import InputError, some
from preprocessing.io.files import read_text

REASON = "named in {file} as defining the label"


def read_defining_features(path: Path) -> pd.DataFrame:
    """Return the columns `feature`, `reason` and `task` of a CSV file; the latter two are empty where they are not given.

    Raises:
        InputError: no such file, or no column `feature`.
    """
    try:
        table = pd.read_csv(io.StringIO(read_text(path)), dtype=str, skipinitialspace=True)
    except ValueError as error:
        raise InputError(f"--defining-features {path} cannot be read as a table: {error}") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    if "feature" not in table or table["feature"].isna().all():
        raise InputError(
            f"--defining-features {path} needs a column feature, and may have reason and task; it has {some(table.columns)}"
        )
    table = table.reindex(columns=["feature", "reason", "task"]).dropna(subset=["feature"]).fillna("")
    return table.map(str.strip)


def named_features(path: Path, task: str, features: tuple[str, ...]) -> dict[str, str]:
    """Return the features that the file names for a task (or for all tasks), each with the reason.

    Capitals, and what stands between the parts of a name, make no difference: `HLA-DRA`, `HLA DRA` and `hla_dra` are one.

    Raises:
        InputError: none of the names in the file is a feature.
    """
    table = read_defining_features(path)
    if len(unknown_names(path, features)) == len(set(table["feature"])):
        raise InputError(
            f"--defining-features {path}: none of {some(table['feature'])} is among the features, as {some(features)}"
        )
    rows = table[table["task"].isin(("", task))]
    reasons = rows["reason"].where(rows["reason"] != "", REASON.format(file=path.name))
    known = dict(zip(map(_plain, rows["feature"]), reasons, strict=True))
    return {name: known[_plain(name)] for name in features if _plain(name) in known}


def unknown_names(path: Path, features: Collection[str]) -> list[str]:
    """Return the names in the file that no feature has, each once."""
    plain = set(map(_plain, features))
    return [name for name in read_defining_features(path)["feature"].unique() if _plain(name) not in plain]


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]+", "-", name.strip()).casefold()
