"""The tables of the report, as rows of cells that know how they are sorted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.run.finished import FinishedRun
from workflows.report.images import thumbnail_url
from workflows.report.words import SHOWN, Told, metric_name, number, other_name, plain

LONG_FROM_ROWS = 12  # shorter tables are seen at a glance
STATUS_MARKS = {"failed": "bad", "left out": "bad", "excluded": "open", "untested": "open"}
GOOD = ("done", "reused")  # what a slide is that is used


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is read.
        small: beneath it, smaller.
        sort: what is sorted by; None: the text.
        path: of the value in metrics.json, its keys joined by slashes.
        title: what is shown when one points at it.
        mark: good, bad or open; empty for most.
        picture: a data URL instead of text.
    """

    text: str = ""
    small: str = ""
    sort: float | None = None
    path: str = ""
    title: str = ""
    mark: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under names.

    Attributes:
        key: its id in the page.
        title: above it; may be empty.
        columns: their names; those that begin with "#" hold numbers.
        rows: cells, as many as columns.
        notes: beneath it: why cells are empty.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def is_long(self) -> bool:
        """Whether it is scrolled in a frame of its own, and has a field for searching."""
        return len(self.rows) >= LONG_FROM_ROWS


def slide_table(run: FinishedRun) -> Table:
    """The ledger of slides, with their thumbnails; those that are not used come first."""
    undrawn: Mapping[str, str] = run.facts.get("thumbnails_failed", {})
    rows = []
    good = run.slides["status"].isin(GOOD)
    for slide in pd.concat([run.slides[~good], run.slides[good]]).to_dict("records"):
        name = str(slide["slide_id"])
        mpp = slide.get("mpp")
        rows.append(
            (
                _thumbnail(run, slide, is_undrawn=name in undrawn),
                Cell(name, title=str(slide.get("path", ""))),
                Cell(str(slide["case_id"])),
                status_cell(slide["status"]),
                _count(slide["n_tiles"]),
                Cell("–") if pd.isna(mpp) else Cell(f"{mpp:.4g}", _text(slide.get("mpp_source")), sort=float(mpp)),
                Cell(f"{slide['seconds']:.1f}", sort=float(slide["seconds"])),
                Cell(_text(slide["reason"]) or (f"not drawn: {undrawn[name]}" if name in undrawn else "")),
            )
        )
    columns = ("", "slide", "case", "status", "#tiles", "#µm per pixel", "#seconds", "reason")
    return Table("slide-ledger", "", columns, tuple(rows))


def _thumbnail(run: FinishedRun, slide: Mapping[Any, Any], *, is_undrawn: bool) -> Cell:
    name = str(slide["slide_id"])
    picture = thumbnail_url(run, name)
    if picture:
        outlined = "its tissue outlined" if slide["n_tiles"] else "no tissue outlined: it has no tiles"
        return Cell(picture=picture, title=f"{name}, {outlined}")
    if is_undrawn or slide["status"] not in GOOD:
        return Cell("not drawn", mark="open")
    return Cell("not drawn", "the run's command, given again, draws it")


def case_table(run: FinishedRun) -> Table:
    """Every case that came in: used or left out, with the reason, and its labels."""
    labels = [
        name
        for name in run.cases.columns
        if name not in ("case_id", "status", "reason", "n_slides", "has_genes") and run.cases[name].notna().any()
    ]
    rows = [
        (
            Cell(str(case["case_id"])),
            status_cell(case["status"]),
            _count(case["n_slides"]),
            Cell("yes" if case["has_genes"] else "no"),
            *(value_cell(case[name]) for name in labels),
            Cell(_text(case["reason"])),
        )
        for case in run.cases.to_dict("records")
    ]
    columns = ("case", "status", "#slides", "genes", *(name.replace("_", " ") for name in labels), "reason")
    return Table("case-table", "", columns, tuple(rows))


def diagnosis_table(run: FinishedRun) -> Table:
    """The integrated diagnosis of each case, and the rule that led to it."""
    columns = [name for name in run.diagnoses.columns if name not in ("case_id", "use")]
    rows = [
        (Cell(str(case["case_id"])), *(value_cell(case[name]) for name in columns))
        for case in run.diagnoses.to_dict("records")
    ]
    return Table("diagnosis-table", "", ("case", *(name.replace("_", " ") for name in columns)), tuple(rows))


def metric_table(key: str, path: str, report: Told) -> Table:
    """Each predictor with all its metrics, and the model's lead over it; `path` is the report's in metrics.json."""
    name = report["contender"]
    predictors: list[tuple[str, str, Told, str]] = [(name, f"{path}/model/pooled", report["model"]["pooled"], "")]
    for given in ("both", "slides", "genes"):
        pooled = report.get("inputs", {}).get(given, {}).get("pooled", report["model"]["pooled"])
        if pooled != report["model"]["pooled"]:  # "both" is the model itself where every case has both
            predictors.append((f"{name}, shown {SHOWN[given]}", f"{path}/inputs/{given}/pooled", pooled, ""))
    for given, told in report.get("rests_on", {}).items():
        predictors.append((f"{name}, cases with {given}", f"{path}/rests_on/{given}/pooled", told["pooled"], ""))
    for part in ("rivals", "baselines"):
        for other, told in report.get(part, {}).items():
            predictors.append((other_name(other), f"{path}/{part}/{other}/pooled", told["pooled"], other))
    metrics = list(dict.fromkeys(metric for _, _, told, _ in predictors for metric, _ in scalars(told)))
    rows = []
    for label, where, told, other in predictors:
        known = dict(scalars(told))
        cells = [metric_cell(known.get(metric), f"{where}/{metric}") for metric in metrics]
        rows.append((Cell(label), _lead(report, other, path), *cells))
    majority = report["model"]["pooled"].get("majority")
    if majority:
        where, known = f"{path}/model/pooled/majority", dict(scalars(majority))
        cells = [metric_cell(known.get(metric), f"{where}/{metric}") for metric in metrics]
        rows.append((Cell("trivial", "the most frequent class"), Cell(), *cells))
    columns = (
        "predictor",
        f"#lead in {metric_name(report['headline'])}",
        *(f"#{_metric_title(name)}" for name in metrics),
    )
    return Table(key, "All predictors, pooled over the folds", columns, tuple(rows), _reasons(predictors))


def _lead(report: Told, other: str, path: str) -> Cell:
    if not other or other not in report.get("lead", {}):
        return Cell()
    return metric_cell(report["lead"][other], f"{path}/lead/{other}")


def _reasons(predictors: Iterable[tuple[str, str, Told, str]]) -> tuple[str, ...]:
    """Why there are dashes, each reason once."""
    found: dict[str, list[str]] = {}
    for label, _, told, _ in predictors:
        for metric, value in scalars(told):
            if value.get("reason"):
                found.setdefault(f"{_metric_title(metric)}: {value['reason']}", []).append(label)
    return tuple(f"{reason} ({', '.join(labels)})" for reason, labels in found.items())


def fold_table(key: str, path: str, model: Told) -> Table | None:
    """The model's metrics by fold; None where there is a single one or none."""
    folds: Sequence[Told] = model.get("folds", [])
    if not folds:
        return None
    metrics = list(dict.fromkeys(metric for fold in folds for metric, _ in scalars(fold)))
    rows = []
    for i, fold in enumerate(folds):
        known = dict(scalars(fold))
        cells = [metric_cell(known.get(metric), f"{path}/folds/{i}/{metric}") for metric in metrics]
        rows.append((Cell(str(fold["fold"]), sort=float(fold["fold"])), _count(fold["n"]), *cells))
    notes = []
    if model.get("mean") is not None:
        spread = f", standard deviation {plain(model['sd'])}" if model.get("sd") is not None else ""
        notes.append(
            f"{metric_name(model['main'])}: mean over {model['n_folds']} folds {plain(model['mean'])}{spread}."
        )
    columns = ("fold", "#cases", *(f"#{_metric_title(name)}" for name in metrics))
    return Table(key, "By fold", columns, tuple(rows), tuple(notes))


def class_table(key: str, path: str, pooled: Told) -> Table | None:
    """Sensitivity and specificity by class."""
    if "per_class" not in pooled:
        return None
    rows = [
        (
            Cell(name),
            _count(told["n"]),
            *(
                metric_cell(told[metric], f"{path}/per_class/{name}/{metric}")
                for metric in ("sensitivity", "specificity")
            ),
        )
        for name, told in pooled["per_class"].items()
    ]
    return Table(key, "By class", ("class", "#cases", "#sensitivity", "#specificity"), tuple(rows))


def scalars(told: Told, prefix: str = "") -> list[tuple[str, Told]]:
    """The metrics of a report by their path in it, those by month and of risk groups too; not those by class or third."""
    found: list[tuple[str, Told]] = []
    for name, value in told.items():
        if not isinstance(value, Mapping) or name in ("per_class", "calibration", "majority", "confusion"):
            continue
        if set(value) == {"value", "low", "high", "reason"}:
            found.append((prefix + name, value))
        else:
            found += scalars(value, f"{prefix}{name}/")
    return found


def _metric_title(path: str) -> str:
    part, _, month = path.partition("/")
    if part == "auc":
        return f"AUC at {month} months"
    return metric_name(month or part)


def metric_cell(told: Told | None, path: str) -> Cell:
    """A value with its interval beneath; a dash that says why where there is none."""
    if told is None:
        return Cell()
    value, _, interval = number(told).partition(" ")
    if path.endswith("/p_value") and value == "0.000":
        value = "< 0.001"
    sort = None if told.get("value") is None else float(told["value"])
    return Cell(value, interval.strip("()"), sort=sort, path=path, title=_text(told.get("reason")))


def status_cell(status: object) -> Cell:
    """A status, marked good or bad."""
    return Cell(str(status), mark=STATUS_MARKS.get(str(status), ""))


def _count(value: float) -> Cell:
    return Cell("–") if pd.isna(value) else Cell(f"{int(value):,}", sort=float(value))


def value_cell(value: object) -> Cell:
    """A cell of a table of the run: numbers short, what is missing a dash."""
    if value is None or value == "" or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return Cell("–")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(f"{value:.0f}" if float(value).is_integer() else f"{value:.5g}", sort=float(value))
    return Cell(str(value))


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and pd.isna(value)) else str(value)
