"""The survival metrics of one set of cases, by fold and pooled.

Which concordance is the headline? `c_index` of pooled out-of-fold cases compares pairs *within a fold* only. A Cox
model's risk has a scale and an origin of its own in every fold, so a pair across folds compares two models, not two
cases; and a model that has learnt nothing but its training cases' average is pushed below 0.5 by such pairs, since a
fold with many deaths leaves few for training. Unlike the mean over folds it has an interval over cases, and small folds
weigh what they hold. The comparison of all pairs, `c_index_across_folds`, is given beside it, since others report it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from pipeline.metrics.bootstrap import (
    N_BOOT,
    Draws,
    Metric,
    Statistic,
    Weights,
    divide,
    measure,
    resample,
    unavailable,
    undefined,
)
from pipeline.metrics.concordance import (
    CensoringDistribution,
    Events,
    Folds,
    Months,
    Risks,
    c_index,
    dynamic_auc,
    not_finite,
    uno_c_index,
)
from pipeline.metrics.curves import Calibration, beyond, calibration, integrated_brier, survival_at
from pipeline.metrics.report import CaseMetrics, Part, PredictorReport, Trivial, report_by_fold

HORIZONS = (12.0, 24.0, 36.0, 60.0)  # months
TRIVIAL = Trivial(description="any order of the cases", metrics={"c_index": Metric(0.5), "uno_c_index": Metric(0.5)})


class RiskGroups(Part):
    """High against low risk, cut at the training cases' median.

    Attributes:
        n_high: cases above the median.
        n_low: the others.
        log_rank: χ² of the log-rank test, with one degree of freedom; without an interval.
        p_value: of that test.
        hazard_ratio: of high to low, observed over expected deaths of the one by those of the other (Peto & Peto 1972;
            nearer to 1 than Cox's where the effect is strong); above 1 if high risk dies sooner.
    """

    n_high: int
    n_low: int
    log_rank: Metric
    p_value: Metric
    hazard_ratio: Metric


class SurvivalMetrics(CaseMetrics):
    """Survival metrics; 0.5 is chance for all concordances, higher is better.

    Attributes:
        n_events: deaths among the cases.
        n_pairs: comparable pairs behind the c-index.
        c_index: Harrell's concordance, the headline; see the module's head.
        c_index_across_folds: the same over all pairs, where the others are of pairs within a fold; else None.
        uno_c_index: of events before the last horizon.
        auc: by horizon, months as text.
        integrated_brier: up to `integrated_brier_until_months`, the last horizon that the data reach; 0 is best.
        calibration: by horizon.
        risk_groups: high against low risk.
    """

    n_events: int
    n_pairs: int
    c_index: Metric
    c_index_across_folds: Metric | None = None
    uno_c_index: Metric
    auc: dict[str, Metric]
    integrated_brier: Metric
    integrated_brier_until_months: float | None = None
    calibration: dict[str, Calibration] = Field(default_factory=dict)
    risk_groups: RiskGroups

    def basis(self) -> str:
        """Cases, events and comparable pairs."""
        return f"{self.n} cases, {self.n_events} events, {self.n_pairs:,} comparable pairs"

    def scalars(self) -> Iterator[tuple[str, Metric]]:
        """Also those of the risk groups."""
        yield from super().scalars()
        for name in ("log_rank", "p_value", "hazard_ratio"):
            yield f"risk_groups/{name}", getattr(self.risk_groups, name)


def survival_metrics(
    time_months: Months,
    event: Events,
    risk: Risks,
    *,
    train_time: Float[np.ndarray, " m"],
    train_event: Bool[np.ndarray, " m"],
    curves: Float[np.ndarray, "n t"] | None = None,
    curve_times: Float[np.ndarray, " t"] | None = None,
    train_risk_median: float | Float[np.ndarray, " n"] | None = None,
    folds: Folds | None = None,
    horizons: Sequence[float] = HORIZONS,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> SurvivalMetrics:
    """All survival metrics of n cases with 95 % intervals over cases.

    Args:
        time_months: months to event or censoring.
        event: True if it happened.
        risk: higher is worse; NaN where a model failed makes the metrics None with that reason.
        train_time: months of the training cases: the censoring distribution comes from them.
        train_event: events of the training cases.
        curves: probability to be alive at curve_times; None: no Brier score, no calibration.
        curve_times: months, ascending.
        train_risk_median: what cuts the risk groups; one for all, or one a case (that of the case's own fold).
        folds: given for pooled out-of-fold cases: concordances compare pairs within a fold only.
        horizons: months.
        n_boot: number of resamples.
        seed: of the resamples.
    """
    weights = resample(len(time_months), n_boot=n_boot, seed=seed)
    censoring = CensoringDistribution(train_time, train_event)
    uno = uno_c_index(time_months, event, risk, censoring=censoring, tau=max(horizons), folds=folds)
    auc = {
        f"{horizon:g}": measure(
            dynamic_auc(time_months, event, risk, censoring=censoring, horizon=horizon, folds=folds), weights
        )
        for horizon in horizons
    }
    concordance = c_index(time_months, event, risk, folds=folds)
    return SurvivalMetrics(
        n=len(time_months),
        n_events=int(event.sum()),
        n_pairs=concordance.ranking.pairs if concordance.ranking else 0,
        trivial=TRIVIAL,
        c_index=measure(concordance, weights),
        c_index_across_folds=None if folds is None else measure(c_index(time_months, event, risk), weights),
        uno_c_index=measure(uno, weights),
        auc=auc,
        risk_groups=risk_groups(time_months, event, risk, train_risk_median=train_risk_median, weights=weights),
        **_curve_metrics(time_months, event, curves, curve_times, censoring, horizons, weights),
    )


def survival_by_fold(
    time_months: Months,
    event: Events,
    risk: Risks,
    folds: Folds,
    *,
    curves: Float[np.ndarray, "n t"] | None = None,
    curve_times: Float[np.ndarray, " t"] | None = None,
    train_risk_median: Float[np.ndarray, " n"] | None = None,
    horizons: Sequence[float] = HORIZONS,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> PredictorReport[SurvivalMetrics]:
    """Survival metrics of each fold's test cases and of all out-of-fold cases pooled.

    The censoring distribution of a fold comes from the cases of the other folds. Pooled it comes from all cases: each
    of them is a training case of some fold.

    Args:
        time_months: months to event or censoring.
        event: True if it happened.
        risk: out-of-fold risk, higher is worse.
        folds: the fold in which each case was a test case.
        curves: out-of-fold probability to be alive at curve_times.
        curve_times: months, ascending.
        train_risk_median: for each case the median risk of its fold's training cases.
        horizons: months.
        n_boot: number of resamples.
        seed: of the resamples.
    """

    def compute(chosen: Bool[np.ndarray, " n"], fold: int | None) -> SurvivalMetrics:
        train = np.ones(len(folds), dtype=bool) if fold is None else ~chosen
        return survival_metrics(
            time_months[chosen],
            event[chosen],
            risk[chosen],
            train_time=time_months[train],
            train_event=event[train],
            curves=None if curves is None else curves[chosen],
            curve_times=curve_times,
            train_risk_median=None if train_risk_median is None else train_risk_median[chosen],
            folds=folds if fold is None else None,
            horizons=horizons,
            n_boot=n_boot,
            seed=seed,
        )

    return report_by_fold(compute, folds, headline="c_index")


def risk_groups(
    time: Months,
    event: Events,
    risk: Risks,
    *,
    train_risk_median: float | Float[np.ndarray, " n"] | None,
    weights: Weights,
) -> RiskGroups:
    """High against low risk, cut at the training cases' median: log-rank test and hazard ratio.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        risk: higher is worse; high is above the median.
        train_risk_median: one for all, or one a case; None: no metric.
        weights: resamples.
    """
    reason = "no median of the training risks was given" if train_risk_median is None else not_finite("risks", risk)
    high = risk > (0.0 if train_risk_median is None else train_risk_median)
    counts = {"n_high": int(high.sum()), "n_low": int((~high).sum())}
    if reason:
        counts = {"n_high": 0, "n_low": 0}
    elif not event.any():
        reason = f"no event among {len(time)} cases"
    elif high.all() or not high.any():
        reason = f"all {len(time)} cases are on one side of the training median"
    if reason:
        nothing = unavailable(reason)
        return RiskGroups(**counts, log_rank=nothing, p_value=nothing, hazard_ratio=nothing)
    from lifelines.statistics import logrank_test

    test = logrank_test(time[high], time[~high], event[high], event[~high])
    return RiskGroups(
        **counts,
        log_rank=Metric(float(test.test_statistic)),
        p_value=Metric(float(test.p_value)),
        hazard_ratio=measure(_hazard_ratio(time, event, high), weights),
    )


def _curve_metrics(
    time: Months,
    event: Events,
    curves: Float[np.ndarray, "n t"] | None,
    curve_times: Float[np.ndarray, " t"] | None,
    censoring: CensoringDistribution,
    horizons: Sequence[float],
    weights: Weights,
) -> dict[str, Any]:
    """The fields of `SurvivalMetrics` that need curves."""
    if curves is None or curve_times is None:
        return {"integrated_brier": unavailable("no survival curves were given")}
    brier = {
        horizon: integrated_brier(time, event, curves, curve_times=curve_times, censoring=censoring, until=horizon)
        for horizon in sorted(horizons)
    }
    until = max((horizon for horizon, statistic in brier.items() if not statistic.reason), default=max(horizons))
    return {
        "integrated_brier": measure(brier[until], weights),
        "integrated_brier_until_months": until,
        "calibration": {
            f"{horizon:g}": _calibration_where_known(
                time, event, curves, curve_times, censoring=censoring, horizon=horizon, weights=weights
            )
            for horizon in horizons
        },
    }


def _calibration_where_known(
    time: Months,
    event: Events,
    curves: Float[np.ndarray, "n t"],
    curve_times: Float[np.ndarray, " t"],
    *,
    censoring: CensoringDistribution,
    horizon: float,
    weights: Weights,
) -> Calibration:
    reason = beyond(curve_times, horizon)
    if reason:
        return Calibration.unavailable(reason)
    predicted = survival_at(curves, curve_times, np.array([horizon]))[:, 0]
    return calibration(time, event, predicted, censoring=censoring, horizon=horizon, weights=weights)


def _hazard_ratio(time: Months, event: Events, high: Bool[np.ndarray, " n"]) -> Statistic:
    steps = np.unique(time[event])
    deaths = ((time[:, None] == steps) & event[:, None]).astype(float)
    remain = (time[:, None] >= steps).astype(float)

    def ratio(weights: Weights) -> Draws:
        in_high = weights * high
        share = np.nan_to_num(divide(in_high @ remain, weights @ remain))  # (b, steps)
        expected = (weights @ deaths) * share
        observed_high, observed = in_high @ event, weights @ event
        expected_high = expected.sum(axis=1)
        below = divide(observed - observed_high, observed - expected_high)
        return divide(divide(observed_high, expected_high), below)

    statistic = Statistic(ratio, len(time))
    if not np.isfinite(statistic.value):
        return undefined(len(time), "no death in the low-risk group")
    return statistic
