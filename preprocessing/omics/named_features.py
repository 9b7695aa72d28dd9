"""Features that a user names as defining a label, in a file."""

import io
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
    return table.reindex(columns=["feature", "reason", "task"]).dropna(subset=["feature"]).fillna("")


def named_features(path: Path, task: str, features: tuple[str, ...]) -> dict[str, str]:
    """Return the features that the file names for a task (or for all tasks), each with the reason.

    Raises:
        InputError: none of the names in the file is a feature.
    """
    table = read_defining_features(path)
    if not set(table["feature"]) & set(features):
        raise InputError(
            f"--defining-features {path}: none of {some(table['feature'])} is among the features, as {some(features)}"
        )
    rows = table[table["feature"].isin(features) & table["task"].isin(("", task))]
    reasons = rows["reason"].where(rows["reason"] != "", REASON.format(file=path.name))
    return dict(zip(rows["feature"], reasons, strict=True))
