"""The survival metrics of one set of cases, by fold and pooled.

Which concordance is the headline? `c_index` of pooled out-of-fold cases compares pairs *within a fold* only. A Cox
model's risk has a scale and an origin of its own in every fold, so a pair across folds compares two models, not two
cases; and a model that has learnt nothing but its training cases' average is pushed below 0.5 by such pairs, since a
fold with many deaths leaves few for training. Unlike the mean over folds it has an interval over cases, and small folds
weigh what they hold. The comparison of all pairs, `c_index_across_folds`, is given beside it, since others report it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from pipeline.metrics.bootstrap import (
    N_BOOT,
    Draws,
    Metric,
    Report,
    Statistic,
    Weights,
    by_fold,
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
from pipeline.metrics.curves import beyond, calibration, integrated_brier, survival_at

HORIZONS = (12.0, 24.0, 36.0, 60.0)  # months


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
) -> Report:
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

    Returns:
        0.5 is chance for all concordances. "c_index" (the headline, see the module's head), with folds also
        "c_index_across_folds"; "uno_c_index", of events before the last horizon; "auc" by horizon; "integrated_brier"
        up to the last horizon that the data reach, "integrated_brier_until_months"; "calibration" by horizon;
        "risk_groups".
    """
    weights = resample(len(time_months), n_boot=n_boot, seed=seed)
    censoring = CensoringDistribution(train_time, train_event)
    report: Report = {"c_index": measure(c_index(time_months, event, risk, folds=folds), weights)}
    if folds is not None:
        report["c_index_across_folds"] = measure(c_index(time_months, event, risk), weights)
    uno = uno_c_index(time_months, event, risk, censoring=censoring, tau=max(horizons), folds=folds)
    report["uno_c_index"] = measure(uno, weights)
    report["auc"] = {
        f"{horizon:g}": measure(
            dynamic_auc(time_months, event, risk, censoring=censoring, horizon=horizon, folds=folds), weights
        )
        for horizon in horizons
    }
    report |= _curve_metrics(time_months, event, curves, curve_times, censoring, horizons, weights)
    report["risk_groups"] = risk_groups(time_months, event, risk, train_risk_median=train_risk_median, weights=weights)
    return report


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
) -> Report:
    """Survival metrics of each fold's test cases and of all out-of-fold cases pooled; see `by_fold` for the form.

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

    def compute(chosen: Bool[np.ndarray, " n"], fold: int | None) -> Report:
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

    return by_fold(compute, folds, main="c_index")


def risk_groups(
    time: Months,
    event: Events,
    risk: Risks,
    *,
    train_risk_median: float | Float[np.ndarray, " n"] | None,
    weights: Weights,
) -> Report:
    """High against low risk, cut at the training cases' median: log-rank test and hazard ratio.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        risk: higher is worse; high is above the median.
        train_risk_median: one for all, or one a case; None: nothing can be said.
        weights: resamples.

    Returns:
        "n_high", "n_low"; "log_rank" (χ² with one degree of freedom) and "p_value", without intervals; "hazard_ratio"
        of high to low, observed over expected deaths of the one by those of the other (Peto & Peto 1972; nearer to 1
        than Cox's where the effect is strong), above 1 if high risk dies sooner.
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
        return {**counts, **{name: unavailable(reason) for name in ("log_rank", "p_value", "hazard_ratio")}}
    from lifelines.statistics import logrank_test

    test = logrank_test(time[high], time[~high], event[high], event[~high])
    return {
        **counts,
        "log_rank": Metric(float(test.test_statistic)),
        "p_value": Metric(float(test.p_value)),
        "hazard_ratio": measure(_hazard_ratio(time, event, high), weights),
    }


def _curve_metrics(
    time: Months,
    event: Events,
    curves: Float[np.ndarray, "n t"] | None,
    curve_times: Float[np.ndarray, " t"] | None,
    censoring: CensoringDistribution,
    horizons: Sequence[float],
    weights: Weights,
) -> Report:
    if curves is None or curve_times is None:
        return {
            "integrated_brier": unavailable("no survival curves were given"),
            "integrated_brier_until_months": None,
            "calibration": {},
        }
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
) -> Report:
    reason = beyond(curve_times, horizon)
    if reason:
        return {"mean_difference": unavailable(reason), "slope": unavailable(reason), "thirds": []}
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
