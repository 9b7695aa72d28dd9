"""The survival metrics of one set of cases, by fold and pooled.

Which concordance is the headline? `c_index` of pooled out-of-fold cases compares pairs *within a fold* only. A Cox
model's risk has a scale and an origin of its own in every fold, so a pair across folds compares two models, not two
cases; and a model that has learnt nothing but its training cases' average is pushed below 0.5 by such pairs, since a
fold with many deaths leaves few for training. Unlike the mean over folds it has an interval over cases, and small folds
weigh what they hold. The comparison of all pairs, `c_index_across_folds`, is given beside it, since others report it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from pipeline.metrics.bootstrap import (
    BOOTSTRAP,
    Bootstrap,
    Draws,
    Metric,
    Statistic,
    Weights,
    divide,
    measure,
    not_finite,
    unavailable,
    undefined,
)
from pipeline.metrics.concordance import (
    CensoringDistribution,
    Events,
    Folds,
    FollowUp,
    Months,
    Risks,
    c_index,
    dynamic_auc,
    uno_c_index,
)
from pipeline.metrics.curves import Calibration, beyond, calibration, d_calibration, integrated_brier, survival_at
from pipeline.metrics.report import CaseMetrics, Part, PredictorReport, Trivial, report_by_fold
from pipeline.metrics.small_samples import CROSS_VALIDATED, is_cross_validated, up_to_chance
from preprocessing.io.errors import count

HORIZONS = (12.0, 24.0, 36.0, 60.0)  # months, ascending
EVENTS_OF_A_TEST = 10  # the least in a fold, for which its log-rank test and hazard ratio are reported
TRIVIAL = Trivial(
    description="a random ranking of the cases", metrics={"c_index": Metric(0.5), "uno_c_index": Metric(0.5)}
)


class RiskGroups(Part):
    """High against low risk, cut at the training cases' median.

    Attributes:
        n_high: cases above the median.
        n_low: the others.
        log_rank: χ² of the log-rank test, with one degree of freedom; without an interval. Halved where predictions are
            cross-validated, since it varies up to twice as much (see `small_samples.CROSS_VALIDATED`; Simon et al. 2011,
            "Using cross-validation to evaluate predictive accuracy of survival risk classifiers").
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
        d_calibration: p-value of D-calibration; small where the curves as a whole are not those of the cases. No interval.
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
    d_calibration: Metric | None = None
    risk_groups: RiskGroups

    def basis(self) -> str:
        """Cases, events and comparable pairs."""
        return f"{count(self.n, 'case')}, {self.n_events} events, {self.n_pairs:,} comparable pairs"

    def scalars(self) -> Iterator[tuple[str, Metric]]:
        """Also those of the risk groups."""
        yield from super().scalars()
        for name in ("log_rank", "p_value", "hazard_ratio"):
            yield f"risk_groups/{name}", getattr(self.risk_groups, name)


@dataclass(frozen=True)
class SurvivalPredictions:
    """What a model predicts of n cases.

    Attributes:
        risk: higher is worse; NaN where a model failed.
        curves: survival probability at curve_times, 0 to 1, NaN beyond the follow-up of the training cases; None: no
            Brier score and no calibration.
        curve_times: months, ascending.
        train_risk_median: of the training cases of each case's model, where risk groups are cut; None: no risk groups.
    """

    risk: Risks
    curves: Float[np.ndarray, "n t"] | None = None
    curve_times: Float[np.ndarray, " t"] | None = None
    train_risk_median: Float[np.ndarray, " n"] | None = None

    def of(self, chosen: Bool[np.ndarray, " n"]) -> "SurvivalPredictions":
        """Those of the chosen cases."""
        return replace(
            self,
            risk=self.risk[chosen],
            curves=None if self.curves is None else self.curves[chosen],
            train_risk_median=None if self.train_risk_median is None else self.train_risk_median[chosen],
        )


def survival_metrics(
    known: FollowUp,
    predicted: SurvivalPredictions,
    *,
    train: FollowUp,
    folds: Folds | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> SurvivalMetrics:
    """All survival metrics of n cases with 95 % intervals over cases.

    Args:
        known: of the n cases.
        predicted: of the same cases; a risk of NaN makes the metrics None with that reason.
        train: of the training cases: the censoring distribution comes from them.
        folds: given for pooled out-of-fold cases: concordances compare pairs within a fold only.
        bootstrap: resamples behind the intervals.
    """
    weights = bootstrap.weights(len(known))
    time, event, risk = known.time_months, known.event, predicted.risk
    censoring = CensoringDistribution(train.time_months, train.event)
    uno = uno_c_index(time, event, risk, censoring=censoring, tau=max(HORIZONS), folds=folds)
    auc = {
        f"{horizon:g}": measure(
            dynamic_auc(time, event, risk, censoring=censoring, horizon=horizon, folds=folds), weights
        )
        for horizon in HORIZONS
    }
    concordance = c_index(time, event, risk, folds=folds)
    cross_validated = is_cross_validated(folds)
    across_folds = replace(c_index(time, event, risk), chance=0.5 if cross_validated else None)
    return SurvivalMetrics(
        n=len(known),
        n_events=int(event.sum()),
        n_pairs=concordance.ranking.pairs if concordance.ranking else 0,
        trivial=TRIVIAL,
        c_index=measure(concordance, weights),
        c_index_across_folds=None if folds is None else measure(across_folds, weights),
        uno_c_index=measure(uno, weights),
        auc=auc,
        risk_groups=risk_groups(
            time,
            event,
            risk,
            train_risk_median=predicted.train_risk_median,
            cross_validated=cross_validated,
            weights=weights,
        ),
        **_curve_metrics(known, predicted, censoring, weights),
    )


def survival_by_fold(
    known: FollowUp, predicted: SurvivalPredictions, folds: Folds, bootstrap: Bootstrap = BOOTSTRAP
) -> PredictorReport[SurvivalMetrics]:
    """Survival metrics of each fold's test cases and of all out-of-fold cases pooled.

    The censoring distribution of a fold comes from the cases of the other folds. Pooled it comes from all cases: each
    of them is a training case of some fold.

    Args:
        known: of the n cases.
        predicted: out-of-fold, of the same cases.
        folds: the fold in which each case was a test case; one with fewer than 10 events has no log-rank test.
        bootstrap: resamples behind the intervals.
    """

    def compute(chosen: Bool[np.ndarray, " n"], fold: int | None) -> SurvivalMetrics:
        found = survival_metrics(
            known.of(chosen),
            predicted.of(chosen),
            train=known if fold is None else known.of(~chosen),
            folds=folds if fold is None else None,
            bootstrap=bootstrap,
        )
        return found if fold is None or found.n_events >= EVENTS_OF_A_TEST else _without_tests(found)

    return report_by_fold(compute, folds, headline="c_index")


def _without_tests(metrics: SurvivalMetrics) -> SurvivalMetrics:
    """Without the log-rank test and the hazard ratio, which so few events cannot carry."""
    too_few = unavailable(f"fewer than {EVENTS_OF_A_TEST} events")
    nothing = {"log_rank": too_few, "p_value": too_few, "hazard_ratio": too_few}
    return metrics.model_copy(update={"risk_groups": metrics.risk_groups.model_copy(update=nothing)})


def risk_groups(
    time: Months,
    event: Events,
    risk: Risks,
    *,
    train_risk_median: float | Float[np.ndarray, " n"] | None,
    cross_validated: bool = False,
    weights: Weights,
) -> RiskGroups:
    """High against low risk, cut at the training cases' median: log-rank test and hazard ratio.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        risk: higher is worse; high is above the median.
        train_risk_median: one for all, or one a case; None: no metric.
        cross_validated: whether several models predicted the cases, each those of a fold.
        weights: resamples.
    """
    reason = "no median of the training risks was given" if train_risk_median is None else not_finite("risks", risk)
    high = risk > (0.0 if train_risk_median is None else train_risk_median)
    counts = {"n_high": int(high.sum()), "n_low": int((~high).sum())}
    if reason:
        counts = {"n_high": 0, "n_low": 0}
    elif not event.any():
        reason = f"no event among {count(len(time), 'case')}"
    elif high.all() or not high.any():
        reason = f"all {len(time)} cases are on one side of the training median"
    if reason:
        nothing = unavailable(reason)
        return RiskGroups(**counts, log_rank=nothing, p_value=nothing, hazard_ratio=nothing)
    from lifelines.statistics import logrank_test
    from scipy.special import chdtrc  # scipy.stats takes long to import

    test = logrank_test(time[high], time[~high], event[high], event[~high])
    chi_square = float(test.test_statistic) / (CROSS_VALIDATED**2 if cross_validated else 1)
    hazard_ratio = measure(_hazard_ratio(time, event, high), weights)
    return RiskGroups(
        **counts,
        log_rank=Metric(chi_square),
        p_value=Metric(float(chdtrc(1, chi_square))),
        hazard_ratio=_up_to_one(hazard_ratio) if cross_validated else hazard_ratio,
    )


def _up_to_one(ratio: Metric) -> Metric:
    """With the interval of its logarithm extended as `up_to_chance` does."""
    if not ratio.value or ratio.low is None or not ratio.high:
        return ratio
    lowest = math.log(ratio.low) if ratio.low else -math.inf  # resamples without a death in the high-risk group
    low, high = up_to_chance(math.log(ratio.value), lowest, math.log(ratio.high), 0.0)
    return Metric(ratio.value, math.exp(low), math.exp(high))


def _curve_metrics(
    known: FollowUp, predicted: SurvivalPredictions, censoring: CensoringDistribution, weights: Weights
) -> dict[str, Any]:
    """The fields of `SurvivalMetrics` that need curves."""
    time, event, curves, curve_times = known.time_months, known.event, predicted.curves, predicted.curve_times
    if curves is None or curve_times is None:
        nothing = unavailable("no survival curves were given")
        return {"integrated_brier": nothing, "d_calibration": nothing}

    def calibrated_at(horizon: float) -> Calibration:
        reason = beyond(curve_times, horizon)
        if reason:
            return Calibration.unavailable(reason)
        alive = survival_at(curves, curve_times, np.array([horizon]))[:, 0]
        return calibration(time, event, alive, censoring=censoring, horizon=horizon, weights=weights)

    brier = {
        horizon: integrated_brier(time, event, curves, curve_times=curve_times, censoring=censoring, until=horizon)
        for horizon in HORIZONS
    }
    until = max((horizon for horizon, statistic in brier.items() if not statistic.reason), default=max(HORIZONS))
    return {
        "integrated_brier": measure(brier[until], weights),
        "integrated_brier_until_months": until,
        "calibration": {f"{horizon:g}": calibrated_at(horizon) for horizon in HORIZONS},
        "d_calibration": d_calibration(time, event, curves, curve_times),
    }


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
