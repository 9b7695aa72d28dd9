"""The charts of predicted classes, each against the others; all are computed from `predictions.csv`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pipeline.metrics import Metric
from workflows.report.chart import Chart, add_diagonal, bars, colour_of, make_chart, missing, numbers, shown
from workflows.report.words import listed

LEAST_CASES_A_BIN, MOST_BINS = 5, 10


def roc(key: str, tested: pd.DataFrame, classes: Sequence[str]) -> Chart:
    """The ROC curve of each class against the others."""
    from sklearn.metrics import auc, roc_curve

    title = "ROC, each class against the others"
    figure = go.Figure()
    lost: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, lost)):
        below, above, _ = roc_curve(truth, score, drop_intermediate=False)
        _add_curve(
            figure,
            below,
            above,
            f"{name}: {auc(below, above):.3f}",
            colour_of(i),
            "false positives %{x:.0%}<br>found %{y:.0%}",
        )
    if not figure.data:
        return missing(key, title, _lost(lost))
    add_diagonal(figure)
    figure.update_xaxes(range=[-0.02, 1.02], title_text="false-positive rate", tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.03], title_text="sensitivity", tickformat=".0%")
    text = "Folds pooled, so pairs across folds count too: the mean of these areas is the macro AUC across folds."
    return make_chart(key, title, figure, text + _not_shown(lost), height=430)


def precision_recall(key: str, tested: pd.DataFrame, classes: Sequence[str]) -> Chart:
    """The precision-recall curve of each class against the others."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    title = "Precision and recall, each class against the others"
    figure = go.Figure()
    lost: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, lost)):
        precision, recall, _ = precision_recall_curve(truth, score)
        mean, share = average_precision_score(truth, score), float(truth.mean())
        hover = "found %{x:.0%}<br>right %{y:.0%}"
        _add_curve(
            figure, recall, precision, f"{name}: {mean:.3f}, by chance {share:.3f}", colour_of(i), hover, shape="vh"
        )
    if not figure.data:
        return missing(key, title, _lost(lost))
    figure.update_xaxes(range=[-0.02, 1.02], title_text="recall", tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.03], title_text="precision", tickformat=".0%")
    text = "Beside each class its average precision; chance is the class's share of the cases. Folds pooled."
    return make_chart(key, title, figure, text + _not_shown(lost), height=430)


def reliability(key: str, tested: pd.DataFrame, classes: Sequence[str]) -> Chart:
    """How often a class is true where its probability is so and so, in bins of as many cases each."""
    title = "Calibration: predicted and observed share"
    figure = go.Figure()
    lost: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, lost)):
        bins = np.array_split(np.argsort(score), max(1, min(MOST_BINS, len(score) // LEAST_CASES_A_BIN)))
        shares, ends = (
            [float(truth[own].mean()) for own in bins],
            [_wilson(int(truth[own].sum()), len(own)) for own in bins],
        )
        figure.add_scatter(
            x=[float(score[own].mean()) for own in bins],
            y=shares,
            mode="markers+lines",
            name=shown(name),
            line={"color": colour_of(i), "width": 1.5},
            marker={"size": 8},
            error_y=bars(
                [Metric(share, low, high) for share, (low, high) in zip(shares, ends, strict=True)],
                colour_of(i),
            ),
            text=[f"{int(truth[own].sum())} of {len(own)} cases" for own in bins],
            hovertemplate="predicted %{x:.0%}<br>observed %{y:.0%}<br>%{text}<extra>" + shown(name) + "</extra>",
        )
    if not figure.data:
        return missing(key, title, _lost(lost))
    add_diagonal(figure)
    figure.update_xaxes(range=[-0.03, 1.03], title_text="mean probability", tickformat=".0%")
    figure.update_yaxes(range=[-0.03, 1.03], title_text="share that is of the class", tickformat=".0%")
    text = f"Bins of {LEAST_CASES_A_BIN} cases or more, with Wilson's 95 % intervals; on the dotted line both agree."
    return make_chart(key, title, figure, text + _not_shown(lost), height=430)


def _one_against_rest(
    tested: pd.DataFrame, classes: Sequence[str], lost: list[str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Class, truth and probability of each class that has cases on both sides; the others are added to `lost`."""
    found = []
    for name in classes:
        column = f"probability_{name}"
        if column not in tested:
            lost.append(f"{name}: predictions.csv has no probability of it")
            continue
        known = tested[(tested["label"] != "") & tested[column].notna()]
        truth = (known["label"] == name).to_numpy()
        if truth.any() and not truth.all():
            found.append((name, truth, known[column].to_numpy(float)))
        else:
            lost.append(f"{name}: {int(truth.sum())} of {len(truth)} tested cases are of the class")
    return found


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _add_curve(figure: Any, x: Any, y: Any, name: str, colour: str, hover: str, *, shape: str = "linear") -> None:
    figure.add_scatter(
        x=numbers(x),
        y=numbers(y),
        mode="lines",
        name=shown(name),
        line={"color": colour, "width": 2.2, "shape": shape},
        hovertemplate=f"{hover}<extra>{shown(name)}</extra>",
    )


def _lost(lost: Sequence[str]) -> str:
    return f"It cannot be drawn. {'; '.join(lost)}."


def _not_shown(lost: Sequence[str]) -> str:
    return f" Not shown: {listed(list(lost))}." if lost else ""
