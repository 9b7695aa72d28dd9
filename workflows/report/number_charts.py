"""Charts of predicted numbers, computed from `predictions.csv`."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pipeline.baselines.number_baselines import VALUE
from preprocessing.io.errors import count
from workflows.report.chart import MODEL, OTHER, Chart, escaped, make_chart, missing, numbers

MIN_CASES_PER_BIN, MAX_BINS = 5, 10


def scatter(key: str, tested: pd.DataFrame, unit: str) -> Chart:
    """Predicted against true numbers, a point per case."""
    title = "Predicted and true values"
    known = evaluable(tested)
    if known.empty:
        return missing(key, title, "No tested case has both a label and a prediction.")
    truth, predicted = known["label"].astype(float), known[VALUE].astype(float)
    figure = go.Figure()
    _add_identity(figure, truth, predicted)
    figure.add_scatter(
        x=numbers(predicted),
        y=numbers(truth),
        mode="markers",
        marker={"color": MODEL, "size": 6, "opacity": 0.7},
        text=[escaped(case) for case in known["case_id"]],
        hovertemplate="%{text}<br>predicted %{x:.4g}<br>true %{y:.4g}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title_text=_with_unit("predicted", unit))
    figure.update_yaxes(title_text=_with_unit("true", unit))
    return make_chart(key, title, figure, "A point is a test case; dotted line: perfect prediction.", height=430)


def calibration(key: str, tested: pd.DataFrame, unit: str) -> Chart:
    """Mean true against mean predicted number, in quantile bins of the prediction."""
    title = "Calibration"
    known = evaluable(tested)
    if len(known) < 2 * MIN_CASES_PER_BIN:
        return missing(
            key, title, f"Needs {2 * MIN_CASES_PER_BIN} cases with label and prediction; there are {len(known)}."
        )
    known = known.sort_values(VALUE)
    truth, predicted = known["label"].astype(float).to_numpy(), known[VALUE].astype(float).to_numpy()
    bins = np.array_split(np.arange(len(known)), min(MAX_BINS, len(known) // MIN_CASES_PER_BIN))
    error = [1.96 * truth[rows].std(ddof=1) / np.sqrt(len(rows)) for rows in bins]
    figure = go.Figure()
    means = pd.Series([truth[rows].mean() for rows in bins])
    _add_identity(figure, means, pd.Series([predicted[rows].mean() for rows in bins]))
    figure.add_scatter(
        x=numbers(predicted[rows].mean() for rows in bins),
        y=numbers(means),
        mode="markers+lines",
        line={"color": MODEL, "width": 1.5},
        marker={"size": 8},
        error_y={"type": "data", "array": numbers(error), "color": MODEL, "thickness": 1.4, "width": 4},
        text=[count(len(rows), "case") for rows in bins],
        hovertemplate="predicted %{x:.4g}<br>true %{y:.4g}<br>%{text}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title_text=_with_unit("mean predicted", unit))
    figure.update_yaxes(title_text=_with_unit("mean true", unit))
    text = f"Quantile bins of at least {MIN_CASES_PER_BIN} cases, with 95% intervals of the mean; dotted line: perfect calibration."
    return make_chart(key, title, figure, text, height=430)


def errors(key: str, tested: pd.DataFrame, unit: str) -> Chart:
    """Distribution of the errors."""
    title = "Errors"
    known = evaluable(tested)
    if known.empty:
        return missing(key, title, "No tested case has both a label and a prediction.")
    error = known[VALUE].astype(float) - known["label"].astype(float)
    figure = go.Figure(
        go.Histogram(x=numbers(error), marker={"color": MODEL}, hovertemplate="%{x}: %{y} cases<extra></extra>")
    )
    figure.add_vline(x=0, line={"dash": "dot", "width": 1, "color": OTHER})
    figure.update_xaxes(title_text=_with_unit("predicted − true", unit))
    figure.update_yaxes(title_text="cases")
    return make_chart(key, title, figure, f"Mean error {error.mean():.4g}, standard deviation {error.std():.4g}.")


def evaluable(tested: pd.DataFrame) -> pd.DataFrame:
    """Cases with a label and a prediction."""
    if VALUE not in tested or "label" not in tested:
        return tested.iloc[:0]
    return tested[(tested["label"] != "") & tested[VALUE].notna()]


def _add_identity(figure: go.Figure, first: pd.Series, second: pd.Series) -> None:
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dot", "width": 1, "color": OTHER})


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({escaped(unit)})" if unit else name
