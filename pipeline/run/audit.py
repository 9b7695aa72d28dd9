"""The account at the end of a run: every id that came in has left, once."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from preprocessing.cohort import Cohort
from preprocessing.io.errors import RunError, some

log = logging.getLogger(__name__)


def require_account(folder: Path, cohort: Cohort, *, grows: bool = False) -> None:
    """Looks the files of a run over, as they were written.

    `slides.csv` must have a row for each slide file that was found, `cases.csv` one for each case that any input named, and
    `predictions.csv`, where there is one, one for each of these cases and each task.

    Args:
        folder: of the run.
        cohort: what came in.
        grows: `predictions.csv` keeps the rows of cases that came in at an earlier call and are not there any more.

    Raises:
        RunError: an id is missing, there twice, or of unknown origin, which is a fault of this program.
    """
    slides = _read(folder / "slides.csv")
    _compare(folder / "slides.csv", zip(slides["slide_id"], slides["path"], strict=True), _slides(cohort))
    cases = [str(case) for case in _read(folder / "cases.csv")["case_id"]]
    _compare(folder / "cases.csv", cases, cohort.named_cases())
    if (folder / "predictions.csv").is_file():
        for task, own in _read(folder / "predictions.csv").groupby("task"):
            earlier = set(own["case_id"]) - set(cases) if grows else set[str]()
            if earlier:
                told = "task %s: %d cases of earlier calls are not there any more, their predictions stay, not evaluated: %s"
                log.info(told, task, len(earlier), some(sorted(earlier)))
            own = own[~own["case_id"].isin(earlier)]
            _compare(f"{folder / 'predictions.csv'}, {task}", own["case_id"], cases)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _slides(cohort: Cohort) -> list[tuple[str, str]]:
    return [(file.slide_id, str(file.path.absolute())) for file in cohort.found]


def _compare(where: object, told: Iterable[object], came_in: Iterable[object]) -> None:
    out, ins = Counter(told), Counter(came_in)
    if out == ins:
        return
    missing, beyond = sorted(map(str, ins - out)), sorted(map(str, out - ins))
    raise RunError(
        f"{where}: not every id that came in is there once: missing {some(missing) or 'none'}; too many "
        f"{some(beyond) or 'none'}. This is a fault of the program: do not trust this run, and report it with its run.log"
    )
