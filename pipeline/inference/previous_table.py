"""Tables that grow: a second call on the same run folder keeps the rows of the first and adds or renews the others."""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import InputError, some

log = logging.getLogger(__name__)
FINGERPRINT = "input_fingerprint"  # column: hash of all inputs of a row
FINGERPRINT_BEFORE = "inputs"  # the same column, as earlier versions named it


class PreviousTable:
    """A table as an earlier call on the same run folder left it; its cells stay text, so that kept rows do not change.

    Args:
        path: the CSV file; need not exist.
        keys: columns that identify a row.

    Raises:
        InputError: the file lacks a key or the fingerprints, or was written by an earlier version.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self.rows = _read(path.read_text(encoding="utf-8")) if path.is_file() else None
        if self.rows is None or {*keys, FINGERPRINT} <= set(self.rows.columns):
            return
        if FINGERPRINT_BEFORE in self.rows:
            raise InputError(f"{path} was written by an earlier version of this program; give another --out")
        missing = [name for name in (*keys, FINGERPRINT) if name not in self.rows]
        raise InputError(f"{path} was edited: it has no column {missing[0]}; give another --out")

    def fingerprints(self) -> dict[tuple[str, ...], str]:
        """Collect the fingerprint of each row, by its keys; empty without a table."""
        if self.rows is None:
            return {}
        return dict(zip(self._keys_of(self.rows), self.rows[FINGERPRINT], strict=True))

    def pending(self, fingerprints: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
        """List the cases to predict, and log how many are new, unchanged and changed.

        Args:
            fingerprints: of the inputs of each usable case, by task.

        Returns:
            By task, the cases without a row and those whose fingerprint changed.
        """
        known = self.fingerprints()
        pending = {
            task: [case for case, mark in by_case.items() if mark != known.get((task, case))]
            for task, by_case in fingerprints.items()
        }
        for task, cases in pending.items() if known else ():
            changed = [case for case in cases if known.get((task, case))]
            n_known = sum(name == task and bool(mark) for (name, _), mark in known.items())
            n_new, n_unchanged = len(cases) - len(changed), n_known - len(changed)
            log.info("task %s: %d new cases; %d predictions kept", task, n_new, n_unchanged)
            if changed:
                message = "task %s: slides or genes of %d cases changed; they are predicted again: %s"
                log.warning(message, task, len(changed), some(changed))
        return pending

    def updated(self, new: pd.DataFrame) -> pd.DataFrame:
        """Merge new rows into the table.

        Args:
            new: rows with all key columns.

        Returns:
            All rows as text: a row with known keys replaces the previous one in place, others follow at the end.
        """
        text = _read(new.to_csv(index=False))
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


def _read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Convert the numbers in a table of text; ids, labels and other names stay text."""
    names = ("case_id", "task", "label", "prediction", "baseline", "reason", FINGERPRINT)
    return pd.read_csv(
        io.StringIO(rows.to_csv(index=False)), dtype=dict.fromkeys(names, str), float_precision="round_trip"
    )
