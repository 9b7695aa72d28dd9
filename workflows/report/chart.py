"""A chart of the report: a plotly figure or the reason why there is none, and the style common to all charts.

Colours are distinguishable on light and dark backgrounds and in red-green colour blindness (after Okabe & Ito 2008, more
saturated); axes, grid and text take their colours from the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from pipeline.metrics import Metric

COLOURS = ("#3a86c8", "#d9822b", "#1a9e77", "#b565a7", "#c2a020", "#56a6d6", "#c8553d", "#7f8c8d")
MODEL, OTHER = COLOURS[0], "#7f8c8d"
HIGH, LOW = COLOURS[1], COLOURS[0]


@dataclass(frozen=True)
class Chart:
    """A figure with title and caption.

    Attributes:
        key: HTML id.
        title: heading.
        figure: plotly data and layout; None where the chart cannot be drawn.
        text: caption, or the reason why the chart cannot be drawn.
        picks: names of the traces among which the reader can select one; empty: no selection.
    """

    key: str
    title: str
    figure: Mapping[str, Any] | None
    text: str
    picks: tuple[str, ...] = ()


def missing(key: str, title: str, reason: str) -> Chart:
    """A chart without figure, with the reason."""
    return Chart(key, title, None, reason)


def make_chart(
    key: str,
    title: str,
    figure: Any,
    text: str,
    *,
    height: int = 380,
    legend_y: float = -0.22,
) -> Chart:
    """A chart of a plotly figure in the common style.

    Args:
        key: HTML id.
        title: heading.
        figure: plotly figure; its layout is updated.
        text: caption.
        height: pixels.
        legend_y: upper end of the legend, as a share of the height below the plots: above them lies the toolbar.
    """
    legend = {"orientation": "h", "x": 0, "y": legend_y, "yanchor": "top"}
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 14, "t": 34, "b": 48},  # above: room for the toolbar
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13, "family": "system-ui, Segoe UI, Roboto, sans-serif"},
        legend=legend,
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False, showline=True, title_standoff=8, fixedrange=False)
    figure.update_yaxes(automargin=True, zeroline=False, title_standoff=8)
    return Chart(key, title, figure.to_plotly_json(), text)


def bars(metrics: Sequence[Metric], colour: str) -> dict[str, Any]:
    """Confidence intervals of metrics as plotly error bars."""
    down, up = zip(*map(extent, metrics), strict=True)
    return {"type": "data", "array": list(up), "arrayminus": list(down), "color": colour, "thickness": 1.4, "width": 4}


def extent(metric: Metric) -> tuple[float, float]:
    """Extent of the confidence interval below and above the value; 0 without an interval."""
    if metric.value is None or metric.low is None or metric.high is None:
        return 0.0, 0.0
    return max(0.0, metric.value - metric.low), max(0.0, metric.high - metric.value)


def add_diagonal(figure: Any) -> None:
    """Add a dotted line from (0, 0) to (1, 1)."""
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"dash": "dot", "width": 1, "color": OTHER})


def colour_of(i: int) -> str:
    """Colour of the i-th series; colours repeat after the eighth."""
    return COLOURS[i % len(COLOURS)]


def numbers(values: Any) -> list[float | None]:
    """Values rounded to five decimals; None (a gap in the line) where not finite."""
    return [None if value is None or not np.isfinite(value) else round(float(value), 5) for value in values]


def faint(colour: str) -> str:
    """Translucent version of a colour, for areas."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def escaped(text: object) -> str:
    """Escape text from the user, in which plotly would interpret tags and templates."""
    return escape(str(text), quote=False).replace("%{", "%&#123;")
