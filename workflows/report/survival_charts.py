"""Charts of survival tasks: values from `metrics.json`, curves that it does not contain from `predictions.csv`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.metrics import Metric, SurvivalMetrics, TaskReport
from pipeline.metrics.curves import Calibration
from pipeline.metrics.curves import kaplan_meier as estimate_curve
from pipeline.metrics.small_samples import is_cross_validated
from pipeline.metrics.survival import RiskGroups
from pipeline.run.formatting import number
from pipeline.tasks.survival import outcome
from preprocessing.io.errors import count
from workflows.report.chart import (
    HIGH,
    LOW,
    MODEL,
    OTHER,
    Chart,
    add_diagonal,
    bars,
    colour_of,
    escaped,
    faint,
    make_chart,
    missing,
    numbers,
)
from workflows.report.plain.phrasing import comparator_name, p_value

RISK_GROUPS = {"high risk": HIGH, "low risk": LOW}
TERTILES = ("lowest tertile", "middle tertile", "highest tertile")  # of predicted survival
AUC_POINTS = 40  # points of the curve between the horizons of metrics.json
TICK_MONTHS = (3, 6, 12, 24, 36, 60, 120)


def kaplan_meier(key: str, tested: pd.DataFrame, groups: RiskGroups | None) -> Chart:
    """Kaplan–Meier curves by predicted risk group, with confidence bands and numbers at risk."""
    title = "Kaplan–Meier curves by predicted risk group"
    known = evaluable(tested)
    if known.empty:
        return missing(key, title, "No tested case has a follow-up time and a predicted risk group.")
    last = float(known["survival_months"].max())
    figure = make_subplots(rows=2, cols=1, row_heights=[0.8, 0.2], vertical_spacing=0.13, shared_xaxes=True)
    for group, colour in RISK_GROUPS.items():
        cases = known[known["prediction"] == group]
        if len(cases):
            _add_group(figure, cases, group, colour)
            _add_at_risk(figure, cases, group, colour, _ticks(last))
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", title_text="survival", row=1, col=1)
    figure.update_yaxes(range=[1.5, -0.7], showgrid=False, showline=False, row=2, col=1)
    figure.update_xaxes(tickvals=_ticks(last), range=[-0.03 * last, 1.04 * last])
    figure.update_xaxes(title_text="months; below: number at risk", showticklabels=True, row=1, col=1)
    figure.update_xaxes(visible=False, row=2, col=1)
    text = _log_rank(groups, _folds(known))
    return make_chart(key, title, figure, text, height=430, legend_y=-0.02)


def _add_group(figure: Any, cases: pd.DataFrame, group: str, colour: str) -> None:
    """Add the curve of a risk group, its confidence band, and ticks at censored cases."""
    curve = estimate_curve(cases["survival_months"].to_numpy(float), cases["event"].to_numpy(bool))
    months = curve.months.tolist()
    band = {"mode": "lines", "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=months, y=numbers(curve.high), **band, row=1, col=1)
    figure.add_scatter(x=months, y=numbers(curve.low), fill="tonexty", fillcolor=faint(colour), **band, row=1, col=1)
    figure.add_scatter(
        x=months,
        y=numbers(curve.survival),
        mode="lines",
        name=f"{group} ({count(len(cases), 'case')}, {count(int(cases['event'].sum()), 'event')})",
        line={"color": colour, "width": 2.5, "shape": "hv"},
        hovertemplate="%{x:.1f} months: survival %{y:.0%}<extra>" + group + "</extra>",
        row=1,
        col=1,
    )
    censored = cases.loc[~cases["event"], "survival_months"]
    figure.add_scatter(
        x=numbers(censored),
        y=numbers(curve.at(censored.to_numpy(float))),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 8, "color": colour},
        hovertemplate="censored at %{x:.1f} months<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )


def _add_at_risk(figure: Any, cases: pd.DataFrame, group: str, colour: str, ticks: list[int]) -> None:
    figure.add_scatter(
        x=ticks,
        y=[group] * len(ticks),
        mode="text",
        text=[str(int((cases["survival_months"] >= tick).sum())) for tick in ticks],
        textfont={"color": colour, "size": 12},
        cliponaxis=False,
        hovertemplate=f"%{{text}} of {group} at risk at %{{x}} months<extra></extra>",
        showlegend=False,
        row=2,
        col=1,
    )


def _log_rank(groups: RiskGroups | None, folds: np.ndarray | None) -> str:
    training = "the training cases of each fold" if folds is not None else "the training cases"
    caption = f"Cut-off: median risk of {training}. Bands: 95% confidence intervals; ticks: censored cases."
    if groups is None:
        return caption + " No log-rank test: this run has no metrics."
    if groups.p_value.value is None:
        return f"{caption} No log-rank test: {groups.p_value.reason}."
    ratio = groups.hazard_ratio
    hazard = f"hazard ratio {number(ratio)}" if ratio.value is not None else f"no hazard ratio: {ratio.reason}"
    halved = " (χ² halved, since each pair of folds counts twice)" if is_cross_validated(folds) else ""
    return f"Log-rank test{halved}: {p_value(groups.p_value)}; {hazard}. {caption}"


def auc_over_time(key: str, tested: pd.DataFrame, report: TaskReport[SurvivalMetrics]) -> Chart:
    """Cumulative/dynamic AUC by month: with intervals at the horizons of metrics.json, and a curve from the predictions."""
    title = "AUC over time"
    auc = report.model.pooled.auc
    if all(metric.value is None for metric in auc.values()):
        reasons = {str(metric.reason) for metric in auc.values()}
        return missing(key, title, f"Not computed: {'; '.join(sorted(reasons))}.")
    figure = go.Figure()
    months, curve = _auc_curve(evaluable(tested))
    figure.add_scatter(
        x=months,
        y=curve,
        mode="lines",
        line={"color": MODEL, "width": 1.5},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
    )
    predictors = {report.model_name: report.model} | {
        comparator_name(other): one for other, one in report.others().items()
    }
    for i, (name, predictor) in enumerate(predictors.items()):
        _add_months(figure, i, name, predictor.pooled.auc)
    figure.add_hline(y=0.5, line={"dash": "dot", "width": 1, "color": OTHER})
    figure.update_yaxes(range=[-0.03, 1.05], title_text="AUC")
    figure.update_xaxes(title_text="months", rangemode="tozero")
    text = (
        "Cumulative/dynamic AUC: cases with an event by that month against cases event-free beyond it. Dotted line: chance. "
        "Click a name in the legend to show or hide it."
    )
    return make_chart(key, title, figure, text)


def _add_months(figure: Any, i: int, name: str, auc: Mapping[str, Metric]) -> None:
    """Add the AUCs of the i-th predictor, shifted against overlap; all but the first are hidden until selected in the legend."""
    known = {int(month): metric for month, metric in auc.items() if metric.value is not None}
    if not known:
        return
    figure.add_scatter(
        x=[month + 0.45 * i for month in known],
        y=[metric.value for metric in known.values()],
        mode="markers",
        name=escaped(name),
        visible=True if i == 0 else "legendonly",
        marker={"color": colour_of(i), "size": 9},
        error_y=bars(list(known.values()), colour_of(i)),
        text=[f"{escaped(name)}, {month} months: {number(metric)}" for month, metric in known.items()],
        hovertemplate="%{text}<extra></extra>",
    )


def _auc_curve(known: pd.DataFrame) -> tuple[list[float | None], list[float | None]]:
    from pipeline.metrics.concordance import CensoringDistribution, dynamic_auc

    time, event = known["survival_months"].to_numpy(float), known["event"].to_numpy(bool)
    risk, folds = known["risk"].to_numpy(float), _folds(known)
    censoring = CensoringDistribution(time, event)
    months = np.linspace(time[event].min(), time.max(), AUC_POINTS) if event.any() else np.empty(0)
    areas = [
        dynamic_auc(time, event, risk, censoring=censoring, horizon=float(month), folds=folds).value for month in months
    ]
    return numbers(months), numbers(areas)


def _folds(tested: pd.DataFrame) -> np.ndarray | None:
    """Fold of each case, for pairs within folds; None where one model predicted all cases, so that all pairs count."""
    if "fold" not in tested or tested["fold"].isna().any():
        return None
    return tested["fold"].to_numpy(int)


def survival_calibration(key: str, report: TaskReport[SurvivalMetrics]) -> Chart:
    """Observed against predicted survival by tertiles of the prediction, from metrics.json."""
    title = "Calibration: observed against predicted survival"
    figure, skipped = go.Figure(), []
    for i, (month, known) in enumerate(report.model.pooled.calibration.items()):
        thirds = [third for third in known.thirds if third.observed.value is not None]
        skipped += _not_drawn(month, known)
        if not thirds:
            continue
        figure.add_scatter(
            x=[third.predicted.value for third in thirds],
            y=[third.observed.value for third in thirds],
            mode="markers+lines",
            name=f"{month} months",
            line={"color": colour_of(i), "width": 1.5},
            marker={"size": 9},
            error_y=bars([third.observed for third in thirds], colour_of(i)),
            text=[
                f"{count(third.n, 'case')}<br>predicted {number(third.predicted)}<br>observed {number(third.observed)}"
                for third in thirds
            ],
            hovertemplate="%{text}<extra>" + f"{month} months</extra>",
        )
    if not figure.data:
        return missing(key, title, f"Not computed: {'; '.join(skipped) or 'no survival curves'}.")
    add_diagonal(figure)
    figure.update_xaxes(range=[-0.03, 1.03], title_text="predicted survival", tickformat=".0%")
    figure.update_yaxes(range=[-0.03, 1.03], title_text="observed survival", tickformat=".0%")
    more = f" Not drawn: {'; '.join(skipped)}." if skipped else ""
    text = (
        f"Tertiles of predicted survival; dotted line: perfect calibration.{more} {_whole_curves(report.model.pooled)}"
    )
    return make_chart(key, title, figure, text, height=430)


def _not_drawn(month: str, known: Calibration) -> list[str]:
    """What is not drawn of a horizon, and why: the horizon, or some of its thirds."""
    if all(third.observed.value is None for third in known.thirds):
        return [f"{month} months ({known.mean_difference.reason or known.slope.reason})"]
    names = TERTILES if len(known.thirds) == len(TERTILES) else [f"group {i + 1}" for i in range(len(known.thirds))]
    return [
        f"the {name} at {month} months ({third.observed.reason})"
        for name, third in zip(names, known.thirds, strict=True)
        if third.observed.value is None
    ]


def _whole_curves(metrics: SurvivalMetrics) -> str:
    """The integrated calibration index by horizon, and the p-value of D-calibration."""
    indices = {month: known.integrated_index for month, known in metrics.calibration.items() if known.integrated_index}
    known = [f"{number(index)} at {month}" for month, index in indices.items() if index.value is not None]
    parts = [f"Integrated calibration index (0 is best): {', '.join(known)} months."] if known else []
    if metrics.d_calibration and metrics.d_calibration.value is not None:
        parts.append(f"D-calibration: {p_value(metrics.d_calibration)}; a small p-value means that curves are off.")
    return " ".join(parts)


def survival_curves(key: str, predicted: pd.DataFrame) -> Chart:
    """Predicted survival curves of all cases, of which one can be selected."""
    title = "Predicted survival curves"
    months = sorted(
        int(name[9:-1]) for name in predicted.columns if name.startswith("survival_") and name[9:-1].isdigit()
    )
    months = [month for month in months if predicted[f"survival_{month}m"].notna().any()]  # of the follow-up
    known = predicted.dropna(subset=[f"survival_{month}m" for month in months[:1]]) if months else predicted.iloc[:0]
    if known.empty:
        return missing(key, title, "No case has a predicted survival curve.")
    figure, names = go.Figure(), []
    by_risk = known.sort_values("risk", ascending=False) if "risk" in known else known
    for row in by_risk.to_dict("records"):
        colour = RISK_GROUPS.get(row["prediction"], OTHER)
        names.append(_curve_name(row))
        figure.add_scatter(
            x=[0, *months],
            y=[1.0, *numbers([row[f"survival_{month}m"] for month in months])],
            mode="lines",
            name=escaped(names[-1]),
            line={"color": colour, "width": 1},
            opacity=0.45,
            hovertemplate=f"{escaped(row['case_id'])}, {row['prediction']}<br>%{{x}} months: survival %{{y:.0%}}<extra></extra>",
        )
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", title_text="predicted survival")
    figure.update_xaxes(title_text="months", tickvals=_ticks(float(months[-1])))
    figure.update_layout(showlegend=False)
    text = "Each case predicted by a model not trained on it; orange: high risk, blue: low risk. Select a case to highlight it."
    return replace(make_chart(key, title, figure, text), picks=tuple(names))


def _curve_name(row: Mapping[Any, Any]) -> str:
    name = f"{row['case_id']}: {row['prediction']}"
    if pd.isna(row.get("survival_months")):
        return f"{name}, outcome unknown"
    outcome_name = "event" if row["event"] else "censored"
    return f"{name}, {outcome_name} at {row['survival_months']:.1f} months"


def evaluable(tested: pd.DataFrame) -> pd.DataFrame:
    """Cases with known outcome and predicted risk; events as booleans."""
    needed = ["survival_months", "event", "risk"]
    if any(name not in tested for name in needed):
        return tested.iloc[:0]
    known = tested.dropna(subset=needed)
    return known.assign(event=outcome(known)[1])


def _ticks(last: float) -> list[int]:
    step = next((step for step in TICK_MONTHS if last / step <= 6), TICK_MONTHS[-1])
    return list(range(0, int(last) + 1, step))
