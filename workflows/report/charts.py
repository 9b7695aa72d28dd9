"""The charts of the report: plotly figures, or the reason why there is none.

Values are those of `metrics.json`; curves that it does not hold are computed from `predictions.csv`. Colours are told apart
on a light ground and on a dark one, and by those who are red-green blind (Okabe & Ito 2008, made a little stronger);
what is not data takes its colour from the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workflows.report.words import Told, listed, metric_name, number, other_name

COLOURS = ("#3a86c8", "#d9822b", "#1a9e77", "#b565a7", "#c2a020", "#56a6d6", "#c8553d", "#7f8c8d")
MODEL, OTHER, SOFT = COLOURS[0], "#7f8c8d", "rgba(127,140,141,0.55)"
HIGH, LOW = COLOURS[1], COLOURS[0]
RISK_GROUPS = {"high risk": HIGH, "low risk": LOW}
LEAST_CASES_A_BIN, MOST_BINS = 5, 10
AUC_POINTS = 40  # of the curve between the horizons of metrics.json
TICK_MONTHS = (3, 6, 12, 24, 36, 60, 120)


@dataclass(frozen=True)
class Chart:
    """A figure with its title.

    Attributes:
        key: its id in the page.
        title: above it.
        figure: data and layout as plotly reads them; None where it cannot be drawn.
        text: what is to be known to read it, or why it cannot be drawn.
        picks: names of the traces that the reader may choose one of; empty for most.
    """

    key: str
    title: str
    figure: Mapping[str, Any] | None
    text: str
    picks: tuple[str, ...] = ()


def missing(key: str, title: str, reason: str) -> Chart:
    """No chart, and why."""
    return Chart(key, title, None, reason)


def comparison(key: str, report: Told) -> Chart:
    """The headline metric of the model and of all it is compared with."""
    name, metric = report["contender"], report["headline"]
    rows = {name: report["model"]["pooled"][metric]}
    rows |= {
        f"{name}, shown {given} alone": report["inputs"][given]["pooled"][metric]
        for given in ("slides", "genes")
        if given in report.get("inputs", {})
    }
    rows |= {other_name(other): told["pooled"][metric] for other, told in _compared(report).items()}
    title = f"{metric_name(metric)} of each predictor"
    return _intervals(
        key, title, rows, reference=0.5, model=name, text="Dots with 95 % intervals; the dotted line is chance."
    )


def leads(key: str, report: Told) -> Chart:
    """How far the model is ahead of each, on the same resamples."""
    title = f"lead of {report['contender']} in {metric_name(report['headline'])}"
    rows = {other_name(other): report["lead"][other] for other in _compared(report) if other in report.get("lead", {})}
    if not rows:
        return missing(key, title, "The model was compared with nothing in this run.")
    text = "Right of the dotted line the model is ahead. A lead is certain where the whole interval lies right of it."
    return _intervals(key, title, rows, reference=0.0, model=None, text=text)


def _compared(report: Told) -> dict[str, Told]:
    return {**report.get("rivals", {}), **report.get("baselines", {})}


def _intervals(
    key: str, title: str, rows: Mapping[str, Told], *, reference: float, model: str | None, text: str
) -> Chart:
    known = {name: told for name, told in rows.items() if told.get("value") is not None}
    lost = [f"{name}: {told.get('reason')}" for name, told in rows.items() if name not in known]
    if not known:
        return missing(key, title, "; ".join(lost))
    names = [_shown(name) for name in known]
    values = [told["value"] for told in known.values()]
    ends = [
        (0.0, 0.0) if told.get("low") is None else (told["high"] - told["value"], told["value"] - told["low"])
        for told in known.values()
    ]
    colours = [MODEL if model and name.startswith(model) else OTHER for name in known]
    figure = go.Figure()
    for name, value, (up, down), colour, told in zip(names, values, ends, colours, known.values(), strict=True):
        figure.add_scatter(
            x=[value],
            y=[name],
            mode="markers",
            marker={"size": 11, "color": colour},
            error_x={"type": "data", "array": [up], "arrayminus": [down], "color": colour, "thickness": 2, "width": 5},
            hovertemplate=f"{name}<br>{number(told)}<extra></extra>",
            showlegend=False,
        )
    figure.add_vline(x=reference, line={"dash": "dot", "width": 1, "color": OTHER})
    figure.update_yaxes(range=[len(known) - 0.4, -0.6], type="category", ticksuffix=" ")
    figure.update_xaxes(nticks=6)
    more = f" Not shown: {'; '.join(lost)}." if lost else ""
    return _chart(key, title, figure, text + more, height=110 + 34 * len(known))


def kaplan_meier(key: str, tested: pd.DataFrame, groups: Told) -> Chart:
    """Survival by predicted risk group, with its band and the numbers at risk."""
    title = "Kaplan–Meier by predicted risk group"
    known = followed(tested)
    if known.empty:
        return missing(key, title, "No tested case has a follow-up time and a predicted risk group.")
    from lifelines import KaplanMeierFitter

    figure = make_subplots(rows=2, cols=1, row_heights=[0.8, 0.2], vertical_spacing=0.13, shared_xaxes=True)
    ticks = _ticks(float(known["survival_months"].max()))
    for group, colour in RISK_GROUPS.items():
        own = known[known["prediction"] == group]
        if own.empty:
            continue
        fitter = KaplanMeierFitter().fit(own["survival_months"], own["event"])
        months = fitter.survival_function_.index.to_list()
        low, high = fitter.confidence_interval_survival_function_.to_numpy(float).T
        band = {"mode": "lines", "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=months, y=_listed(high), **band, row=1, col=1)
        figure.add_scatter(x=months, y=_listed(low), fill="tonexty", fillcolor=_faint(colour), **band, row=1, col=1)
        figure.add_scatter(
            x=months,
            y=_listed(fitter.survival_function_.iloc[:, 0]),
            mode="lines",
            name=f"{group} ({len(own)} cases, {int(own['event'].sum())} events)",
            line={"color": colour, "width": 2.5, "shape": "hv"},
            hovertemplate="%{x:.1f} months: %{y:.0%} alive<extra>" + group + "</extra>",
            row=1,
            col=1,
        )
        _add_censored(figure, own, fitter, colour)
        figure.add_scatter(
            x=ticks,
            y=[group] * len(ticks),
            mode="text",
            text=[str(int((own["survival_months"] >= tick).sum())) for tick in ticks],
            textfont={"color": colour, "size": 12},
            cliponaxis=False,
            hovertemplate=f"%{{text}} of {group} at risk at %{{x}} months<extra></extra>",
            showlegend=False,
            row=2,
            col=1,
        )
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", title_text="alive", row=1, col=1)
    figure.update_yaxes(range=[1.5, -0.7], showgrid=False, showline=False, row=2, col=1)
    figure.update_xaxes(
        tickvals=ticks, range=[-0.03 * ticks[-1], 1.04 * max(ticks[-1], known["survival_months"].max())]
    )
    figure.update_xaxes(title_text="months; below: cases at risk", showticklabels=True, row=1, col=1)
    figure.update_xaxes(visible=False, row=2, col=1)
    return _chart(key, title, figure, _log_rank(groups), height=430, legend_above=True)


def _log_rank(groups: Told) -> str:
    from workflows.report.words import p_value

    told = "Groups are cut at the median risk of each fold's training cases. Bands are 95 % intervals, ticks censored cases."
    if not groups:
        return told + " No log-rank test: metrics.json has none."
    if groups["p_value"].get("value") is None:
        return f"{told} No log-rank test: {groups['p_value'].get('reason')}."
    ratio = groups["hazard_ratio"]
    hazard = (
        f"hazard ratio {number(ratio)}" if ratio.get("value") is not None else f"no hazard ratio: {ratio['reason']}"
    )
    return f"Log-rank test: {p_value(groups['p_value'])}; {hazard}. {told}"


def _add_censored(figure: Any, own: pd.DataFrame, fitter: Any, colour: str) -> None:
    censored = own.loc[~own["event"], "survival_months"]
    if len(censored):
        figure.add_scatter(
            x=_listed(censored),
            y=_listed(fitter.predict(censored.to_list())),
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 8, "color": colour},
            hovertemplate="censored at %{x:.1f} months<extra></extra>",
            showlegend=False,
            row=1,
            col=1,
        )


def auc_over_time(key: str, tested: pd.DataFrame, report: Told) -> Chart:
    """The AUC of dying by each month: that of metrics.json with intervals, and between its months from the predictions."""
    title = "AUC over time"
    told = {
        month: metric for month, metric in report["model"]["pooled"]["auc"].items() if metric.get("value") is not None
    }
    if not told:
        reasons = {str(metric.get("reason")) for metric in report["model"]["pooled"]["auc"].values()}
        return missing(key, title, f"It could not be computed: {'; '.join(sorted(reasons))}.")
    figure = go.Figure()
    months, curve = _auc_curve(followed(tested))
    figure.add_scatter(
        x=months,
        y=curve,
        mode="lines",
        line={"color": MODEL, "width": 1.5},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
    )
    predictors = {report["contender"]: report["model"]["pooled"]} | {
        other_name(other): part["pooled"] for other, part in _compared(report).items()
    }
    for i, (name, pooled) in enumerate(predictors.items()):
        known = {int(month): metric for month, metric in pooled["auc"].items() if metric.get("value") is not None}
        if not known:
            continue
        shift = 0.45 * i
        figure.add_scatter(
            x=[month + shift for month in known],
            y=[metric["value"] for metric in known.values()],
            mode="markers",
            name=_shown(name),
            visible=True if i == 0 else "legendonly",
            marker={"color": _colour(i), "size": 9},
            error_y=_bars(list(known.values()), _colour(i)),
            text=[f"{_shown(name)}, {month} months: {number(metric)}" for month, metric in known.items()],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.add_hline(y=0.5, line={"dash": "dot", "width": 1, "color": OTHER})
    figure.update_yaxes(range=[-0.03, 1.05], title_text="AUC")
    figure.update_xaxes(title_text="months", rangemode="tozero")
    text = (
        "Who dies by that month against who lives beyond it; the dotted line is chance. Click a name to see the others."
    )
    return _chart(key, title, figure, text)


def _auc_curve(known: pd.DataFrame) -> tuple[list[float | None], list[float | None]]:
    from pipeline.metrics.concordance import CensoringDistribution, dynamic_auc

    time, event = known["survival_months"].to_numpy(float), known["event"].to_numpy(bool)
    risk, folds = known["risk"].to_numpy(float), _folds(known)
    censoring = CensoringDistribution(time, event)
    months = np.linspace(time[event].min(), time.max(), AUC_POINTS) if event.any() else np.empty(0)
    areas = [
        dynamic_auc(time, event, risk, censoring=censoring, horizon=float(month), folds=folds).value for month in months
    ]
    return _listed(months), _listed(areas)


def _folds(tested: pd.DataFrame) -> np.ndarray | None:
    """Of cases that one model predicted, and not one a fold, all pairs count."""
    if "fold" not in tested or tested["fold"].isna().any():
        return None
    return tested["fold"].to_numpy(int)


def survival_calibration(key: str, report: Told) -> Chart:
    """Predicted against observed survival by thirds of the prediction, as metrics.json tells them."""
    title = "Calibration: predicted and observed survival"
    figure, unseen = go.Figure(), []
    for i, (month, told) in enumerate(report["model"]["pooled"]["calibration"].items()):
        thirds = [third for third in told["thirds"] if third["observed"].get("value") is not None]
        lost = {str(third["observed"].get("reason")) for third in told["thirds"] if third not in thirds}
        unseen += sorted(lost) or ([] if told["thirds"] else [str(told["slope"].get("reason"))])
        if not thirds:
            continue
        figure.add_scatter(
            x=[third["predicted"]["value"] for third in thirds],
            y=[third["observed"]["value"] for third in thirds],
            mode="markers+lines",
            name=f"{month} months",
            line={"color": _colour(i), "width": 1.5},
            marker={"size": 9},
            error_y=_bars([third["observed"] for third in thirds], _colour(i)),
            text=[
                f"{third['n']} cases<br>predicted {number(third['predicted'])}<br>observed {number(third['observed'])}"
                for third in thirds
            ],
            hovertemplate="%{text}<extra>" + f"{month} months</extra>",
        )
    if not figure.data:
        return missing(
            key, title, f"It could not be computed: {'; '.join(dict.fromkeys(unseen)) or 'no survival curves'}."
        )
    _add_diagonal(figure)
    figure.update_xaxes(range=[-0.03, 1.03], title_text="predicted share alive", tickformat=".0%")
    figure.update_yaxes(range=[-0.03, 1.03], title_text="observed share alive", tickformat=".0%")
    more = f" Not shown: {'; '.join(dict.fromkeys(unseen))}." if unseen else ""
    return _chart(key, title, figure, f"A third of the cases each; on the dotted line both agree.{more}", height=430)


def single_curves(key: str, predicted: pd.DataFrame) -> Chart:
    """The predicted survival curve of every case; one may be picked."""
    title = "Survival curve of a single case"
    months = sorted(
        int(name[9:-1]) for name in predicted.columns if name.startswith("survival_") and name[9:-1].isdigit()
    )
    known = predicted.dropna(subset=[f"survival_{month}m" for month in months]) if months else predicted.iloc[:0]
    if known.empty:
        return missing(key, title, "No case has a predicted survival curve.")
    figure, names = go.Figure(), []
    by_risk = known.sort_values("risk", ascending=False) if "risk" in known else known
    for row in by_risk.to_dict("records"):
        colour = RISK_GROUPS.get(row["prediction"], OTHER)
        names.append(_curve_name(row))
        figure.add_scatter(
            x=[0, *months],
            y=[1.0, *(float(row[f"survival_{month}m"]) for month in months)],
            mode="lines",
            name=_shown(names[-1]),
            line={"color": colour, "width": 1},
            opacity=0.45,
            hovertemplate=f"{_shown(row['case_id'])}, {row['prediction']}<br>%{{x}} months: %{{y:.0%}} alive<extra></extra>",
        )
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", title_text="predicted share alive")
    figure.update_xaxes(title_text="months", tickvals=_ticks(float(months[-1])))
    figure.update_layout(showlegend=False)
    text = "Each case by the model that had not seen it; orange: high risk, blue: low risk. Pick one to bring it out."
    return _chart(key, title, figure, text, picks=tuple(names))


def _curve_name(row: Mapping[Any, Any]) -> str:
    name = f"{row['case_id']}: {row['prediction']}"
    if pd.isna(row.get("survival_months")):
        return f"{name}, outcome unknown"
    fate = "died" if row["event"] else "alive"
    return f"{name}, {fate} at {row['survival_months']:.1f} months"


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
            _colour(i),
            "false positives %{x:.0%}<br>found %{y:.0%}",
        )
    if not figure.data:
        return missing(key, title, _lost(lost))
    _add_diagonal(figure)
    figure.update_xaxes(range=[-0.02, 1.02], title_text="false-positive rate", tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.03], title_text="sensitivity", tickformat=".0%")
    text = "Folds pooled, so pairs across folds count too: the mean of these areas is the macro AUC across folds."
    return _chart(key, title, figure, text + _not_shown(lost), height=430)


def precision_recall(key: str, tested: pd.DataFrame, classes: Sequence[str]) -> Chart:
    """The precision-recall curve of each class against the others."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    title = "Precision and recall, each class against the others"
    figure = go.Figure()
    lost: list[str] = []
    for i, (name, truth, score) in enumerate(_one_against_rest(tested, classes, lost)):
        precision, recall, _ = precision_recall_curve(truth, score)
        mean, share = average_precision_score(truth, score), float(truth.mean())
        told = "found %{x:.0%}<br>right %{y:.0%}"
        _add_curve(
            figure, recall, precision, f"{name}: {mean:.3f}, by chance {share:.3f}", _colour(i), told, shape="vh"
        )
    if not figure.data:
        return missing(key, title, _lost(lost))
    figure.update_xaxes(range=[-0.02, 1.02], title_text="recall", tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.03], title_text="precision", tickformat=".0%")
    text = "Beside each class its average precision; chance is the class's share of the cases. Folds pooled."
    return _chart(key, title, figure, text + _not_shown(lost), height=430)


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
            name=_shown(name),
            line={"color": _colour(i), "width": 1.5},
            marker={"size": 8},
            error_y=_bars(
                [{"value": share, "low": low, "high": high} for share, (low, high) in zip(shares, ends, strict=True)],
                _colour(i),
            ),
            text=[f"{int(truth[own].sum())} of {len(own)} cases" for own in bins],
            hovertemplate="predicted %{x:.0%}<br>observed %{y:.0%}<br>%{text}<extra>" + _shown(name) + "</extra>",
        )
    if not figure.data:
        return missing(key, title, _lost(lost))
    _add_diagonal(figure)
    figure.update_xaxes(range=[-0.03, 1.03], title_text="mean probability", tickformat=".0%")
    figure.update_yaxes(range=[-0.03, 1.03], title_text="share that is of the class", tickformat=".0%")
    text = f"Bins of {LEAST_CASES_A_BIN} cases or more, with Wilson's 95 % intervals; on the dotted line both agree."
    return _chart(key, title, figure, text + _not_shown(lost), height=430)


def _one_against_rest(
    tested: pd.DataFrame, classes: Sequence[str], lost: list[str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Class, truth and probability of each class that has cases on both sides; `lost` is told of the others."""
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


def training(key: str, history: pd.DataFrame) -> Chart:
    """The loss of each fold by epoch, the mean of its members."""
    title = "Training"
    if history.empty:
        return missing(key, title, "This folder holds no folds, so there is nothing to show of the training.")
    figure = go.Figure()
    for i, (fold, own) in enumerate(history.groupby("fold", sort=False)):
        by_epoch = own.groupby("epoch").mean(numeric_only=True)
        label = "final model" if fold == "final" else f"fold {fold}"
        colour = OTHER if fold == "final" else _colour(i)
        for column, dash in (("train", "solid"), ("validation", "dash")):
            if by_epoch[column].notna().any():
                figure.add_scatter(
                    x=_listed(by_epoch.index),
                    y=_listed(by_epoch[column]),
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
    return _chart(key, title, figure, f"The loss by epoch, {of}. {what}")


def gene_groups(key: str, genes: Sequence[Mapping[str, Any]]) -> Chart:
    """The gradient attribution of a case's gene groups, the strongest first."""
    title = "Gene groups, gradient attribution"
    if not genes:
        return missing(key, title, "No gene groups were explained for this case.")
    strongest = sorted(genes, key=lambda group: abs(group["gradient"]), reverse=True)[:12]
    figure = go.Figure(
        go.Bar(
            x=[abs(group["gradient"]) * (1 if group["direction"] == "+" else -1) for group in strongest],
            y=[_shown(_short(group["group"])) for group in strongest],
            orientation="h",
            marker={"color": [HIGH if group["direction"] == "+" else LOW for group in strongest]},
            text=[_shown(", ".join(str(gene) for gene, *_ in group["top"][:6])) for group in strongest],
            textposition="none",
            hovertemplate="%{y}: %{x:.3g}<br>%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    text = "Right: pushes the output up; left: down. Hover for the genes behind a group."
    return _chart(key, title, figure, text, height=110 + 24 * len(strongest))


def _short(name: str) -> str:
    """Names of gene sets are long, and labels share the width with the bars."""
    plain = name.removeprefix("HALLMARK_").replace("_", " ").lower() if name.startswith("HALLMARK_") else name
    return plain if len(plain) <= 26 else plain[:25] + "…"


def _add_curve(figure: Any, x: Any, y: Any, name: str, colour: str, hover: str, *, shape: str = "linear") -> None:
    figure.add_scatter(
        x=_listed(x),
        y=_listed(y),
        mode="lines",
        name=_shown(name),
        line={"color": colour, "width": 2.2, "shape": shape},
        hovertemplate=f"{hover}<extra>{_shown(name)}</extra>",
    )


def _add_diagonal(figure: Any) -> None:
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"dash": "dot", "width": 1, "color": OTHER})


def _bars(metrics: Sequence[Told], colour: str) -> dict[str, Any]:
    up = [0.0 if told.get("high") is None else max(0.0, told["high"] - told["value"]) for told in metrics]
    down = [0.0 if told.get("low") is None else max(0.0, told["value"] - told["low"]) for told in metrics]
    return {"type": "data", "array": up, "arrayminus": down, "color": colour, "thickness": 1.4, "width": 4}


def followed(tested: pd.DataFrame) -> pd.DataFrame:
    """Cases whose outcome and risk are known; events as booleans."""
    needed = ["survival_months", "event", "risk"]
    if any(name not in tested for name in needed):
        return tested.iloc[:0]
    known = tested.dropna(subset=needed)
    return known.assign(event=known["event"].astype(str).str.lower().isin(("true", "1", "1.0")))


def _ticks(last: float) -> list[int]:
    step = next((step for step in TICK_MONTHS if last / step <= 6), TICK_MONTHS[-1])
    return list(range(0, int(last) + 1, step))


def _chart(
    key: str,
    title: str,
    figure: Any,
    text: str,
    *,
    height: int = 380,
    picks: tuple[str, ...] = (),
    legend_above: bool = False,
) -> Chart:
    place = {"y": 1.02, "yanchor": "bottom"} if legend_above else {"y": -0.22, "yanchor": "top"}
    legend = {"orientation": "h", "x": 0, **place}
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 14, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13, "family": "system-ui, Segoe UI, Roboto, sans-serif"},
        legend=legend,
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False, showline=True, title_standoff=8, fixedrange=False)
    figure.update_yaxes(automargin=True, zeroline=False, title_standoff=8)
    return Chart(key, title, figure.to_plotly_json(), text, picks)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _listed(values: Any) -> list[float | None]:
    """Plain numbers; None where there is none, which leaves a gap."""
    return [None if value is None or not np.isfinite(value) else round(float(value), 5) for value in values]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _shown(text: object) -> str:
    """A user's text as plotly shows it, which else reads tags in it."""
    return escape(str(text), quote=False).replace("%{", "%&#123;")


def _lost(lost: Sequence[str]) -> str:
    return f"It cannot be drawn. {'; '.join(lost)}."


def _not_shown(lost: Sequence[str]) -> str:
    return f" Not shown: {listed(list(lost))}." if lost else ""
