"""Columns that say which rows to leave out, as `excluded` or `QC`: they are not followed, and warned of."""

import re
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import count
from preprocessing.tables.reading import names_in, words_of

_BAD, _GOOD_DENIED = frozenset({"1", "yes", "y", "true", "x"}), frozenset({"0", "no", "n", "false"})
_EXCLUDED = {
    **dict.fromkeys(names_in("exclude excluded exclusion remove drop outlier is_outlier withdrawn"), _BAD),
    **dict.fromkeys(
        names_in("include included inclusion use used keep passed_qc qc_passed qc_pass consent"), _GOOD_DENIED
    ),
    **dict.fromkeys(names_in("qc qc_status quality_control rna_qc"), _GOOD_DENIED | {"fail", "failed", "bad"}),
}


def describe_exclusions(path: Path, frame: pd.DataFrame) -> list[str]:
    """Return a warning of each column that marks rows to be left out.

    Args:
        path: the table, for messages.
        frame: its rows.
    """
    notes = []
    for column in frame.columns:
        gone = _EXCLUDED.get("_".join(words_of(column)))
        if gone is None:
            continue
        values = frame[column].map(lambda value: re.sub(r"\.0$", "", str(value).strip().lower()), na_action="ignore")
        if marked := int(values.isin(gone).sum()):
            notes.append(
                f"warning: {path}: column {column} may mark {count(marked, 'row')} to be left out, but all rows are used; delete "
                "what is not to be used"
            )
    return notes
