"""Content of the sections of the report: flow of cases, one section per task, explanations, provenance of the run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.metrics import TaskReport
from pipeline.metrics.report import CohortShift
from pipeline.run.finished import FinishedRun
from pipeline.run.formatting import number
from preprocessing.io.errors import count, some
from workflows.report import charts
from workflows.report.chart import Chart
from workflows.report.kinds import Confusion, KindView, kind_of
from workflows.report.plain.answers import Answer, answer_of, describe_shift
from workflows.report.plain.phrasing import Verdict, reason_category, verdict_of
from workflows.report.prediction_table import prediction_table
from workflows.report.tables import Cell, Table, fold_table, metric_table, transfer_table, weight_table


@dataclass(frozen=True)
class Flow:
    """Numbers of cases and slides through the run (CONSORT-style flow diagram).

    Attributes:
        n_input: cases named in any input.
        excluded: number of excluded cases by reason.
        n_used: cases used.
        tasks: number of cases by status, for each task.
        slides: number of slides by status.
    """

    n_input: int
    excluded: Mapping[str, int]
    n_used: int
    tasks: Mapping[str, Mapping[str, int]]
    slides: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """The model against its comparators and baselines on the same folds.

    Attributes:
        title: the fold scheme; empty for the main one.
        charts: headline metric of each predictor, and differences from the model.
        tables: metrics by predictor, by fold and by class.
        verdict: the conclusion in words.
    """

    title: str
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    verdict: Verdict


@dataclass(frozen=True)
class TaskView:
    """The section of one task.

    Attributes:
        name: name of the task.
        title: heading of the section.
        description: numbers of cases, events and folds.
        headline: key of the headline metric; empty without metrics.
        verdict: the main result; None without metrics.
        answer: the main result in plain words; None without metrics.
        shift: colour and words for the distribution shift of a new cohort; None where it was not assessed.
        no_metrics: reason why there are no metrics; None where there are.
        comparisons: one per fold scheme, the main scheme first.
        charts: charts of the predictions of the model, and its training history.
        confusions: one confusion matrix per predictor.
        predictions: predictions by case; None where there are none.
        excluded_features: features excluded because they define the label, with the reason.
        notes: notes on genes, slides and prediction sets.
        weights: weights of the logits of the model's parts; None where it has one part.
    """

    name: str
    title: str
    description: str
    headline: str
    verdict: Verdict | None
    answer: Answer | None
    shift: tuple[str, str] | None
    no_metrics: str | None
    comparisons: tuple[Comparison, ...]
    charts: tuple[Chart, ...]
    confusions: tuple[Confusion, ...]
    predictions: Table | None
    excluded_features: Mapping[str, str]
    notes: tuple[str, ...]
    weights: Table | None


def flow(run: FinishedRun) -> Flow:
    """Count the cases and slides through the run."""
    cases = run.cases
    reasons = (
        cases.loc[cases["status"] == "left out", "reason"].map(reason_category) if len(cases) else pd.Series(dtype=str)
    )
    tasks = {name: _by_status(run.predicted(name)) for name in run.tasks()}
    return Flow(
        n_input=len(cases),
        excluded=_counted(reasons),
        n_used=int((cases["status"] == "used").sum()) if len(cases) else 0,
        tasks=tasks,
        slides=_counted(run.slides["status"]) if len(run.slides) else {},
    )


def _by_status(predicted: pd.DataFrame) -> dict[str, int]:
    """Number of cases by status, without the excluded cases, which the flow diagram counts before."""
    if "status" not in predicted:
        return {"predicted": predicted["case_id"].nunique()} if len(predicted) else {}
    used = predicted[predicted["status"] != "left out"]
    return {str(name): rows["case_id"].nunique() for name, rows in used.groupby("status", sort=False)}


def _counted(values: pd.Series) -> dict[str, int]:
    """Frequency of each value, in descending order."""
    return {str(name): int(n) for name, n in values.value_counts().items()}


def task_view(run: FinishedRun, name: str) -> TaskView:
    """Assemble the section of one task."""
    report, predicted = run.metrics.get(name), run.predicted(name)
    shift = run.record.get("cohort_shift", {}).get(name)
    return TaskView(
        name=name,
        title=name.capitalize(),
        description=_description(run, name, report),
        headline=report.headline if report else "",
        verdict=verdict_of(report) if report else None,
        answer=answer_of(run, name, report) if report else None,
        shift=describe_shift(CohortShift.model_validate(shift) if shift else None),
        no_metrics=None if report else "No metrics: metrics.json contains no report of this task; metrics need labels.",
        comparisons=_comparisons(run, name, report) if report else (),
        charts=_charts(run, name, report),
        confusions=kind_of(run, name).confusions(report) if report else (),
        predictions=prediction_table(f"{name}-predictions", run, name, predicted) if len(predicted) else None,
        excluded_features=report.excluded_features if report else {},
        notes=(*_earlier(run, name), *(_notes(report) if report else ())),
        weights=weight_table(f"{name}-weights", report.notes.stack) if report else None,
    )


def _description(run: FinishedRun, name: str, report: TaskReport[Any] | None) -> str:
    tested = run.tested(name)
    parts = [f"{count(report.n, 'case')} tested" if report else f"{count(len(run.predicted(name)), 'case')} predicted"]
    if summary := kind_of(run, name).summarise(tested):
        parts.append(summary)
    if report and report.model.folds:
        parts.append(count(len(report.model.folds), "fold"))
    return ", ".join(parts)


def _comparisons(run: FinishedRun, name: str, report: TaskReport[Any]) -> tuple[Comparison, ...]:
    kind, path = kind_of(run, name), f"tasks/{name}"
    comparisons = [_comparison(kind, name, path, "", report)]
    for scheme, other in report.schemes.items():
        key, title = f"{name}-{scheme}", f"Folds by {scheme}"
        comparisons.append(_comparison(kind, key, f"{path}/schemes/{scheme}", title, other))
    return tuple(comparisons)


def _comparison(kind: KindView, key: str, path: str, title: str, report: TaskReport[Any]) -> Comparison:
    tables = (
        metric_table(f"{key}-metrics", path, report),
        fold_table(f"{key}-folds", f"{path}/model", report.headline, report.model),
        kind.table(f"{key}-classes", f"{path}/model/pooled", report.model.pooled),
        transfer_table(f"{key}-transfer", path, report),
    )
    return Comparison(
        title=title,
        charts=(charts.comparison(f"{key}-values", report), charts.differences(f"{key}-differences", report)),
        tables=tuple(table for table in tables if table),
        verdict=verdict_of(report),
    )


def _charts(run: FinishedRun, name: str, report: TaskReport[Any] | None) -> tuple[Chart, ...]:
    tested = run.tested(name)
    history = charts.training(f"{name}-training", run.history(name, report.model_name if report else _model(run)))
    return (*kind_of(run, name).charts(run, name, report, tested), history)


def _model(run: FinishedRun) -> str:
    names = run.config.get("model") or [""]
    return str(names[0])


def _earlier(run: FinishedRun, name: str) -> Iterator[str]:
    """A note on the predictions of earlier calls that the report leaves out."""
    if cases := run.of_earlier_calls(name):
        yield f"predictions.csv also keeps {count(len(cases), 'case')} of earlier calls: {some(cases)}; not in this report"


def _notes(report: TaskReport[Any]) -> tuple[str, ...]:
    """Notes on genes, slides and prediction sets: of the final model, and of folds that differ from it."""
    lines = []
    for by_job in (report.notes.gene_notes, report.notes.training_notes):
        for job, notes in by_job.items():
            name = "final model" if job == "final" else job.replace("_", " ")
            lines += [f"{name}: {note}" for note in notes]
    if sets := report.prediction_sets:
        lines.append(
            f"prediction sets: nominal coverage {sets.promised:.0%}, observed coverage {number(sets.coverage)} in "
            f"{count(sets.n, 'case')}, mean set size {number(sets.mean_size)}"
            + "".join(f"; {name} {number(metric)}" for name, metric in sets.by_label.items())
        )
    for name, genes in report.notes.subspaces.items():
        lines.append(f"gene group {name}: {count(len(genes), 'gene')}")
    return tuple(lines)


def explain_reason(run: FinishedRun) -> str | None:
    """Reason why the run has no explanations; None where it has."""
    if run.explanations:
        return None
    return "No explanations: the run folder contains no explain/."


def settings(run: FinishedRun) -> tuple[Table, ...]:
    """Tables of run time, provenance, package versions and input hashes."""
    seconds = run.record.get("seconds", {})
    total = sum(seconds.values())
    timings = [
        (Cell(name), Cell(f"{value:,.1f}", sort=float(value)), Cell(f"{value / total:.0%}" if total else "–"))
        for name, value in seconds.items()
    ]
    versions = [(Cell(name), Cell(str(version))) for name, version in run.record.get("versions", {}).items()]
    encoder = run.record.get("encoder") or {}
    precision = encoder.get("precision") or f"imported from {encoder.get('imported_from')} files"
    provenance = {
        "folder": str(run.folder),
        "started": run.record.get("started"),
        "ended": run.record.get("ended"),
        "seed": run.record.get("seed"),
        "machine": ", ".join(f"{name} {value}" for name, value in run.record.get("machine", {}).items()),
        "git commit": run.record.get("git_commit"),
        "identity": run.record.get("identity"),
        "store": run.record.get("store") or run.config.get("store"),
        "encoder": f"{encoder['name']}, {precision}, {encoder['dim']} features per tile" if encoder else None,
    }
    properties = [(Cell(name), Cell(str(value))) for name, value in provenance.items() if value is not None]
    hashes = [(Cell(name), Cell(str(value))) for name, value in run.record.get("inputs", {}).items()]
    return (
        Table("timings", "Run time", ("stage", "#seconds", "#share"), tuple(timings)),
        Table("provenance", "Provenance", ("property", "value"), tuple(properties)),
        Table("versions", "Package versions", ("package", "version"), tuple(versions)),
        Table("input-hashes", "Input hashes", ("input", "hash"), tuple(hashes)),
    )
