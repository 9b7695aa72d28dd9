"""One panel for each case: its slides, predictions of all tasks, modalities, distribution shift, survival curve and maps."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipeline.run.finished import FinishedRun
from workflows.report.plain.images import anchor_of, thumbnail_url
from workflows.report.plain.phrasing import decimal

CURVE = re.compile(r"survival_(\d+)m")
WIDTH, HEIGHT = 260, 120  # of a survival curve, CSS pixels


@dataclass(frozen=True)
class Prediction:
    """What one task predicts for the case.

    Attributes:
        task: its name.
        status: tested, predicted, ….
        text: the prediction.
        label: the truth; empty where it is unknown.
        mark: good: right; bad: wrong; empty: not compared.
        prediction_set: the conformal set; empty where there is none.
        modalities: what the prediction used.
        shift: distribution shift, with the reason; empty for a training cohort.
    """

    task: str
    status: str
    text: str
    label: str
    mark: str
    prediction_set: str
    modalities: str
    shift: str


@dataclass(frozen=True)
class Panel:
    """Everything about one case.

    Attributes:
        case_id: the case.
        anchor: HTML id.
        summary: status and reason.
        slides: id and thumbnail (data URL or None) of each slide.
        predictions: one for each task.
        curves: survival curve as SVG path, with its title, for each task that has one.
        explained: tasks that explain the case, with the HTML id of the explanation.
    """

    case_id: str
    anchor: str
    summary: str
    slides: tuple[tuple[str, str | None], ...]
    predictions: tuple[Prediction, ...]
    curves: tuple[tuple[str, str], ...]
    explained: Mapping[str, str] = field(default_factory=dict)


def panels(run: FinishedRun, decided: Collection[str]) -> list[Panel]:
    """Make the panels of all cases, in the order of `cases.csv`.

    Args:
        run: the run.
        decided: tasks whose predictions are either correct or incorrect.
    """
    slides = run.slides.groupby("case_id")["slide_id"].agg(list).to_dict() if len(run.slides) else {}
    rows: Any = run.predictions.groupby("case_id") if len(run.predictions) else ()
    by_case = {str(case): table.to_dict("records") for case, table in rows}
    explained: dict[str, dict[str, str]] = {}
    for task, explanation in run.explanations.items():
        for case in explanation["cases"]:
            key = str(case["case_id"])
            explained.setdefault(key, {})[task] = explanation_anchor(task, key)
    return [
        Panel(
            case_id=case,
            anchor=anchor_of(case),
            summary=f"{row['status']}{': ' + str(row['reason']) if row.get('reason') else ''}",
            slides=tuple((name, thumbnail_url(run, name)) for name in slides.get(case, ())),
            predictions=tuple(
                _prediction(one, is_decided=str(one["task"]) in decided) for one in by_case.get(case, ())
            ),
            curves=tuple(_curve(one) for one in by_case.get(case, ()) if _points(one)),
            explained=explained.get(case, {}),
        )
        for row in run.cases.to_dict("records")
        for case in [str(row["case_id"])]
    ]


def explanation_anchor(task: str, case_id: str) -> str:
    """Return the HTML id of the explanation of a case."""
    return f"explain-{task}-{anchor_of(case_id)}"


def _prediction(row: Mapping[Any, Any], *, is_decided: bool) -> Prediction:
    label, text = _text(row.get("label")), _text(row.get("prediction"))
    if not text and _text(row.get("risk")):
        text = f"risk {decimal(float(row['risk']))}"
    shift = " – ".join(
        filter(None, (_text(row.get("distribution_shift")), _text(row.get("distribution_shift_reason"))))
    )
    has_mark = bool(is_decided and label and text)
    mark = ("good" if label == text else "bad") if has_mark else ""
    return Prediction(
        task=str(row["task"]),
        status=_text(row.get("status")),
        text=text or "–",
        label=label,
        mark=mark,
        prediction_set=_text(row.get("set_90")),
        modalities=_text(row.get("modalities")),
        shift=shift,
    )


def _points(row: Mapping[Any, Any]) -> list[tuple[int, float]]:
    found = {int(match[1]): row[name] for name in row if (match := CURVE.fullmatch(str(name)))}
    return sorted((months, float(share)) for months, share in found.items() if _text(share))


def _curve(row: Mapping[Any, Any]) -> tuple[str, str]:
    """The title of a survival curve, and its SVG path."""
    points = [(0, 1.0), *_points(row)]
    last = points[-1][0]
    path = " ".join(
        f"{'ML'[i > 0]}{WIDTH * months / last:.1f},{HEIGHT * (1 - share):.1f}"
        for i, (months, share) in enumerate(points)
    )
    group = f", {row['prediction']}" if _text(row.get("prediction")) else ""
    return f"{str(row['task']).replace('_', ' ')}: predicted survival probability, 0 to {last} months{group}", path


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and pd.isna(value)) else str(value)
