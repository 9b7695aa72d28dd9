"""Charts of classification tasks, one class versus the rest, computed from `predictions.csv`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from pipeline.metrics import Metric
from preprocessing.io.errors import count
from workflows.report.chart import Chart, add_diagonal, bars, colour_of, escaped, make_chart, missing, numbers
from workflows.report.plain.phrasing import listed

MIN_CASES_PER_BIN, MAX_BINS = 5, 10
Holds = Callable[[pd.Series, str], pd.Series]  # whether a class holds, from labels and its name; missing: unknown


def is_class(labels: pd.Series, name: str) -> pd.Series:
    """Whether each label is the class."""
    return labels == name


def counts_above(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Count the cases of the class, and the others, whose score reaches a threshold: none at first, then each score, falling."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each run of equal scores
    hits = np.append(0.0, np.cumsum(truth[order])[last])
    return hits, np.append(0.0, last + 1.0) - hits


def roc(key: str, tested: pd.DataFrame, classes: Sequence[str], *, holds: Holds = is_class) -> Chart:
    """ROC curve of each class versus the rest."""
    title = "ROC curves, one versus rest"
    figure = go.Figure()
    skipped: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, skipped, holds)):
        hits, alarms = counts_above(truth, score)
        fpr, tpr = alarms / alarms[-1], hits / hits[-1]
        hover = "false-positive rate %{x:.0%}<br>sensitivity %{y:.0%}"
        _add_curve(figure, fpr, tpr, f"{name}: AUC {np.trapezoid(tpr, fpr):.3f}", hover, line={"color": colour_of(i)})
    if not figure.data:
        return missing(key, title, _not_drawn(skipped))
    add_diagonal(figure)
    figure.update_xaxes(range=[-0.02, 1.02], title_text="false-positive rate", tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.03], title_text="sensitivity", tickformat=".0%")
    text = "The mean of these AUCs is the macro AUC."
    if _has_folds(tested):
        text = "Test cases pooled, including pairs across folds; the mean of these AUCs is the macro AUC incl. pairs across folds."
    return make_chart(key, title, figure, text + _omitted(skipped), height=430)


def precision_recall(key: str, tested: pd.DataFrame, classes: Sequence[str], *, holds: Holds = is_class) -> Chart:
    """Precision–recall curve of each class versus the rest."""
    title = "Precision–recall curves, one versus rest"
    figure = go.Figure()
    skipped: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, skipped, holds)):
        hits, alarms = counts_above(truth, score)
        recall, precision = hits / hits[-1], np.append(1.0, hits[1:] / (hits + alarms)[1:])
        average_precision, prevalence = float(np.diff(recall) @ precision[1:]), float(truth.mean())
        hover = "recall %{x:.0%}<br>precision %{y:.0%}"
        label = f"{name}: AP {average_precision:.3f} (chance {prevalence:.3f})"
        _add_curve(figure, recall[::-1], precision[::-1], label, hover, line={"color": colour_of(i), "shape": "vh"})
    if not figure.data:
        return missing(key, title, _not_drawn(skipped))
    figure.update_xaxes(range=[-0.02, 1.02], title_text="recall", tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.03], title_text="precision", tickformat=".0%")
    text = "AP: average precision; chance: prevalence of the class." + (
        " Test cases pooled." if _has_folds(tested) else ""
    )
    return make_chart(key, title, figure, text + _omitted(skipped), height=430)


def reliability(key: str, tested: pd.DataFrame, classes: Sequence[str], *, holds: Holds = is_class) -> Chart:
    """Observed frequency of each class against its predicted probability, in quantile bins."""
    title = "Calibration, one versus rest"
    figure = go.Figure()
    skipped: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, skipped, holds)):
        bins = np.array_split(np.argsort(score), max(1, min(MAX_BINS, len(score) // MIN_CASES_PER_BIN)))
        counts = [(int(truth[rows].sum()), len(rows)) for rows in bins]
        figure.add_scatter(
            x=[float(score[rows].mean()) for rows in bins],
            y=[hits / n for hits, n in counts],
            mode="markers+lines",
            name=escaped(name),
            line={"color": colour_of(i), "width": 1.5},
            marker={"size": 8},
            error_y=bars([Metric(hits / n, *_wilson(hits, n)) for hits, n in counts], colour_of(i)),
            text=[f"{hits} of {count(n, 'case')}" for hits, n in counts],
            hovertemplate="predicted %{x:.0%}<br>observed %{y:.0%}<br>%{text}<extra>" + escaped(name) + "</extra>",
        )
    if not figure.data:
        return missing(key, title, _not_drawn(skipped))
    add_diagonal(figure)
    figure.update_xaxes(range=[-0.03, 1.03], title_text="mean predicted probability", tickformat=".0%")
    figure.update_yaxes(range=[-0.03, 1.03], title_text="observed frequency", tickformat=".0%")
    text = f"Quantile bins of at least {MIN_CASES_PER_BIN} cases, with Wilson 95% intervals; dotted line: perfect calibration."
    return make_chart(key, title, figure, text + _omitted(skipped), height=430)


def _has_folds(tested: pd.DataFrame) -> bool:
    """Whether models of several folds predicted the cases, rather than one model all of them."""
    return "fold" in tested and bool(tested["fold"].notna().any())


def _one_against_rest(
    tested: pd.DataFrame, classes: Sequence[str], skipped: list[str], holds: Holds
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, truth and predicted probability of each class with positive and negative cases; others are added to `skipped`."""
    found = []
    for name in classes:
        column = f"probability_{name}"
        if column not in tested:
            skipped.append(f"{name}: predictions.csv has no probability of this class")
            continue
        known = tested[(tested["label"] != "") & tested[column].notna()]
        answers = holds(known["label"].astype(str), name)
        known, truth = known[answers.notna()], answers.dropna().to_numpy(bool)
        if truth.any() and not truth.all():
            found.append((name, truth, known[column].to_numpy(float)))
        else:
            skipped.append(f"{name}: {int(truth.sum())} of {len(truth)} tested cases are of the class")
    return found


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927)."""
    z, share = 1.959964, hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _add_curve(figure: Any, x: Any, y: Any, name: str, hover: str, *, line: Mapping[str, str]) -> None:
    figure.add_scatter(
        x=numbers(x),
        y=numbers(y),
        mode="lines",
        name=escaped(name),
        line={"width": 2.2, **line},
        hovertemplate=f"{hover}<extra>{escaped(name)}</extra>",
    )


def _not_drawn(skipped: Sequence[str]) -> str:
    return f"Cannot be drawn: {'; '.join(skipped)}."


def _omitted(skipped: Sequence[str]) -> str:
    return f" Not drawn: {listed(list(skipped))}." if skipped else ""
