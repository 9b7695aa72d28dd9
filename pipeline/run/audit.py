"""The audit at the end of a run: every id of the input is in the output exactly once."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from preprocessing.cohort import Cohort
from preprocessing.io.errors import RunError, some

log = logging.getLogger(__name__)


def require_complete(folder: Path, cohort: Cohort, *, keeps_earlier: bool = False) -> None:
    """Check the ledgers and predictions of a run as they were written.

    `slides.csv` must have a row for each slide file that was found, `cases.csv` one for each case of any input, and
    `predictions.csv`, where there is one, one for each of these cases and each task.

    Args:
        folder: the run folder.
        cohort: the input.
        keeps_earlier: whether `predictions.csv` may keep cases of earlier calls that are no longer in the input.

    Raises:
        RunError: an id is missing, duplicated or unknown, which is a fault of this program.
    """
    slides = _read(folder / "slides.csv")
    found = [(file.slide_id, file.location) for file in cohort.found]
    _compare(folder / "slides.csv", zip(slides["slide_id"], slides["path"], strict=True), found)
    cases = [str(case) for case in _read(folder / "cases.csv")["case_id"]]
    _compare(folder / "cases.csv", cases, cohort.named_cases())
    if (folder / "predictions.csv").is_file():
        for task, rows in _read(folder / "predictions.csv").groupby("task"):
            earlier = set(rows["case_id"]) - set(cases) if keeps_earlier else set[str]()
            if earlier:
                message = "task %s: predictions of %d cases of earlier calls are kept and not evaluated: %s"
                log.info(message, task, len(earlier), some(sorted(earlier)))
            written = rows.loc[~rows["case_id"].isin(earlier), "case_id"]
            _compare(f"{folder / 'predictions.csv'}, {task}", written, cases)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _compare(table: object, written: Iterable[object], expected: Iterable[object]) -> None:
    out, ins = Counter(written), Counter(expected)
    if out == ins:
        return
    missing, surplus = sorted(map(str, ins - out)), sorted(map(str, out - ins))
    raise RunError(
        f"{table}: not every id of the input is there exactly once: missing {some(missing) or 'none'}; surplus "
        f"{some(surplus) or 'none'}. This is a fault of the program: do not trust this run, and report it with its run.log"
    )
