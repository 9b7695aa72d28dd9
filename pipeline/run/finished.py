"""The files of a finished run, each read when it is first needed: the one reader of a run folder.

Any file may be missing: a run may end before training, predict a new cohort, or explain nothing.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.metrics import TaskReport
from pipeline.metrics.report import read_reports
from pipeline.run.explanation_file import read_explanation
from pipeline.tasks import Task, metrics_types, restore_task
from preprocessing.io.errors import InputError, some
from preprocessing.io.fingerprints import file_fingerprint
from preprocessing.io.outputs import damaged, read_json, read_table

log = logging.getLogger(__name__)
FORMAT = 5  # of the files in a run folder; raise it whenever a file, column or key changes
TRAINING_CASE = "training case of this model: excluded from the metrics"  # reason of a prediction
COMMAND = "command: "  # begins the first line of each call in run.log
TEXT_COLUMNS = ("case_id", "slide_id", "label", "prediction", "status", "reason", "set_90", "path", "tiles", "features")


@dataclass(frozen=True)
class FinishedRun:
    """A run folder that a run has finished.

    Attributes:
        folder: the run folder.
        record: the content of `run.json`.
    """

    folder: Path
    record: Mapping[str, Any] = field(repr=False)

    @cached_property
    def config_text(self) -> str:
        """The resolved configuration, YAML."""
        return _text(self.folder / "config.yaml")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, nested; empty where the file is missing."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            return {}
        try:
            content = yaml.safe_load(self.config_text)
        except (yaml.YAMLError, RecursionError) as error:
            raise damaged(path, error) from None
        if not isinstance(content, dict) or not {"slides", "genes", "tiles"} <= content.keys():
            raise damaged(path, "it contains no whole configuration")
        return content

    @cached_property
    def cases(self) -> pd.DataFrame:
        """`cases.csv`: a row for each case of the input."""
        return _table(self.folder / "cases.csv", "case_id", "status")

    @cached_property
    def slides(self) -> pd.DataFrame:
        """`slides.csv`: a row for each slide file of the input."""
        return _table(self.folder / "slides.csv", "slide_id", "case_id", "status")

    @cached_property
    def failed_slides(self) -> dict[str, str]:
        """The reason of each slide that failed, by id."""
        if not len(self.slides):
            return {}
        failed = self.slides[self.slides["status"] == "failed"]
        return dict(zip(failed["slide_id"], failed["reason"], strict=True))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """`predictions.csv`: a row for each task and case; empty where nothing was predicted."""
        path = self.folder / "predictions.csv"
        table = _table(path, "case_id", "task")
        if len(table) and table["task"].isna().any():
            raise damaged(path, "a row has no task")
        return table

    @cached_property
    def diagnoses(self) -> pd.DataFrame:
        """`diagnoses.csv`; empty where there is none."""
        return _table(self.folder / "diagnoses.csv", "case_id")

    @cached_property
    def metrics(self) -> Mapping[str, TaskReport[Any]]:
        """`metrics.json` by task; empty where there are none."""
        path = self.folder / "metrics.json"
        return read_reports(path, metrics_types()) if path.is_file() else {}

    @cached_property
    def explanations(self) -> Mapping[str, Any]:
        """`explain/TASK.json` by task; empty where nothing was explained."""
        return {task: read_explanation(self.folder / "explain" / f"{task}.json") for task in self.explained_tasks()}

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """The warnings and errors in `run.log` of the last call that computed something, each once."""
        return _warnings(self._calls[-1])

    @cached_property
    def earlier_warnings(self) -> tuple[str, ...]:
        """Those of earlier calls that the last one did not repeat, each once."""
        return tuple(text for text in _warnings("\n".join(self._calls[:-1])) if text not in self.warnings)

    @cached_property
    def _calls(self) -> list[str]:
        """`run.log`, divided into the calls of the run's command."""
        return re.split(rf"^(?=\S+ \S+ DEBUG \S+: {COMMAND})", _text(self.folder / "run.log"), flags=re.MULTILINE)

    @cached_property
    def definitions(self) -> Mapping[str, Task]:
        """The tasks of the run, by name."""
        return {name: restore_task(described) for name, described in self.record.get("tasks", {}).items()}

    def tasks(self) -> list[str]:
        """List the tasks with metrics or predictions."""
        predicted = self.predictions["task"].unique() if len(self.predictions) else ()
        return list(dict.fromkeys([*self.metrics, *predicted]))

    def explained_tasks(self) -> list[str]:
        """List the tasks with explanations, without reading these."""
        return sorted(path.stem for path in (self.folder / "explain").glob("*.json"))

    def predicted(self, task: str, *, status: str | None = None) -> pd.DataFrame:
        """Return the predictions of one task for the cases of `cases.csv`, without columns that only other tasks have.

        Args:
            task: name of the task.
            status: only rows of this status, such as `tested`; None: all.
        """
        rows = self._rows(task)
        if status is not None and "status" in rows:
            rows = rows[rows["status"] == status]
        return rows.dropna(axis="columns", how="all").reset_index(drop=True)

    def tested(self, task: str) -> pd.DataFrame:
        """Return the predictions of one task by which its model is judged, as `predicted` does.

        They are of the test cases; of a new cohort, of all predicted cases that the model was not trained on.
        """
        tested = self.predicted(task, status="tested")
        if len(tested):
            return tested
        rows = self.predicted(task, status="predicted")
        return rows[rows["reason"] != TRAINING_CASE].reset_index(drop=True) if "reason" in rows else rows

    def of_earlier_calls(self, task: str) -> list[str]:
        """List the cases whose predictions an earlier call on a new cohort left, and which the last one did not have."""
        if self.predictions.empty or self.cases.empty:
            return []
        cases = self.predictions.loc[self.predictions["task"] == task, "case_id"]
        return sorted(set(cases) - set(self.cases["case_id"]))

    def _rows(self, task: str) -> pd.DataFrame:
        """The predictions of one task, without those of earlier calls."""
        if self.predictions.empty:
            return self.predictions
        rows = self.predictions[self.predictions["task"] == task]
        return rows[~rows["case_id"].isin(self.of_earlier_calls(task))]

    def history(self, task: str, model: str) -> pd.DataFrame:
        """Return the losses of training by fold, member and epoch; empty where the folder has no folds."""
        tables = [
            read_table(path).assign(fold=path.parent.name.removeprefix("fold_"))
            for path in sorted((self.folder / "folds" / task / model).glob("*/history.csv"))
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def read_run(folder: Path) -> FinishedRun:
    """Open the folder of a finished run.

    Raises:
        InputError: no run has finished in the folder, or a run of another version of this program.
    """
    if not (folder / "run.json").is_file():
        begun = (folder / "identity.json").is_file()
        raise InputError(
            f"{folder} contains an unfinished run: repeat its command to resume it"
            if begun
            else f"{folder} contains no run (there is no run.json): name the folder that a run was written to"
        )
    record = _json(folder / "run.json")
    if (found := record.get("format", 1)) != FORMAT:  # the first format has no number
        raise InputError(
            f"{folder / 'run.json'} has format {found}, this version reads {FORMAT}; use the version that wrote it, or run "
            "its command again with another --out"
        )
    _warn_of_changes(folder, record)
    return FinishedRun(folder, record)


def result_hashes(folder: Path) -> dict[str, str]:
    """Hash each table and JSON file that reports and exports read, by its path in the run folder, for `run.json`."""
    paths = [*folder.glob("*.csv"), folder / "metrics.json", *folder.glob("explain/*.json")]
    return {path.relative_to(folder).as_posix(): file_fingerprint(path) for path in sorted(paths) if path.is_file()}


def _warn_of_changes(folder: Path, record: Mapping[str, Any]) -> None:
    """Log the files that are not what the run wrote: what is drawn or exported from them is not its result."""
    written = record.get("files")
    if not isinstance(written, Mapping):
        return
    found = result_hashes(folder)
    if changed := sorted(name for name in written if written[name] != found.get(name)):
        log.warning(
            "%s: %s changed or lost since the run wrote it; repeat the command of the run", folder, some(changed)
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path)


def _table(path: Path, *columns: str) -> pd.DataFrame:
    """Read a table that has these columns, where there is one; ids and classes stay text: 007 is not 7, and an id may be "NA"."""
    if not path.is_file():
        return pd.DataFrame()
    as_text: Callable[[str], str] = str
    there = set(read_table(path, *columns, nrows=0).columns)
    converters = {name: as_text for name in TEXT_COLUMNS if name in there}
    return read_table(path, converters=converters, low_memory=False)


def _warnings(log_text: str) -> tuple[str, ...]:
    """Messages of lines such as "2026-11-25 14:17:09,362 WARNING pipeline.cluster.mapping: tiling S1: failed …"."""
    found = [
        line.split(": ", 1)[-1] for line in log_text.splitlines() if " WARNING " in line[:40] or " ERROR " in line[:40]
    ]
    return tuple(dict.fromkeys(found))
