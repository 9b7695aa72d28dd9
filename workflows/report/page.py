"""From a run's files to the page: what stands in each section, and the templates that say how it looks."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.run.finished import FinishedRun
from workflows.report import words
from workflows.report.charts import gene_groups
from workflows.report.images import data_url
from workflows.report.sections import Flow, TaskView, explain_reason, flow, settings, task_view
from workflows.report.tables import Table, case_table, diagnosis_table, slide_table

HERE = Path(__file__).parent
FEW = 50  # cases; below it, bootstrap intervals are told to be rough
MAP_PX, TILE_PX = 560, 144  # longest side of pictures in the page; the files in explain/ are larger


@dataclass(frozen=True)
class Alert:
    """Something that must not be overlooked."""

    text: str
    target: str


def render(run: FinishedRun) -> str:
    """The page."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        words=words,
        FEW=FEW,
        gene_groups=gene_groups,
        picture=partial(_picture, run),
        css=Markup(_own("page.css")),
        script=Markup(_own("page.js")),
        plotly=Markup(get_plotlyjs()),
    )
    return environment.get_template("page.html").render(**_content(run))


def _content(run: FinishedRun) -> dict[str, Any]:
    tasks: list[TaskView] = [task_view(run, name) for name in run.tasks()]
    slides: Table | None = slide_table(run) if len(run.slides) else None
    cases: Flow = flow(run)
    return {
        "run": run,
        "tasks": tasks,
        "flow": cases,
        "alerts": alerts(run),
        "slides": slides,
        "cases": case_table(run) if len(run.cases) else None,
        "diagnoses": diagnosis_table(run) if len(run.diagnoses) else None,
        "is_small": any(report.n < FEW for report in run.metrics.values()),
        "no_tasks": None if tasks else why_no_tasks(run),
        "no_slides": None if slides else "This run was given no slides.",
        "no_explanations": explain_reason(run),
        "settings": settings(run),
    }


def alerts(run: FinishedRun) -> list[Alert]:
    """What went wrong, the gravest first."""
    found = [Alert(text, "#run") for text in run.record.get("tasks_given_up", ())]
    shifts: dict[str, Any] = run.record.get("cohort_shift", {})
    for task, shift in shifts.items():
        if shift["sentence"]:
            found.append(Alert(" ".join([f"Task {task}: {shift['sentence']}.", *shift["remedies"]]), f"#task-{task}"))
    failed = run.slides[run.slides["status"] == "failed"] if len(run.slides) else run.slides
    if len(failed):
        found.append(Alert(f"{_slides(len(failed))} of {len(run.slides)} failed; the ledger says why.", "#slides"))
    undrawn = set(run.record.get("thumbnails_failed", ())).difference(failed["slide_id"] if len(failed) else ())
    if undrawn:
        found.append(Alert(f"{_slides(len(undrawn))} could not be drawn; the ledger says why.", "#slides"))
    return found


def _slides(n: int) -> str:
    return f"{n} slide" if n == 1 else f"{n} slides"


def why_no_tasks(run: FinishedRun) -> str:
    """Why a run has no metrics and no predictions."""
    until = run.config.get("until", "train")
    if until != "train":
        return f"This run ended before training, as it was asked to (until: {until}); it has no predictions and no metrics."
    given_up = run.record.get("tasks_given_up", [])
    return (
        f"No task was trained: {'; '.join(given_up)}" if given_up else "No task was trained, so there are no metrics."
    )


def _picture(run: FinishedRun, task: str, name: str) -> str | None:
    """A picture of the explanations as a data URL, as small as the page shows it; None where it is not there."""
    path = run.folder / "explain" / task / name
    return data_url(path, most_px=TILE_PX if path.parent.name == "atlas" else MAP_PX)


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
