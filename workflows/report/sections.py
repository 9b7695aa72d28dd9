"""The sections of the report: the flow of cases, a section a task, explanations, and how the run was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.metrics import TaskReport
from pipeline.run.finished import FinishedRun
from workflows.report import charts
from workflows.report.chart import Chart
from workflows.report.kinds import Confusion, KindView, kind_of
from workflows.report.prediction_table import prediction_table
from workflows.report.tables import Cell, Table, fold_table, metric_table
from workflows.report.words import Verdict, judge, number, why_left_out


@dataclass(frozen=True)
class Flow:
    """How many cases came in, and what became of them.

    Attributes:
        came_in: cases that any input named.
        left_out: how many for each reason.
        used: how many were left.
        tasks: of each task, how many by status.
        slides: how many slides by status.
    """

    came_in: int
    left_out: Mapping[str, int]
    used: int
    tasks: Mapping[str, Mapping[str, int]]
    slides: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """A model and what it is compared with on the same folds.

    Attributes:
        title: which folds.
        charts: values and differences.
        tables: metrics, folds, classes.
        verdict: in words.
    """

    title: str
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    verdict: Verdict


@dataclass(frozen=True)
class TaskView:
    """What the page tells of a task.

    Attributes:
        name: the task.
        title: with a capital.
        about: cases, events, classes.
        headline: key of its main metric; empty without metrics.
        verdict: None where there are no metrics.
        no_metrics: why; None where there are.
        comparisons: the main fold scheme's, and those of others.
        charts: of the model's own predictions.
        confusions: one a predictor.
        predictions: None where nothing was predicted.
        left_out: features that define the label, with the reason.
        notes: on genes and slides.
        explanation: what explain/TASK.json says; None where there is none.
    """

    name: str
    title: str
    about: str
    headline: str
    verdict: Verdict | None
    no_metrics: str | None
    comparisons: tuple[Comparison, ...]
    charts: tuple[Chart, ...]
    confusions: tuple[Confusion, ...]
    predictions: Table | None
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    explanation: Mapping[str, Any] | None


def flow(run: FinishedRun) -> Flow:
    """The flow of cases through the run."""
    cases = run.cases
    left_out = (
        cases.loc[cases["status"] == "left out", "reason"].map(why_left_out) if len(cases) else pd.Series(dtype=str)
    )
    tasks = {name: _by_status(run.predicted(name)) for name in run.tasks()}
    return Flow(
        came_in=len(cases),
        left_out=_counted(left_out),
        used=int((cases["status"] == "used").sum()) if len(cases) else 0,
        tasks=tasks,
        slides=_counted(run.slides["status"]) if len(run.slides) else {},
    )


def _by_status(predicted: pd.DataFrame) -> dict[str, int]:
    """How many cases have each status; those that were left out are told before."""
    if "status" not in predicted:
        return {"predicted": predicted["case_id"].nunique()} if len(predicted) else {}
    used = predicted[predicted["status"] != "left out"]
    return {str(name): rows["case_id"].nunique() for name, rows in used.groupby("status", sort=False)}


def _counted(values: pd.Series) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return {str(name): int(n) for name, n in values.value_counts().items()}


def task_view(run: FinishedRun, name: str) -> TaskView:
    """The section of one task."""
    report, predicted = run.metrics.get(name), run.predicted(name)
    return TaskView(
        name=name,
        title=name.capitalize(),
        about=_about(run, name, report),
        headline=report.headline if report else "",
        verdict=judge(report) if report else None,
        no_metrics=None
        if report
        else "There are no metrics: metrics.json has no report of this task, as without labels.",
        comparisons=_comparisons(name, report) if report else (),
        charts=_charts(run, name, report),
        confusions=kind_of(name).confusions(report) if report else (),
        predictions=prediction_table(f"{name}-predictions", name, predicted) if len(predicted) else None,
        left_out=report.excluded_features if report else {},
        notes=_notes(report) if report else (),
        explanation=run.explanations.get(name),
    )


def _tested(run: FinishedRun, name: str) -> pd.DataFrame:
    """The cases whose predictions count: of a new cohort, all that were predicted."""
    tested = run.predicted(name, status="tested")
    return tested if len(tested) else run.predicted(name, status="predicted")


def _about(run: FinishedRun, name: str, report: TaskReport[Any] | None) -> str:
    tested = _tested(run, name)
    parts = [f"{report.n} cases tested" if report else f"{len(run.predicted(name))} cases predicted"]
    if about := kind_of(name).about(tested):
        parts.append(about)
    if report and report.model.folds:
        parts.append(f"{len(report.model.folds)} folds")
    return ", ".join(parts)


def _comparisons(name: str, report: TaskReport[Any]) -> tuple[Comparison, ...]:
    kind, path = kind_of(name), f"tasks/{name}"
    found = [_comparison(kind, name, path, "", report)]
    for scheme, further in report.schemes.items():
        found.append(_comparison(kind, f"{name}-{scheme}", f"{path}/schemes/{scheme}", f"Folds by {scheme}", further))
    return tuple(found)


def _comparison(kind: KindView, key: str, path: str, title: str, report: TaskReport[Any]) -> Comparison:
    tables = (
        metric_table(f"{key}-metrics", path, report),
        fold_table(f"{key}-folds", f"{path}/model", report.headline, report.model),
        kind.table(f"{key}-classes", f"{path}/model/pooled", report.model.pooled),
    )
    return Comparison(
        title=title,
        charts=(charts.comparison(f"{key}-values", report), charts.differences(f"{key}-differences", report)),
        tables=tuple(table for table in tables if table),
        verdict=judge(report),
    )


def _charts(run: FinishedRun, name: str, report: TaskReport[Any] | None) -> tuple[Chart, ...]:
    tested = _tested(run, name)
    history = charts.training(f"{name}-training", run.history(name, report.model_name if report else _model(run)))
    return (*kind_of(name).charts(run, name, report, tested), history)


def _model(run: FinishedRun) -> str:
    names = run.config.get("model") or [""]
    return str(names[0])


def _notes(report: TaskReport[Any]) -> tuple[str, ...]:
    """On genes and slides, for the final model; of folds where they differ."""
    found = []
    for by_job in (report.notes.gene_notes, report.notes.slide_notes):
        for job, notes in by_job.items():
            name = "final model" if job == "final" else job.replace("_", " ")
            found += [f"{name}: {note}" for note in notes]
    if sets := report.prediction_sets:
        found.append(
            f"prediction sets, {sets.promised:.0%} coverage promised: {number(sets.coverage)} of {sets.n} cases are covered, "
            f"and the mean set has size {number(sets.mean_size)}"
        )
    for name, genes in report.notes.subspaces.items():
        found.append(f"{name}: {len(genes)} genes")
    return tuple(found)


def explain_reason(run: FinishedRun) -> str | None:
    """Why there are no explanations; None where there are."""
    if run.explanations:
        return None
    return "This run made no explanations; there is no folder explain/ in it."


def settings(run: FinishedRun) -> tuple[Table, ...]:
    """Timings, versions and origin."""
    seconds = run.record.get("seconds", {})
    total = sum(seconds.values())
    timings = [
        (Cell(name), Cell(f"{value:,.1f}", sort=float(value)), Cell(f"{value / total:.0%}" if total else "–"))
        for name, value in seconds.items()
    ]
    versions = [(Cell(name), Cell(str(version))) for name, version in run.record.get("versions", {}).items()]
    encoder = run.record.get("encoder") or {}
    made = encoder.get("precision") or f"imported from {encoder.get('imported_from')} files"
    origin = {
        "folder": str(run.folder),
        "started": run.record.get("started"),
        "ended": run.record.get("ended"),
        "seed": run.record.get("seed"),
        "machine": ", ".join(f"{name} {value}" for name, value in run.record.get("machine", {}).items()),
        "git commit": run.record.get("git_commit"),
        "identity": run.record.get("identity"),
        "store": run.record.get("store") or run.config.get("store"),
        "encoder": f"{encoder['name']}, {made}, {encoder['dim']} features a tile" if encoder else None,
    }
    facts = [(Cell(name), Cell(str(value))) for name, value in origin.items() if value is not None]
    hashes = [(Cell(name), Cell(str(value))) for name, value in run.record.get("inputs", {}).items()]
    return (
        Table("timings", "Time", ("stage", "#seconds", "#share"), tuple(timings)),
        Table("origin", "Origin", ("what", "value"), tuple(facts)),
        Table("versions", "Versions", ("package", "version"), tuple(versions)),
        Table("inputs", "Hashes of the inputs", ("input", "hash"), tuple(hashes)),
    )
