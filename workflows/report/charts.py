"""Charts of every task: comparison of predictors, training history, and gene groups of an explained case."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pipeline.metrics import Metric, TaskReport
from pipeline.metrics.report import metric_name
from pipeline.run.formatting import number
from workflows.report.chart import (
    HIGH,
    LOW,
    MODEL,
    OTHER,
    Chart,
    bars,
    colour_of,
    escaped,
    make_chart,
    missing,
    numbers,
)
from workflows.report.plain.phrasing import MODALITIES, comparator_name


def comparison(key: str, report: TaskReport[Any]) -> Chart:
    """Headline metric of the model, its single-modality predictions, comparators and baselines."""
    name, metric = report.model_name, report.headline
    predictors = {name: report.model}
    predictors |= {
        f"{name}, {MODALITIES[modality]}": report.by_modality[modality]
        for modality in ("slides", "genes")
        if modality in report.by_modality
    }
    predictors |= {comparator_name(other): one for other, one in report.others().items()}
    rows = {label: one.pooled.scalar(metric) for label, one in predictors.items()}
    title = f"{metric_name(metric)} by predictor"
    text = "Estimates, with 95% confidence intervals" if any(map(_has_interval, rows.values())) else "Estimates"
    text += "." if report.chance is None else "; dotted line: chance."
    return _intervals(key, title, rows, reference=report.chance, model=name, text=text)


def differences(key: str, report: TaskReport[Any]) -> Chart:
    """Paired difference in the headline metric between the model and each comparator and baseline."""
    title = f"Difference in {metric_name(report.headline)}, {report.model_name} minus comparator"
    rows = {
        comparator_name(other): report.differences[other] for other in report.others() if other in report.differences
    }
    if not rows:
        return missing(key, title, "This run has no comparator and no baseline.")
    text = f"Positive: {report.model_name} is better. A difference is significant where its 95% interval excludes 0."
    return _intervals(key, title, rows, reference=0.0, model=None, text=text)


def _intervals(
    key: str, title: str, rows: Mapping[str, Metric], *, reference: float | None, model: str | None, text: str
) -> Chart:
    known = {name: metric for name, metric in rows.items() if metric.value is not None}
    skipped = [f"{name}: {metric.reason}" for name, metric in rows.items() if name not in known]
    if not known:
        return missing(key, title, "; ".join(skipped))
    names = [escaped(name) for name in known]
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
    more = f" Not drawn: {'; '.join(skipped)}." if skipped else ""
    reasons = dict.fromkeys(metric.reason for metric in known.values() if metric.reason and not _has_interval(metric))
    bare = f" Without interval: {'; '.join(reasons)}." if reasons else ""
    return make_chart(key, title, figure, text + bare + more, height=132 + 34 * len(known))


def _has_interval(metric: Metric) -> bool:
    return metric.low is not None and metric.high is not None


def training(key: str, history: pd.DataFrame) -> Chart:
    """Training and validation loss of each fold by epoch, mean over the ensemble members."""
    title = "Training loss"
    if history.empty:
        return missing(key, title, "No training history: the run folder contains no folds.")
    figure = go.Figure()
    for i, (fold, epochs) in enumerate(history.groupby("fold", sort=False)):
        by_epoch = epochs.groupby("epoch").mean(numeric_only=True)
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
    figure.update_xaxes(title_text="epoch", dtick=max(1, -(-int(history["epoch"].max()) // 8)), tickformat="d")
    figure.update_yaxes(title_text="loss")
    members = history["member"].nunique()
    average = f"Mean of {members} ensemble members. " if members > 1 else ""
    validation = "dashed: validation cases." if history["validation"].notna().any() else "no validation cases."
    return make_chart(key, title, figure, f"{average}Solid: training cases; {validation}")


def gene_groups(key: str, genes: Sequence[Mapping[str, Any]]) -> Chart:
    """Gradient × input of the gene groups of a case, the 12 largest magnitudes."""
    title = "Gene groups by gradient × input"
    if not genes:
        return missing(key, title, "The model uses no genes for this case.")
    strongest = sorted(genes, key=lambda group: abs(group["gradient_x_input"]), reverse=True)[:12]
    figure = go.Figure(
        go.Bar(
            x=[abs(group["gradient_x_input"]) * (1 if group["direction"] == "+" else -1) for group in strongest],
            y=[escaped(_named(group)) for group in strongest],
            orientation="h",
            marker={"color": [HIGH if group["direction"] == "+" else LOW for group in strongest]},
            text=[escaped(", ".join(str(gene) for gene, *_ in group["top_genes"][:6])) for group in strongest],
            textposition="none",
            hovertemplate="%{y}: %{x:.3g}<br>%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(nticks=5)
    text = "Positive: raises the output; negative: lowers it. Point at a bar for the top genes of the group."
    return make_chart(key, title, figure, text, height=132 + 24 * len(strongest))


def _named(group: Mapping[str, Any]) -> str:
    """Name of a gene group; one that has only a number is named by its top genes."""
    genes = [str(gene) for gene, *_ in group["top_genes"][:3]]
    is_numbered = any(letter.isdigit() for letter in group["group"]) and group["group"].lower().startswith("group")
    return f"{group['group']}: {', '.join(genes)}" if is_numbered and genes else _short(group["group"])


def _short(name: str) -> str:
    """Shorten the name of a gene set to fit beside its bar."""
    label = name.removeprefix("HALLMARK_").replace("_", " ").lower() if name.startswith("HALLMARK_") else name
    return label if len(label) <= 26 else label[:25] + "…"
