"""A task's comparison as a picture: each predictor's metric, and the model's lead over it, with their 95 % intervals."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import ceil, floor

from pipeline.config import BASELINES
from pipeline.metrics import Metric, Report

ROW, HEAD, FOOT = 26, 62, 40  # heights, px
NAMES, PANEL, NUMBERS, GAP = 190, 250, 180, 20  # widths, px
INK, SOFT, MODEL = "#222", "#999", "#0b5394"


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` between `left` and `left` + PANEL pixels."""

    low: float
    high: float
    left: float

    def at(self, value: float) -> float:
        """Where a value lies, px."""
        return self.left + PANEL * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers, three to seven of them."""
        step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (self.high - self.low) / step <= 6)
        return [round(step * n, 2) for n in range(ceil(self.low / step), floor(self.high / step) + 1)]


def forest(title: str, report: Report) -> str:
    """An SVG image: left the headline metric of the model and of all it is compared with, right its lead over each.

    Args:
        title: of the picture.
        report: of a task, see `pipeline.results`.
    """
    others = {**report["rivals"], **report["baselines"]}
    name, metric = report["contender"], report["headline"].replace("_", " ")
    values = {name: report["model"]["pooled"][report["headline"]]} | {
        BASELINES.get(other, other): told["pooled"][report["headline"]] for other, told in others.items()
    }
    leads = {BASELINES.get(other, other): report["lead"][other] for other in others}
    left, right = NAMES, NAMES + PANEL + NUMBERS + GAP
    shown = [_axis(values.values(), left, around=0.5), _axis(leads.values(), right, around=0.0)]
    height = HEAD + ROW * len(values) + FOOT
    width = right + PANEL + NUMBERS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(10, 22, title, weight="bold"),
        _text(left, 46, f"{metric} (95 % interval)", colour=SOFT),
        _text(right, 46, f"lead of {name} in {metric}", colour=SOFT),
    ]
    bottom = HEAD + ROW * len(values)
    for axis, reference in zip(shown, (values[name].value, 0.0), strict=True):
        parts += _scale(axis, bottom)
        if reference is not None:
            parts.append(_line(axis.at(reference), HEAD - 8, axis.at(reference), bottom, colour=SOFT, dashes="4 3"))
    for row, (who, value) in enumerate(values.items()):
        y, colour = HEAD + ROW * row + ROW / 2, MODEL if who == name else INK
        parts += [_text(10, y + 4, who, colour=colour), *_interval(shown[0], y, value, colour)]
        if who in leads:
            parts += _interval(shown[1], y, leads[who], colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axis(metrics: Iterable[Metric], left: float, *, around: float) -> Axis:
    ends = [end for metric in metrics for end in (metric.value, metric.low, metric.high) if end is not None]
    low, high = min([*ends, around]), max([*ends, around])
    margin = max(0.02, 0.05 * (high - low))
    return Axis(low - margin, high + margin, left)


def _scale(axis: Axis, y: float) -> list[str]:
    marks = [_line(axis.at(tick), y, axis.at(tick), y + 4, colour=SOFT) for tick in axis.ticks()]
    numbers = [_text(axis.at(tick), y + 18, f"{tick:g}", colour=SOFT, anchor="middle") for tick in axis.ticks()]
    return [_line(axis.left, y, axis.left + PANEL, y, colour=SOFT), *marks, *numbers]


def _interval(axis: Axis, y: float, metric: Metric, colour: str) -> list[str]:
    """A dot, its interval as a line, and both as numbers; a dash where there is no value."""
    at = axis.left + PANEL + 12
    if metric.value is None:
        return [_text(at, y + 4, "–", colour=SOFT)]
    parts = [f'<circle cx="{axis.at(metric.value):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>']
    told = f"{metric.value:.3f}"
    if metric.low is not None and metric.high is not None:
        parts.append(_line(axis.at(metric.low), y, axis.at(metric.high), y, colour=colour, width=1.6))
        told += f" ({metric.low:.3f} to {metric.high:.3f})"
    return [*parts, _text(at, y + 4, told, colour=colour, size=12)]


def _line(x1: float, y1: float, x2: float, y2: float, *, colour: str, width: float = 1.0, dashes: str = "") -> str:
    more = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"{more}/>'


def _text(
    x: float, y: float, text: str, *, colour: str = INK, weight: str = "normal", anchor: str = "start", size: int = 13
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
