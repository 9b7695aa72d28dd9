"""One panel for each case: its slides, predictions of all tasks, modalities, distribution shift, survival curve and maps."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.run.finished import FinishedRun
from pipeline.run.formatting import decimal
from workflows.report.plain.images import anchor_of, thumbnail_url
from workflows.report.plain.phrasing import signed

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
class Curve:
    """A survival curve as SVG.

    Attributes:
        title: what it is.
        path: of the line, 260 × 120.
        ticks: x and months of the labels of the time axis.
    """

    title: str
    path: str
    ticks: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Explained:
    """The explanation of a case by one task.

    Attributes:
        task: its name.
        anchor: HTML id of the explanation, with which those of its pictures begin.
        slides: with their overlays, as in `explain/TASK.json`.
        top_tiles: the tiles that contribute most, likewise.
    """

    task: str
    anchor: str
    slides: Sequence[Mapping[str, Any]]
    top_tiles: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    """Everything about one case.

    Attributes:
        case_id: the case.
        anchor: HTML id.
        summary: status and reason.
        slides: id and thumbnail (data URL or None) of each slide.
        predictions: one for each task.
        curves: survival curve of each task that has one.
        explained: the explanation of each task that explains the case.
    """

    case_id: str
    anchor: str
    summary: str
    slides: tuple[tuple[str, str | None], ...]
    predictions: tuple[Prediction, ...]
    curves: tuple[Curve, ...]
    explained: tuple[Explained, ...] = ()

    @property
    def has_shift(self) -> bool:
        """Whether any prediction is compared with the training cohort."""
        return any(one.shift for one in self.predictions)


def panels(run: FinishedRun, decided: Collection[str]) -> list[Panel]:
    """Make the panels of all cases, in the order of `cases.csv`.

    Args:
        run: the run.
        decided: tasks whose predictions are either correct or incorrect.
    """
    slides = run.slides.groupby("case_id")["slide_id"].agg(list).to_dict() if len(run.slides) else {}
    rows: Any = run.predictions.groupby("case_id") if len(run.predictions) else ()
    by_case = {str(case): table.to_dict("records") for case, table in rows}
    explained: dict[str, list[Explained]] = {}
    for task, explanation in run.explanations.items():
        for case in explanation["cases"]:
            key = str(case["case_id"])
            one = Explained(task, explanation_anchor(task, key), case["slides"], case.get("top_tiles", ()))
            explained.setdefault(key, []).append(one)
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
            explained=tuple(explained.get(case, ())),
        )
        for row in run.cases.to_dict("records")
        for case in [str(row["case_id"])]
    ]


def tile_caption(tile: Mapping[str, Any]) -> str:
    """Name a tile of an explanation: its slide, corner and value."""
    return f"{tile['slide_id']}, tile at x {tile['x']}, y {tile['y']}: {tile['layer']} {signed(tile['value'])}"


def explanation_anchor(task: str, case_id: str) -> str:
    """Return the HTML id of the explanation of a case."""
    return f"explain-{task}-{anchor_of(case_id)}"


def _prediction(row: Mapping[Any, Any], *, is_decided: bool) -> Prediction:
    label, text = _known(row), _text(row.get("prediction"))
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


def _known(row: Mapping[Any, Any]) -> str:
    """The truth; of survival in words."""
    label = _text(row.get("label"))
    if not label or not _text(row.get("risk")):
        return label
    months = f"{float(label.rstrip('+')):.3g} months"
    return f"no event by {months}" if label.endswith("+") else f"event at {months}"


def _curve(row: Mapping[Any, Any]) -> Curve:
    points = [(0, 1.0), *_points(row)]
    last = points[-1][0]
    path = " ".join(
        f"{'ML'[i > 0]}{WIDTH * months / last:.1f},{HEIGHT * (1 - share):.1f}"
        for i, (months, share) in enumerate(points)
    )
    group = f", {row['prediction']}" if _text(row.get("prediction")) else ""
    ticks = tuple((round(WIDTH * months / last, 1), months) for months in (0, round(last / 2), last))
    return Curve(f"{str(row['task']).replace('_', ' ')}: predicted survival probability{group}", path, ticks)


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and pd.isna(value)) else str(value)
