"""Render the report: the content of its sections, through the HTML templates."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.run.finished import FinishedRun
from pipeline.run.formatting import decimal, number
from preprocessing.io.errors import count
from preprocessing.slide_lists.selection import NOTABLE_UPSAMPLING
from workflows.report.charts import gene_groups
from workflows.report.kinds import kind_of
from workflows.report.plain import phrasing
from workflows.report.plain.answers import GLOSSARY, SMALL_COHORT
from workflows.report.plain.images import data_url
from workflows.report.plain.panels import explanation_anchor, panels, tile_caption
from workflows.report.sections import Flow, TaskView, explain_reason, flow, settings, task_view
from workflows.report.tables import Table, case_table, diagnosis_table, slide_table

HERE = Path(__file__).parent
MAP_PX, TILE_PX = 560, 144  # longest side of embedded images; the files in explain/ are larger


@dataclass(frozen=True)
class Alert:
    """A failure or warning at the top of the report.

    Attributes:
        text: the message.
        target: link to the section with details.
    """

    text: str
    target: str


def render(run: FinishedRun) -> str:
    """Render the report of a run as HTML."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        phrasing=phrasing,
        SMALL_COHORT=SMALL_COHORT,
        gene_groups=gene_groups,
        image_url=partial(_image_url, run),
        glossary=GLOSSARY,
        explanation_anchor=explanation_anchor,
        tile_caption=tile_caption,
        signed=phrasing.signed,
        number=number,
        decimal=decimal,
        css=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
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
        "panels": panels(run, decided={name for name in run.tasks() if kind_of(run, name).is_decided}),
        "cases": case_table(run) if len(run.cases) else None,
        "diagnoses": diagnosis_table(run) if len(run.diagnoses) else None,
        "is_small": any(report.n < SMALL_COHORT for report in run.metrics.values()),
        "no_tasks": None if tasks else why_no_tasks(run),
        "no_slides": None if slides else "This run has no slides.",
        "no_explanations": explain_reason(run),
        "settings": settings(run),
    }


def alerts(run: FinishedRun) -> list[Alert]:
    """Failures and warnings, most severe first."""
    found = [Alert(text, "#run") for text in run.record.get("tasks_given_up", ())]
    shifts: dict[str, Any] = run.record.get("cohort_shift", {})
    for task, shift in shifts.items():
        if shift["sentence"]:
            found.append(Alert(" ".join([f"Task {task}: {shift['sentence']}.", *shift["remedies"]]), f"#task-{task}"))
    for task, report in run.metrics.items():
        found += [Alert(f"Task {task}: {caveat}", f"#task-{task}") for caveat in report.caveats]
    failed = run.failed_slides
    if failed:
        found.append(
            Alert(
                f"{count(len(failed), 'slide')} of {len(run.slides)} failed; see the reasons in the slide table.",
                "#slides",
            )
        )
    if upsampled := _upsampled(run):
        found.append(Alert(upsampled, "#slides"))
    no_thumbnail = set(run.record.get("thumbnails_failed", ())).difference(failed)
    if no_thumbnail:
        found.append(
            Alert(
                f"{count(len(no_thumbnail), 'slide')} without thumbnail; see the reasons in the slide table.", "#slides"
            )
        )
    return found


def _upsampled(run: FinishedRun) -> str:
    """How many slides are coarser than the tiles, and by how much; "" where none is."""
    if "upsampling" not in run.slides:
        return ""
    factors = run.slides.loc[run.slides["status"] != "failed", "upsampling"]
    coarse = factors[factors > NOTABLE_UPSAMPLING]
    if not len(coarse):
        return ""
    verb = "is" if len(coarse) == 1 else "are"
    return (
        f"{count(len(coarse), 'slide')} {verb} coarser than the tiles and {verb} enlarged, up to {coarse.max():.2f} "
        "times: features of "
        "enlarged pixels differ from those of a finer scan."
    )


def why_no_tasks(run: FinishedRun) -> str:
    """Reason why a run has no metrics and no predictions."""
    until = run.config.get("until", "train")
    if until != "train":
        return f"This run ended before training, as requested (until: {until}); it has no predictions and no metrics."
    failures = run.record.get("tasks_given_up", [])
    return (
        f"No task was trained: {'; '.join(failures)}" if failures else "No task was trained, so there are no metrics."
    )


def _image_url(run: FinishedRun, task: str, name: str) -> str | None:
    """Image of an explanation as a data URL, scaled to its size in the page; None where the file is missing."""
    path = run.folder / "explain" / task / name
    return data_url(path, max_px=TILE_PX if path.parent.name in ("atlas", "tiles") else MAP_PX)


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
