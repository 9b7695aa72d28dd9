"""Tables of the report, with the sort key and the path in metrics.json of each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.metrics import ClassificationMetrics, Metric, PredictorReport, TaskReport
from pipeline.metrics.report import metric_name
from pipeline.run.finished import FinishedRun
from pipeline.run.formatting import decimal, number
from preprocessing.io.errors import count
from preprocessing.slide_lists.selection import NOTABLE_UPSAMPLING
from workflows.report.plain.images import anchor_of, thumbnail_url
from workflows.report.plain.phrasing import MODALITIES, column_name, comparator_name

MIN_ROWS_LONG = 12  # from here on a table scrolls and has a search field
STATUS_MARKS = {"failed": "bad", "left out": "bad", "excluded": "open", "untested": "open"}
USABLE = ("done", "reused")  # status of slides with features


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the main text.
        small: a second line in small type.
        sort: the sort key; None: the text.
        path: path of the value in metrics.json, keys joined by slashes.
        title: tooltip.
        mark: good, bad or open (colour of the text); empty: none.
        picture: data URL of an image that replaces the text.
        link: HTML id that the text links to.
    """

    text: str = ""
    small: str = ""
    sort: float | None = None
    path: str = ""
    title: str = ""
    mark: str = ""
    picture: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: HTML id.
        title: heading; may be empty.
        columns: column headers; a leading "#" marks a numeric column.
        rows: cells by row, one per column.
        notes: footnotes, such as reasons for missing values.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def is_long(self) -> bool:
        """Whether the table scrolls in a frame and has a search field."""
        return len(self.rows) >= MIN_ROWS_LONG


def slide_table(run: FinishedRun) -> Table:
    """Table of slides with thumbnails, failed and excluded slides first."""
    failed_thumbnails: Mapping[str, str] = run.record.get("thumbnails_failed", {})
    rows = []
    usable = run.slides["status"].isin(USABLE)
    for slide in pd.concat([run.slides[~usable], run.slides[usable]]).to_dict("records"):
        name = str(slide["slide_id"])
        mpp = slide.get("mpp")
        rows.append(
            (
                _thumbnail(run, slide, has_failed=name in failed_thumbnails),
                Cell(name, title=str(slide.get("path", ""))),
                case_cell(slide["case_id"]),
                status_cell(slide["status"]),
                _count(slide["n_tiles"]),
                Cell("–") if pd.isna(mpp) else Cell(f"{mpp:.4g}", _text(slide.get("mpp_source")), sort=float(mpp)),
                Cell(f"{slide['seconds']:.1f}", sort=float(slide["seconds"])),
                Cell(_slide_notes(slide, failed_thumbnails.get(name))),
            )
        )
    columns = ("", "slide", "case", "status", "#tiles", "#µm/px", "#seconds", "notes")
    return Table("slide-table", "", columns, tuple(rows))


def _slide_notes(slide: Mapping[Any, Any], thumbnail_failure: str | None) -> str:
    """Why a slide failed or was excluded, an unusual resolution, and why it has no thumbnail."""
    no_thumbnail = f"no thumbnail: {thumbnail_failure}" if thumbnail_failure else ""
    return "; ".join(filter(None, (_text(slide["reason"]), _resolution_note(slide), no_thumbnail)))


def _resolution_note(slide: Mapping[Any, Any]) -> str:
    """Upsampled pixels, and resolution metadata that are contradicted or overridden; empty: neither."""
    factor, source = slide.get("upsampling"), _text(slide.get("mpp_source"))
    upsampled = f"coarser than the tiles: upsampled {factor:.2f}-fold" if factor and factor > NOTABLE_UPSAMPLING else ""
    doubtful = f"resolution from {source}" if "doubtful" in source or "overrides" in source else ""
    return "; ".join(filter(None, (upsampled, doubtful)))


def _thumbnail(run: FinishedRun, slide: Mapping[Any, Any], *, has_failed: bool) -> Cell:
    name = str(slide["slide_id"])
    picture = thumbnail_url(run, name)
    if picture:
        outline = "tissue outlined" if slide["n_tiles"] else "no tissue outline: no tiles"
        return Cell(picture=picture, title=f"{name}, {outline}")
    if has_failed or slide["status"] not in USABLE:
        return Cell("no thumbnail", mark="open")
    return Cell("no thumbnail", "repeat the run's command to make it")


def case_table(run: FinishedRun) -> Table:
    """Table of all input cases: status, data available, labels, and the reason for exclusion."""
    labels = [
        name
        for name in run.cases.columns
        if name not in ("case_id", "status", "reason", "n_slides", "has_genes", "who2021_rule")
        and run.cases[name].notna().any()
    ]
    reasons = ["reason"] if run.cases["reason"].map(_text).any() else []
    rows = [
        (
            case_cell(case["case_id"]),
            status_cell(case["status"]),
            _count(case["n_slides"]),
            Cell("yes" if case["has_genes"] else "no"),
            *(value_cell(case[name]) for name in labels),
            *(Cell(_text(case[name])) for name in reasons),
        )
        for case in run.cases.to_dict("records")
    ]
    columns = ("case", "status", "#slides", "genes", *map(column_name, labels), *reasons)
    return Table("case-table", "", columns, tuple(rows))


def diagnosis_table(run: FinishedRun) -> Table:
    """Table of the integrated diagnosis of each case and the rule applied."""
    columns = [name for name in run.diagnoses.columns if name not in ("case_id", "use")]
    rows = [
        (case_cell(case["case_id"]), *(value_cell(case[name]) for name in columns))
        for case in run.diagnoses.to_dict("records")
    ]
    return Table("diagnosis-table", "", ("case", *(column_name(name) for name in columns)), tuple(rows))


@dataclass(frozen=True)
class _Row:
    """A predictor in the table of metrics.

    Attributes:
        label: display name.
        path: path of its metrics in metrics.json.
        metrics: metrics by path below `path`.
        comparator: key of a comparator or baseline; empty for the model.
        small: second line beneath the label.
    """

    label: str
    path: str
    metrics: Mapping[str, Metric]
    comparator: str = ""
    small: str = ""


def metric_table(key: str, path: str, report: TaskReport[Any]) -> Table:
    """Table of all metrics by predictor, with the difference from the model.

    Args:
        key: HTML id.
        path: path of the report in metrics.json.
        report: the report of the task.
    """
    predictors = _predictors(path, report)
    metrics = list(dict.fromkeys(metric for row in predictors for metric in row.metrics))
    notes = _reasons(predictors, "all predictors")
    if trivial := report.model.pooled.trivial:
        where = f"{path}/model/pooled/trivial/metrics"
        predictors.append(_Row("trivial", where, trivial.metrics, small=trivial.description))
        notes += _reasons(predictors[-1:], "")
    rows = []
    for row in predictors:
        cells = [metric_cell(row.metrics.get(metric), f"{row.path}/{metric}") for metric in metrics]
        difference = [_difference(report, row.comparator, path)] if report.others() else []
        rows.append((Cell(row.label, row.small), *difference, *cells))
    compared = [f"#Δ {metric_name(report.headline)}: {report.model_name} − predictor"] if report.others() else []
    columns = ("predictor", *compared, *(f"#{_metric_title(name)}" for name in metrics))
    title = "All predictors" if report.new_cohort else "All predictors, test cases of all folds pooled"
    return Table(key, title, columns, tuple(rows), notes)


def _predictors(path: str, report: TaskReport[Any]) -> list[_Row]:
    name, pooled = report.model_name, report.model.pooled
    rows = [_Row(name, f"{path}/model/pooled", dict(pooled.scalars()))]
    for modality, one in report.by_modality.items():
        if one.pooled != pooled:  # "both" is the model itself where every case has both
            where = f"{path}/by_modality/{modality}/pooled"
            rows.append(
                _Row(f"{name}, {MODALITIES[modality]}", where, dict(one.pooled.scalars()), small=_cases(one, report))
            )
    for modalities, one in report.modalities.items():
        if one.pooled.n < report.n:  # with those of all cases, it is the model itself
            where = f"{path}/modalities/{modalities}/pooled"
            label = f"{name}, cases with {modalities}"
            rows.append(_Row(label, where, dict(one.pooled.scalars()), small=_cases(one, report)))
    for part, others in (("comparators", report.comparators), ("baselines", report.baselines)):
        for other, one in others.items():
            where = f"{path}/{part}/{other}/pooled"
            rows.append(_Row(comparator_name(other), where, dict(one.pooled.scalars()), other))
    return rows


def _cases(predictor: PredictorReport[Any], report: TaskReport[Any]) -> str:
    """The number of cases, where it is not that of the model."""
    return "" if predictor.pooled.n == report.n else f"{predictor.pooled.n} of {count(report.n, 'case')}"


def _difference(report: TaskReport[Any], comparator: str, path: str) -> Cell:
    if comparator not in report.differences:
        return Cell()
    return metric_cell(report.differences[comparator], f"{path}/differences/{comparator}")


def _reasons(rows: Sequence[_Row], everywhere: str) -> tuple[str, ...]:
    """Reasons for missing values and intervals, each once with its metrics and rows; `everywhere`: all of them."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        known = {row.label: row.metrics[name].reason for row in rows if name in row.metrics}
        for reason in dict.fromkeys(filter(None, known.values())):
            labels = [label for label, its in known.items() if its == reason]
            where = everywhere if len(labels) == len(known) > 1 else "; ".join(labels)
            found.setdefault((reason, where), []).append(_metric_title(name))
    return tuple(f"{', '.join(names)}: {reason} ({where})" for (reason, where), names in found.items())


def fold_table(key: str, path: str, headline: str, model: PredictorReport[Any]) -> Table | None:
    """Table of the metrics of the model by fold; None where there are no folds."""
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
        sd = f", standard deviation {decimal(model.sd)}" if model.sd is not None else ""
        notes.append(f"{metric_name(headline)}: mean over {model.n_folds} folds {decimal(model.mean)}{sd}.")
    tests = [
        _Row(
            f"fold {fold.fold}", "", {name: metric for name, metric in known.items() if name.startswith("risk_groups/")}
        )
        for fold, known in zip(model.folds, by_fold, strict=True)
    ]
    columns = ("fold", "#cases", *(f"#{_metric_title(name)}" for name in metrics))
    return Table(key, "By fold", columns, tuple(rows), (*notes, *_reasons(tests, "all folds")))


def transfer_table(key: str, path: str, report: TaskReport[Any]) -> Table | None:
    """Table of the headline metric by cohorts of training and test; None for a single cohort."""
    if not report.transfer:
        return None
    names = list(report.transfer[0].headline)
    rows = []
    for i, one in enumerate(report.transfer):
        where = f"{path}/transfer/{i}/headline"
        cells = [metric_cell(one.headline[name], f"{where}/{name}") for name in names]
        rows.append((Cell(one.scheme), Cell(" + ".join(one.train)), Cell(one.test), _count(one.n), *cells))
    columns = ("folds by", "trained on", "tested on", "#cases", *(f"#{comparator_name(name)}" for name in names))
    title = f"By cohorts: {metric_name(report.headline)}"
    return Table(key, title, columns, tuple(rows))


def weight_table(key: str, stack: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table | None:
    """Table of the weights of the model's parts, by the modalities of a case and by fold; None without parts.

    Args:
        key: HTML id.
        stack: weight of each part, by fold (or final model) and modalities.
    """
    parts = list(dict.fromkeys(part for by_inputs in stack.values() for one in by_inputs.values() for part in one))
    inputs = list(dict.fromkeys(name for by_inputs in stack.values() for name in by_inputs))
    if not parts:
        return None
    rows = [
        (
            Cell(name),
            Cell(job.replace("_", " ")),
            *(Cell("–") if part not in weights else Cell(f"{weights[part]:.2f}", sort=weights[part]) for part in parts),
        )
        for name in inputs
        for job, by_inputs in stack.items()
        if (weights := by_inputs.get(name))
    ]
    return Table(key, "", ("cases with", "trained in", *(f"#{part}" for part in parts)), tuple(rows))


def class_table(key: str, path: str, pooled: ClassificationMetrics) -> Table:
    """Table of sensitivity and specificity by class."""
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
    if part == "label_auc":
        return f"AUC of {month}"
    return metric_name(month or part)


def metric_cell(metric: Metric | None, path: str) -> Cell:
    """Cell with a value and its confidence interval; a dash with the reason as tooltip where there is no value."""
    if metric is None:
        return Cell()
    value, _, interval = number(metric).partition(" ")
    if path.endswith("/p_value") and value == "0.000":
        value = "< 0.001"
    return Cell(value, interval.strip("()"), sort=metric.value, path=path, title=_text(metric.reason))


def case_cell(case_id: object) -> Cell:
    """Cell with a case that links to its panel."""
    return Cell(str(case_id), link=anchor_of(str(case_id)))


def status_cell(status: object) -> Cell:
    """Cell with a status, coloured where it needs attention."""
    return Cell(str(status), mark=STATUS_MARKS.get(str(status), ""))


def _count(value: float) -> Cell:
    return Cell("–") if pd.isna(value) else Cell(f"{int(value):,}", sort=float(value))


def value_cell(value: object) -> Cell:
    """Cell with a value of a CSV table: numbers rounded, missing values as a dash."""
    if value is None or value == "" or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return Cell("–")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}", sort=float(value))
    return Cell(str(value))


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and pd.isna(value)) else str(value)
