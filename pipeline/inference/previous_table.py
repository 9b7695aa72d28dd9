"""Tables that grow: a second call on the same run folder keeps the rows of the first and adds or renews the others.

Kept rows are not computed again, so each carries a checksum of all rows of its task and case: where one of these was changed or
lost, the case counts as new.
"""

import hashlib
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from preprocessing.io.errors import InputError, count, some
from preprocessing.io.outputs import DamagedFileError, damaged, read_text_table

log = logging.getLogger(__name__)
FINGERPRINT = "input_fingerprint"  # column: hash of all inputs of a row
CHECKSUM = "checksum"  # column: hash of all rows of a task and case
CASE = ["task", "case_id"]


class PreviousTable:
    """A table as an earlier call on the same run folder left it; its cells stay text, so that kept rows do not change.

    Rows that are not what was written are left out, and logged.

    Args:
        path: the CSV file; need not exist.
        keys: columns that identify a row.

    Raises:
        InputError: the file lacks a key, the fingerprints or the checksums.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self.rows = _unchanged(path, _readable(path, self.keys)) if path.is_file() else None

    def fingerprints(self) -> dict[tuple[str, ...], str]:
        """Collect the fingerprint of each row, by its keys; empty without a table."""
        if self.rows is None:
            return {}
        return dict(zip(self._keys_of(self.rows), self.rows[FINGERPRINT], strict=True))

    def case_fingerprints(self) -> dict[tuple[str, str], str]:
        """Collect the fingerprint of each task and case, of a table that may have several rows of a case."""
        if self.rows is None:
            return {}
        return dict(zip(self.rows[CASE].itertuples(index=False, name=None), self.rows[FINGERPRINT], strict=True))

    def pending(
        self, fingerprints: Mapping[str, Mapping[str, str]], *, incomplete: Collection[tuple[str, str]] = ()
    ) -> dict[str, list[str]]:
        """List the cases to predict, and log how many are new, unchanged and changed.

        Args:
            fingerprints: of the inputs of each usable case, by task.
            incomplete: pairs of task and case that lack a row in another table, and are predicted whatever this one has.

        Returns:
            By task, the cases without a row and those whose fingerprint changed.
        """
        known = self.fingerprints()
        pending = {
            task: [
                case for case, mark in by_case.items() if mark != known.get((task, case)) or (task, case) in incomplete
            ]
            for task, by_case in fingerprints.items()
        }
        for task, cases in pending.items() if known else ():
            again = [case for case in cases if known.get((task, case))]
            changed = [case for case in again if known[task, case] != fingerprints[task][case]]
            n_known = sum(name == task and bool(mark) for (name, _), mark in known.items())
            new, kept = count(len(cases) - len(again), "new case"), count(n_known - len(again), "prediction")
            log.info("task %s: %s; %s kept", task, new, kept)
            if changed:
                message = "task %s: slides, genes or the way of prediction changed for %s, predicted again: %s"
                log.warning(message, task, count(len(changed), "case"), some(changed))
        return pending

    def updated(self, new: pd.DataFrame) -> pd.DataFrame:
        """Merge new rows into the table.

        Args:
            new: rows with all key columns.

        Returns:
            All rows as text: a row with known keys replaces the previous one in place, others follow at the end.
        """
        text = _as_text(new)
        if self.rows is None:
            return text
        by_keys = dict(zip(self._keys_of(self.rows), self.rows.to_dict("records"), strict=True))
        by_keys |= dict(zip(self._keys_of(text), text.to_dict("records"), strict=True))
        columns = list(dict.fromkeys([*self.rows.columns, *text.columns]))
        return pd.DataFrame(list(by_keys.values()), columns=columns).fillna("")

    def without(self, cases: Mapping[str, Sequence[str]]) -> "PreviousTable":
        """Drop all rows of these cases, given by task; returns the table itself."""
        if self.rows is not None:
            pairs = [(task, case) for task, names in cases.items() for case in names]
            self.rows = self.rows[~pd.MultiIndex.from_frame(self.rows[["task", "case_id"]]).isin(pairs)]
        return self

    def _keys_of(self, rows: pd.DataFrame) -> list[tuple[str, ...]]:
        return list(rows[self.keys].itertuples(index=False, name=None))


def hash_text(digits: str) -> str:
    """The first 16 of the hexadecimal digits of a hash, as a table has it: never what may be read as a number.

    Without the word before them, `50060e8007123400` would be one, and of the exponent of `7e27992479097cbd` the `read_csv` of
    pandas before 3.0 crashes.
    """
    return f"sha256:{digits[:16]}"


def with_checksums(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the column of checksums to a table of text, or renew it, as `PreviousTable` compares it.

    Args:
        rows: with columns `task` and `case_id`; an empty cell counts as one that is not there.
    """
    rows = rows.drop(columns=CHECKSUM, errors="ignore")
    names = [str(name) for name in rows]
    digests: dict[tuple[str, ...], Any] = {}
    for *case, cells in zip(*(rows[name] for name in CASE), rows.itertuples(index=False, name=None), strict=True):
        digest = digests.setdefault(tuple(case), hashlib.sha256())
        filled = sorted(f"{name}\0{cell}" for name, cell in zip(names, cells, strict=True) if cell)
        digest.update("\0".join(filled).encode() + b"\1")
    sums = [hash_text(digests[case].hexdigest()) for case in rows[CASE].itertuples(index=False, name=None)]
    return rows.assign(**{CHECKSUM: sums})


def _readable(path: Path, keys: Sequence[str]) -> pd.DataFrame | None:
    """The table of text; None where it is damaged, which is logged. Raises InputError where some of the columns are missing."""
    columns = [*keys, FINGERPRINT, CHECKSUM]
    try:
        rows = read_text_table(path)
        if not set(columns) & set(rows):
            raise damaged(path, f"it has no column {columns[0]}")
    except DamagedFileError as error:
        log.warning("%s; all its rows are recomputed", str(error).rpartition(";")[0])
        return None
    if missing := [name for name in columns if name not in rows]:
        raise InputError(
            f"{path} was edited, damaged or written by an earlier version: it has no column {missing[0]}; give another --out"
        )
    return rows


def _unchanged(path: Path, rows: pd.DataFrame | None) -> pd.DataFrame | None:
    """The rows that are what was written, None where there are none; the others are logged."""
    if rows is None:
        return None
    is_unchanged = with_checksums(rows)[CHECKSUM] == rows[CHECKSUM]
    if not is_unchanged.all():
        gone = rows.loc[~is_unchanged, "case_id"].unique()
        message = "%s: rows of %s differ from their checksums and are recomputed: %s"
        log.warning(message, path, count(len(gone), "case"), some(gone))
    return rows[is_unchanged].reset_index(drop=True) if is_unchanged.any() else None


def _as_text(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(rows.to_csv(index=False)), dtype=str, keep_default_na=False)


def with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Convert the numbers in a table of text; ids, labels and other names stay text."""
    names = ("case_id", "task", "label", "prediction", "baseline", "reason", FINGERPRINT, CHECKSUM)
    return pd.read_csv(
        io.StringIO(rows.to_csv(index=False)), dtype=dict.fromkeys(names, str), float_precision="round_trip"
    )
