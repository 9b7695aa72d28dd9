"""What a run folder holds, read once. Any part may be missing: a run may end before training, or be of a new cohort."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image

from pipeline.run.explanation_file import read_explanation
from pipeline.slides.thumbnails import thumbnail_path
from preprocessing.io.errors import InputError


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: the folder.
        facts: `run.json`.
        config: the resolved configuration.
        config_text: the same as YAML.
        cases: `cases.csv`.
        slides: `slides.csv`.
        predictions: `predictions.csv`; empty where nothing was predicted.
        diagnoses: `diagnoses.csv`; empty where there is none.
        metrics: `metrics.json` by task; empty where there are none.
        explanations: `explain/TASK.json` by task.
        warnings: what the log warned of, each once.
    """

    path: Path
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    config_text: str
    cases: pd.DataFrame
    slides: pd.DataFrame
    predictions: pd.DataFrame
    diagnoses: pd.DataFrame
    metrics: Mapping[str, Any]
    explanations: Mapping[str, Any]
    warnings: tuple[str, ...]

    def tasks(self) -> list[str]:
        """Those with metrics or predictions."""
        predicted = self.predictions["task"].unique() if len(self.predictions) else ()
        return list(dict.fromkeys([*self.metrics, *predicted]))

    def predicted(self, task: str, *, status: str | None = None) -> pd.DataFrame:
        """The rows of one task, without the columns that only others have."""
        if self.predictions.empty:
            return self.predictions
        own = self.predictions[self.predictions["task"] == task]
        if status is not None and "status" in own:
            own = own[own["status"] == status]
        return own.dropna(axis="columns", how="all").reset_index(drop=True)

    def thumbnail(self, slide_id: str) -> str | None:
        """The picture of a slide as a data URL; None where there is none."""
        return data_url(thumbnail_path(self.path / "thumbnails", slide_id))

    def history(self, task: str, model: str) -> pd.DataFrame:
        """Losses by fold, member and epoch; empty where folds were not kept."""
        tables = [
            pd.read_csv(path).assign(fold=path.parent.name.removeprefix("fold_"))
            for path in sorted((self.path / "folds" / task / model).glob("*/history.csv"))
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def read_run(folder: Path) -> RunFolder:
    """The files of a finished run.

    Raises:
        InputError: the folder holds none.
    """
    if not (folder / "run.json").is_file():
        known = (folder / "identity.json").is_file()
        raise InputError(
            f"report: {folder} holds a run that is not finished: give its command again, and it goes on"
            if known
            else f"report: {folder} holds no run (there is no run.json): name the folder that a run was written to"
        )
    text = _text(folder / "config.yaml")
    return RunFolder(
        path=folder,
        facts=_json(folder / "run.json"),
        config=yaml.safe_load(text) or {},
        config_text=text,
        cases=_table(folder / "cases.csv"),
        slides=_table(folder / "slides.csv"),
        predictions=_table(folder / "predictions.csv"),
        diagnoses=_table(folder / "diagnoses.csv"),
        metrics=_json(folder / "metrics.json"),
        explanations={path.stem: read_explanation(path) for path in sorted((folder / "explain").glob("*.json"))},
        warnings=_warnings(_text(folder / "run.log")),
    )


def data_url(path: Path, *, most_px: int | None = None) -> str | None:
    """A JPEG as text that a page may hold, made smaller than `most_px` a side where it is larger; None where there is no file."""
    if not path.is_file():
        return None
    content = path.read_bytes() if most_px is None else _smaller(path, most_px)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _smaller(path: Path, most_px: int) -> bytes:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((most_px, most_px))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=75)
    return content.getvalue()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"report: {path} is damaged ({error}); give the run's command again") from None


def _table(path: Path) -> pd.DataFrame:
    """Ids and classes stay text: case 007 is not case 7. An id "NA" is one too."""
    if not path.is_file():
        return pd.DataFrame()
    texts = ("case_id", "slide_id", "label", "prediction", "status", "reason", "set_90")
    as_text: Callable[[str], str] = str
    try:
        there = set(pd.read_csv(path, nrows=0).columns)
        converters = {name: as_text for name in texts if name in there}
        return pd.read_csv(path, converters=converters, low_memory=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"report: {path} is damaged ({error}); give the run's command again") from None


def _warnings(log_text: str) -> tuple[str, ...]:
    """Lines as "2026-11-25 14:17:09,362 WARNING pipeline.cluster.mapping: tiling S1: failed …", without time and module."""
    found = [
        line.split(": ", 1)[-1] for line in log_text.splitlines() if " WARNING " in line[:40] or " ERROR " in line[:40]
    ]
    return tuple(dict.fromkeys(found))
