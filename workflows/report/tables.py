"""The tables of the report, as rows of cells that know how they are sorted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.metrics import ClassificationMetrics, Metric, PredictorReport, TaskReport
from pipeline.run.finished import FinishedRun
from preprocessing.slides.selection import NOTABLE_UPSAMPLING
from workflows.report.images import thumbnail_url
from workflows.report.words import MODALITIES, metric_name, number, other_name, plain

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
    undrawn: Mapping[str, str] = run.record.get("thumbnails_failed", {})
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
                Cell("; ".join(filter(None, (_text(slide["reason"]), _optics(slide), _undrawn(undrawn, name))))),
            )
        )
    columns = ("", "slide", "case", "status", "#tiles", "#µm per pixel", "#seconds", "reason")
    return Table("slide-ledger", "", columns, tuple(rows))


def _undrawn(undrawn: Mapping[str, str], name: str) -> str:
    return f"not drawn: {undrawn[name]}" if name in undrawn else ""


def _optics(slide: Mapping[Any, Any]) -> str:
    """What is unusual about a slide's resolution: pixels that were enlarged, metadata that are contradicted or overridden."""
    factor, source = slide.get("upsampling"), _text(slide.get("mpp_source"))
    enlarged = f"coarser than the tiles: enlarged {factor:.2f} times" if factor and factor > NOTABLE_UPSAMPLING else ""
    doubtful = f"resolution from {source}" if "doubtful" in source or "overrides" in source else ""
    return "; ".join(filter(None, (enlarged, doubtful)))


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


@dataclass(frozen=True)
class _Row:
    """A predictor in the table of metrics; `path` is its own in metrics.json, `other` its key if it is compared with."""

    label: str
    path: str
    metrics: Mapping[str, Metric]
    other: str = ""
    small: str = ""


def metric_table(key: str, path: str, report: TaskReport[Any]) -> Table:
    """Each predictor with all its metrics, and the model's difference from it; `path` is the report's in metrics.json."""
    predictors = _predictors(path, report)
    metrics = list(dict.fromkeys(metric for row in predictors for metric in row.metrics))
    if trivial := report.model.pooled.trivial:
        where = f"{path}/model/pooled/trivial/metrics"
        predictors.append(_Row("trivial", where, trivial.metrics, small=trivial.description))
    rows = []
    for row in predictors:
        cells = [metric_cell(row.metrics.get(metric), f"{row.path}/{metric}") for metric in metrics]
        rows.append((Cell(row.label, row.small), _difference(report, row.other, path), *cells))
    columns = (
        "predictor",
        f"#{metric_name(report.headline)}: {report.model_name} minus it",
        *(f"#{_metric_title(name)}" for name in metrics),
    )
    return Table(key, "All predictors, pooled over the folds", columns, tuple(rows), _reasons(predictors))


def _predictors(path: str, report: TaskReport[Any]) -> list[_Row]:
    name, pooled = report.model_name, report.model.pooled
    rows = [_Row(name, f"{path}/model/pooled", dict(pooled.scalars()))]
    for modality, one in report.by_modality.items():
        if one.pooled != pooled:  # "both" is the model itself where every case has both
            where = f"{path}/by_modality/{modality}/pooled"
            rows.append(_Row(f"{name}, {MODALITIES[modality]}", where, dict(one.pooled.scalars())))
    for modalities, one in report.modalities.items():
        where = f"{path}/modalities/{modalities}/pooled"
        rows.append(_Row(f"{name}, cases with {modalities}", where, dict(one.pooled.scalars())))
    for part, others in (("comparators", report.comparators), ("baselines", report.baselines)):
        for other, one in others.items():
            where = f"{path}/{part}/{other}/pooled"
            rows.append(_Row(other_name(other), where, dict(one.pooled.scalars()), other))
    return rows


def _difference(report: TaskReport[Any], other: str, path: str) -> Cell:
    if other not in report.differences:
        return Cell()
    return metric_cell(report.differences[other], f"{path}/differences/{other}")


def _reasons(rows: Iterable[_Row]) -> tuple[str, ...]:
    """Why there are dashes, each reason once."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, metric in row.metrics.items():
            if metric.reason:
                found.setdefault(f"{_metric_title(name)}: {metric.reason}", []).append(row.label)
    return tuple(f"{reason} ({', '.join(labels)})" for reason, labels in found.items())


def fold_table(key: str, path: str, headline: str, model: PredictorReport[Any]) -> Table | None:
    """The model's metrics by fold; None where there are no folds."""
    if not model.folds:
        return None
    by_fold = [dict(fold.metrics.scalars()) for fold in model.folds]
    metrics = list(dict.fromkeys(metric for known in by_fold for metric in known))
    rows = []
    for i, (fold, known) in enumerate(zip(model.folds, by_fold, strict=True)):
        cells = [metric_cell(known.get(metric), f"{path}/folds/{i}/metrics/{metric}") for metric in metrics]
        rows.append((Cell(str(fold.fold), sort=float(fold.fold)), _count(fold.metrics.n), *cells))
    notes = []
    if model.mean is not None:
        sd = f", standard deviation {plain(model.sd)}" if model.sd is not None else ""
        notes.append(f"{metric_name(headline)}: mean over {model.n_folds} folds {plain(model.mean)}{sd}.")
    columns = ("fold", "#cases", *(f"#{_metric_title(name)}" for name in metrics))
    return Table(key, "By fold", columns, tuple(rows), tuple(notes))


def class_table(key: str, path: str, pooled: ClassificationMetrics) -> Table:
    """Sensitivity and specificity by class."""
    rows = [
        (
            Cell(name),
            _count(rates.n),
            metric_cell(rates.sensitivity, f"{path}/per_class/{name}/sensitivity"),
            metric_cell(rates.specificity, f"{path}/per_class/{name}/specificity"),
        )
        for name, rates in pooled.per_class.items()
    ]
    return Table(key, "By class", ("class", "#cases", "#sensitivity", "#specificity"), tuple(rows))


def _metric_title(path: str) -> str:
    part, _, month = path.partition("/")
    if part == "auc":
        return f"AUC at {month} months"
    return metric_name(month or part)


def metric_cell(metric: Metric | None, path: str) -> Cell:
    """A value with its interval beneath; a dash that says why where there is none."""
    if metric is None:
        return Cell()
    value, _, interval = number(metric).partition(" ")
    if path.endswith("/p_value") and value == "0.000":
        value = "< 0.001"
    return Cell(value, interval.strip("()"), sort=metric.value, path=path, title=_text(metric.reason))


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
