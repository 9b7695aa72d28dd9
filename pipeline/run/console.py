"""Output of a run in the terminal: the cohort, the tasks, the forecast of a dry run, the results."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.baselines import BASELINES
from pipeline.config.schema import Config
from pipeline.metrics import Metric, PredictorReport, TaskReport
from pipeline.metrics.report import metric_name
from pipeline.planning.plan import TaskPlan
from pipeline.run.formatting import number
from pipeline.tasks import Task
from pipeline.terminal.logs import WARNING, columns, out, print_line, print_note, warn
from pipeline.terminal.tables import format_table
from preprocessing.case_tables.endpoint_names import ENDPOINTS
from preprocessing.cohort import Cohort, describe_gaps
from preprocessing.encoders.config import resolution_warning
from preprocessing.io.errors import count, some
from preprocessing.slides.slide import LeftOut


def show_cohort(cohort: Cohort) -> None:
    """Print the cohort: counts, how the input was read, and warnings."""
    failed = sum(gone.status == "failed" for gone in cohort.left_out)
    cases = cohort.used_cases()
    n_genes = len(cohort.omics.features)
    genes = f"{count(len(cohort.omics.case_ids), 'case')} with {count(n_genes, 'gene')}; " if n_genes else ""
    sides = {"both": "both", "any": "either", "slides": "slides", "genes": "genes"}
    print_note(
        f"{count(len(cohort.slides), 'slide')} to use, {len(cohort.left_out) - failed} left out, {failed} failed; "
        f"{genes}{count(len(cases), 'case')} with {sides[cohort.needs]}"
    )
    for note in cohort.notes:
        if note.startswith(WARNING):
            warn(note.removeprefix(WARNING))
        else:
            print_note(f"  {note}", style="dim")
    for line in _failed_slides(cohort):
        warn(line)


def show_encoder(config: Config, cohort: Cohort) -> None:
    """A warning where the encoder is used at another resolution or tile size than it was trained at."""
    if not cohort.slides or (config.until == "tile" and not cohort.precomputed):
        return
    name = str(cohort.precomputed.encoder["name"]) if cohort.precomputed else config.encoder.name
    if doubt := resolution_warning(name, mpp=config.tiles.mpp, tile_px=config.tiles.tile_px):
        warn(doubt)


def _failed_slides(cohort: Cohort) -> Iterator[str]:
    """A line for each reason of failure, with the slides that have it; reasons that differ in the file name are one."""
    by_reason: dict[str, list[LeftOut]] = {}
    for gone in cohort.left_out:
        if gone.status == "failed":
            common = gone.reason.replace(gone.file.path.name, f"…{gone.file.path.suffix}")
            by_reason.setdefault(common, []).append(gone)
    for reason, slides in by_reason.items():
        if len(slides) == 1:
            yield f"slide {slides[0].file.slide_id}: {slides[0].reason}"
        else:
            yield f"{count(len(slides), 'slide')} ({some(gone.file.slide_id for gone in slides)}): {reason}"


def show_plans(plans: Sequence[TaskPlan], cohort: Cohort) -> None:
    """Print the tasks: cases used, without label and left out by reason, folds, classes, and warnings."""
    for plan in plans:
        labels = f", {plan.summary}" if plan.summary else ""
        further = "".join(f", {len(folds)} by {scheme}" for scheme, folds in plan.further_schemes.items())
        print_note(
            f"task {plan.name}: {count(len(plan.labelled), 'case')}, {count(len(plan.folds), 'fold')}{further}{labels}"
        )
        gaps = describe_gaps(cohort, plan.task.label_columns[0], plan.unlabelled)
        known, endpoint = plan.task.prepare(cohort.labels), ENDPOINTS[cohort.endpoint]
        for sentence in (*gaps, *plan.task.on_cases(known, plan.labelled, endpoint=endpoint)):
            if sentence.startswith(WARNING):
                warn(sentence.removeprefix(WARNING))
            else:
                print_note(f"  {sentence}", style="dim")
        for warning in plan.warnings:
            warn(warning)


def show_forecast(lines: Sequence[str]) -> None:
    """Print the forecast of a dry run."""
    print_note("forecast of this run (nothing was embedded, trained or written):")
    for line in lines:
        style = "yellow" if line.startswith(WARNING) else ""
        print_note(f"  {line}", style=style)


def show_results(
    folder: Path,
    tasks: Mapping[str, Task],
    reports: Mapping[str, TaskReport[Any]],
    failures: Mapping[str, str],
    given_up: Sequence[str],
) -> None:
    """Print tables of metrics by task and fold scheme, then failures and the run folder.

    Args:
        folder: of the run.
        tasks: by name.
        reports: of `metrics.json`, by task.
        failures: reason by id of each failed slide.
        given_up: tasks without enough cases after slides failed, each with the reason.
    """
    for task, report in reports.items():
        _show_report(task, tasks[task], report)
        _show_transfer(task, report)
        for scheme, further in report.schemes.items():
            _show_report(f"{task}, split by {scheme}", tasks[task], further)
    _show_gene_notes(reports)
    for message in given_up:
        print_note(f"warning: {message}", style="yellow")
    if failures:
        print_note(f"{count(len(failures), 'slide')} failed; all are in slides.csv:", style="yellow")
        for name, reason in list(failures.items())[:5]:
            print_note(f"  {name}: {reason}", style="yellow")
    print_line(f"results: {folder}")


def show_cohorts(table: pd.DataFrame) -> None:
    """Print the table of `summarise_cohorts`, one row per cohort and task."""
    there = table.notna().to_dict("records")
    rows = []
    for row, known in zip(table.to_dict("records"), there, strict=True):
        shift = [f"{row[name]:.0f}" if known[name] else "–" for name in ("out_of_distribution", "borderline")]
        measured, low, high = (float(row[name]) if known[name] else None for name in ("value", "low", "high"))
        value = number(Metric(measured, low, high, reason="not measured"))
        metric = metric_name(row["metric"]) if known["metric"] else "–"
        rows.append([row["cohort"], row["task"], str(row["predicted"]), *shift, metric, value])
    head = ["cohort", "task", "predicted", "out-of-distribution", "borderline", "metric", "value (95 % interval)"]
    for line in format_table(head, rows, width=columns(out)):
        print_line(line)


def _show_report(title: str, task: Task, report: TaskReport[Any]) -> None:
    _show_table(title, task.summary_metrics, report)
    for name, baseline in report.baselines.items():
        if baseline.reason:
            print_line(f"  {BASELINES[name]}: {baseline.reason}", style="dim")


def _show_transfer(task: str, report: TaskReport[Any]) -> None:
    """Print the headline metric by cohorts of training and test, of a run of several cohorts."""
    if not report.transfer:
        return
    print_line(f"{task} by cohorts: {metric_name(report.headline)} (95 % interval)", style="italic")
    names = list(report.transfer[0].headline)
    rows = [
        [f"{'+'.join(one.train)} → {one.test}", str(one.n), *(number(one.headline[name]) for name in names)]
        for one in report.transfer
    ]
    titles = [BASELINES.get(name, name) for name in names]
    for line in format_table(["train → test", "cases", *titles], rows, width=columns(out)):
        print_line(line)


def _show_gene_notes(reports: Mapping[str, TaskReport[Any]]) -> None:
    """Print notes on the genes of the final models and of comparators, each note once for all with the same notes."""
    tasks: dict[tuple[str, ...], list[str]] = {}
    for task, report in reports.items():
        final = report.notes.gene_notes.get("final", ())
        tasks.setdefault(final, []).append(task)
        for name in report.comparators:
            by_job = report.comparator_notes[name].gene_notes if name in report.comparator_notes else {}
            notes = next(reversed(by_job.values())) if by_job else ()
            if notes != final:
                tasks.setdefault(notes, []).append(f"{task}, {name}")
    for notes, names in tasks.items():
        for note in notes:
            print_line(f"  genes ({'; '.join(names)}): {note}", style="dim")


def _show_table(title: str, metrics: Sequence[str], report: TaskReport[Any]) -> None:
    """Print rows for the model, the model on either modality only, each other predictor and a trivial one."""
    evaluation = (
        "a new cohort, without known training cases of the model"
        if report.new_cohort
        else "each tested by a model trained without it"
    )
    print_line(f"{title}: {count(report.n, 'case')}, {evaluation} (95 % intervals)", style="italic")
    head = ["predictor", metric_name(report.headline), f"{report.model_name} − predictor"]
    further = [name for name in metrics if name != report.headline]
    rows = [[report.model_name, *_values(report, report.model, further, "")]]
    for modality in ("slides", "genes"):
        if modality in report.by_modality:
            one = report.by_modality[modality]
            rows.append([f"  {modality} only{_cases(one, report)}", *_values(report, one, further, "")])
    for name, other in report.others().items():
        difference = number(report.differences[name])
        rows.append([BASELINES.get(name, name), *_values(report, other, further, difference)])
    if trivial := report.model.pooled.trivial:
        values = [number(trivial.metrics[name]) for name in (report.headline, *further)]
        rows.append(["trivial", values[0], "", *values[1:]])
    table = [[*head, *map(metric_name, further)], *rows]
    if not report.others():  # nothing to compare with
        table = [[*row[:2], *row[3:]] for row in table]
    for line in format_table(table[0], table[1:], width=columns(out)):
        print_line(line, style="bold" if line.split("  ")[0] == report.model_name else "")


def _cases(predictor: PredictorReport[Any], report: TaskReport[Any]) -> str:
    """The number of cases, where it is not that of the model: others have no such modality."""
    return "" if predictor.pooled.n == report.n else f", {count(predictor.pooled.n, 'case')}"


def _values(
    report: TaskReport[Any], predictor: PredictorReport[Any], further: Sequence[str], difference: str
) -> list[str]:
    """The headline, the difference to it, and the other metrics."""
    headline, *others = (number(predictor.pooled.scalar(name)) for name in (report.headline, *further))
    return [headline, difference, *others]
