"""The charts of every task: the comparison of predictors, the training, and the gene groups of an explained case."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pipeline.metrics import Metric, TaskReport
from workflows.report.chart import HIGH, LOW, MODEL, OTHER, Chart, bars, colour_of, make_chart, missing, numbers, shown
from workflows.report.words import MODALITIES, metric_name, number, other_name


def comparison(key: str, report: TaskReport[Any]) -> Chart:
    """The headline metric of the model and of all it is compared with."""
    name, metric = report.model_name, report.headline
    predictors = {name: report.model}
    predictors |= {
        f"{name}, {MODALITIES[modality]}": report.by_modality[modality]
        for modality in ("slides", "genes")
        if modality in report.by_modality
    }
    predictors |= {other_name(other): one for other, one in report.others().items()}
    rows = {label: one.pooled.scalar(metric) for label, one in predictors.items()}
    title = f"{metric_name(metric)} of each predictor"
    text = "Dots with 95 % intervals" + ("." if report.chance is None else "; the dotted line is chance.")
    return _intervals(key, title, rows, reference=report.chance, model=name, text=text)


def differences(key: str, report: TaskReport[Any]) -> Chart:
    """How much better the model is than each other predictor, on the same resamples."""
    title = f"{metric_name(report.headline)} of {report.model_name} minus that of each other"
    rows = {other_name(other): report.differences[other] for other in report.others() if other in report.differences}
    if not rows:
        return missing(key, title, "This run has no comparator and no baseline.")
    text = "Right of the dotted line the model is better; a difference is significant where the whole interval is on one side."
    return _intervals(key, title, rows, reference=0.0, model=None, text=text)


def _intervals(
    key: str, title: str, rows: Mapping[str, Metric], *, reference: float | None, model: str | None, text: str
) -> Chart:
    known = {name: metric for name, metric in rows.items() if metric.value is not None}
    lost = [f"{name}: {metric.reason}" for name, metric in rows.items() if name not in known]
    if not known:
        return missing(key, title, "; ".join(lost))
    names = [shown(name) for name in known]
    colours = [MODEL if model and name.startswith(model) else OTHER for name in known]
    figure = go.Figure()
    for name, colour, metric in zip(names, colours, known.values(), strict=True):
        figure.add_scatter(
            x=[metric.value],
            y=[name],
            mode="markers",
            marker={"size": 11, "color": colour},
            error_x=bars([metric], colour) | {"thickness": 2, "width": 5},
            hovertemplate=f"{name}<br>{number(metric)}<extra></extra>",
            showlegend=False,
        )
    if reference is not None:
        figure.add_vline(x=reference, line={"dash": "dot", "width": 1, "color": OTHER})
    figure.update_yaxes(range=[len(known) - 0.4, -0.6], type="category", ticksuffix=" ")
    figure.update_xaxes(nticks=6)
    more = f" Not shown: {'; '.join(lost)}." if lost else ""
    return make_chart(key, title, figure, text + more, height=110 + 34 * len(known))


def training(key: str, history: pd.DataFrame) -> Chart:
    """The loss of each fold by epoch, the mean of its members."""
    title = "Training"
    if history.empty:
        return missing(key, title, "This folder holds no folds, so there is nothing to show of the training.")
    figure = go.Figure()
    for i, (fold, own) in enumerate(history.groupby("fold", sort=False)):
        by_epoch = own.groupby("epoch").mean(numeric_only=True)
        label = "final model" if fold == "final" else f"fold {fold}"
        colour = OTHER if fold == "final" else colour_of(i)
        for column, dash in (("train", "solid"), ("validation", "dash")):
            if by_epoch[column].notna().any():
                figure.add_scatter(
                    x=numbers(by_epoch.index),
                    y=numbers(by_epoch[column]),
                    mode="lines+markers" if len(by_epoch) < 40 else "lines",
                    name=label if column == "train" else f"{label}, validation",
                    line={"color": colour, "dash": dash, "width": 2},
                    marker={"size": 5},
                    hovertemplate=f"{label}, epoch %{{x}}: %{{y:.3f}} ({column})<extra></extra>",
                )
    figure.update_xaxes(title_text="epoch", nticks=8, tickformat="d")
    figure.update_yaxes(title_text="loss")
    members = history["member"].nunique()
    of = f"the mean of {members} members" if members > 1 else "of one member"
    what = "Solid: training cases" + (
        ", dashed: validation cases."
        if history["validation"].notna().any()
        else "; no validation cases were kept apart."
    )
    return make_chart(key, title, figure, f"The loss by epoch, {of}. {what}")


def gene_groups(key: str, genes: Sequence[Mapping[str, Any]]) -> Chart:
    """Chart gradient × input of the gene groups of a case, the largest first."""
    title = "Gene groups, gradient × input"
    if not genes:
        return missing(key, title, "The model reads no genes of this case.")
    strongest = sorted(genes, key=lambda group: abs(group["gradient_x_input"]), reverse=True)[:12]
    figure = go.Figure(
        go.Bar(
            x=[abs(group["gradient_x_input"]) * (1 if group["direction"] == "+" else -1) for group in strongest],
            y=[shown(_short(group["group"])) for group in strongest],
            orientation="h",
            marker={"color": [HIGH if group["direction"] == "+" else LOW for group in strongest]},
            text=[shown(", ".join(str(gene) for gene, *_ in group["top_genes"][:6])) for group in strongest],
            textposition="none",
            hovertemplate="%{y}: %{x:.3g}<br>%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    text = "Right: raises the output; left: lowers it. Hover for the top genes of a group."
    return make_chart(key, title, figure, text, height=110 + 24 * len(strongest))


def _short(name: str) -> str:
    """Names of gene sets are long, and labels share the width with the bars."""
    plain = name.removeprefix("HALLMARK_").replace("_", " ").lower() if name.startswith("HALLMARK_") else name
    return plain if len(plain) <= 26 else plain[:25] + "…"
