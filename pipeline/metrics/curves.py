"""Accuracy and calibration of predicted survival curves under censoring."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pipeline.metrics.bootstrap import (
    Draws,
    Metric,
    Statistic,
    Weights,
    divide,
    measure,
    not_finite,
    ratio_of_sums,
    unavailable,
    undefined,
)
from pipeline.metrics.concordance import CensoringDistribution, Events, Months, no_horizon
from pipeline.metrics.report import Part
from pipeline.metrics.small_samples import Z
from preprocessing.io.errors import count

GRID_STEP = 1.0  # months between two points of the Brier integral
NEIGHBOURS = 20  # on either side, at least, of which observed survival is smoothed
INTERVALS, CASES_AN_INTERVAL = 10, 5  # of D-calibration; the least number that χ² holds for


class CalibrationThird(Part):
    """A third of the cases, by predicted survival: its mean prediction and Kaplan–Meier's observed share alive, 0 to 1."""

    n: int
    predicted: Metric
    observed: Metric


class Calibration(Part):
    """Predicted against observed survival at a horizon.

    Attributes:
        mean_difference: mean predicted minus Kaplan–Meier's observed survival; 0 is best, positive is too hopeful.
        slope: of being alive on predicted survival, by least squares with inverse-probability-of-censoring weights; 1 is
            best, below 1 the predictions are too extreme.
        integrated_index: mean absolute difference of predicted and smoothed observed survival, 0 is best; smoothing alone
            leaves some 0.04 on 450 cases with perfect curves. No interval.
        thirds: from the worst predicted to the best; fewer than three where predictions are equal.
    """

    mean_difference: Metric
    slope: Metric
    integrated_index: Metric | None = None
    thirds: tuple[CalibrationThird, ...] = ()

    @classmethod
    def unavailable(cls, reason: str) -> "Calibration":
        """Without values, and why."""
        return cls(mean_difference=unavailable(reason), slope=unavailable(reason), integrated_index=unavailable(reason))


def integrated_brier(
    time: Months,
    event: Events,
    curves: Float[np.ndarray, "n t"],
    *,
    curve_times: Float[np.ndarray, " t"],
    censoring: CensoringDistribution,
    until: float,
) -> Statistic:
    """Mean squared error of the survival curves over 0…until months, 0 is best; 0.25 is what "½ for everyone" gets.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        curves: survival probability at curve_times, 0–1.
        curve_times: months, ascending.
        censoring: of the training cases.
        until: months; the end of the integral.

    Source: Graf et al. 1999. Between two curve times the curve is taken as straight, from 1 at 0 months.
    """
    grid = np.append(np.arange(0, until, GRID_STEP), until)
    chance, chance_then = censoring.at(time), censoring.at(grid)
    dead = (time[:, None] <= grid) & event[:, None]
    alive = time[:, None] > grid
    survival = survival_at(curves, curve_times, grid)
    reason = beyond(curve_times, until) or not_finite(f"curves up to {until:g} months", survival)
    if not reason and (not alive[:, -1].any() or chance_then[-1] == 0 or (chance[dead[:, -1]] == 0).any()):
        reason = f"nobody is followed beyond {until:g} months"
    if reason:
        return undefined(len(time), reason)
    loss = dead * survival**2 * divide(np.ones_like(chance), chance)[:, None]
    loss = np.where(dead, loss, 0) + alive * (1 - survival) ** 2 / chance_then
    return ratio_of_sums(np.trapezoid(loss, grid, axis=1) / until)


def calibration(
    time: Months,
    event: Events,
    predicted: Float[np.ndarray, " n"],
    *,
    censoring: CensoringDistribution,
    horizon: float,
    weights: Weights,
) -> Calibration:
    """Predicted against observed survival at a horizon.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        predicted: survival probability at the horizon.
        censoring: of the training cases.
        horizon: months.
        weights: resamples.
    """
    observed = kaplan_meier_at(time, event, horizon)
    reason = not_finite(f"curves at {horizon:g} months", predicted)
    if reason:
        return Calibration.unavailable(reason)
    difference = Statistic(lambda w: w @ predicted / w.sum(axis=1) - observed.of(w), len(time), reason=observed.reason)
    edges = np.unique(np.quantile(predicted, [1 / 3, 2 / 3]))
    third = np.searchsorted(edges, predicted, side="left")
    return Calibration(
        mean_difference=measure(difference, weights),
        slope=measure(calibration_slope(time, event, predicted, censoring, horizon), weights),
        integrated_index=integrated_calibration_index(time, event, predicted, horizon),
        thirds=tuple(
            CalibrationThird(
                n=int((third == number).sum()),
                predicted=measure(ratio_of_sums(predicted * (third == number), (third == number) * 1.0), weights),
                observed=_observed_in(third == number, time, event, horizon, weights),
            )
            for number in np.unique(third)
        ),
    )


def integrated_calibration_index(
    time: Months, event: Events, predicted: Float[np.ndarray, " n"], horizon: float
) -> Metric:
    """Mean absolute difference of predicted and observed survival at a horizon, 0–1; 0 is best.

    Of each case, the mean prediction and Kaplan–Meier's estimate among the cases with the nearest predictions are compared: a
    tenth of all on either side, and 20 at least.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        predicted: survival probability at the horizon.
        horizon: months.

    Source: Austin, Harrell & van Klaveren 2020, with the nearest-neighbour estimate of Akritas 1994 as the smoother.
    """
    n = len(time)
    if n < 3 * NEIGHBOURS:
        return unavailable(f"only {count(n, 'case')}; at least {3 * NEIGHBOURS} are needed")
    if not np.ptp(predicted):
        return unavailable("all predictions are equal")
    reach = max(NEIGHBOURS, n // 10)
    order = np.argsort(predicted, kind="stable")
    first = np.clip(np.arange(n) - reach, 0, n - 2 * reach - 1)  # a window as wide at both ends
    near = (np.arange(n) >= first[:, None]) & (np.arange(n) <= first[:, None] + 2 * reach)
    observed = kaplan_meier_at(time[order], event[order], horizon).of(near.astype(float))
    if not np.isfinite(observed).all():
        return unavailable(
            f"for {count(int(np.isnan(observed).sum()), 'case')}, no case with a similar prediction is followed that long"
        )
    expected = (
        near @ predicted[order] / near.sum(axis=1)
    )  # smoothed alike: else a steep stretch would count as an error
    return Metric(float(np.abs(expected - observed).mean()))


def d_calibration(
    time: Months, event: Events, curves: Float[np.ndarray, "n t"], curve_times: Float[np.ndarray, " t"]
) -> Metric:
    """P-value of the hypothesis that predicted survival at each case's own time is uniform, as that of true curves is.

    Small where curves are not those of the cases as a whole; it says nothing about how well they rank cases. Survival at
    the time of death counts for one of ten intervals; a censored case is spread over those that it may still reach. Cases
    are censored where curves end.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        curves: survival probability at curve_times, 0–1; NaN beyond the follow-up of the training cases.
        curve_times: months, ascending.

    Source: Haider, Hoehn, Davis & Greiner 2020, section 3.6.
    """
    n = len(time)
    if n < CASES_AN_INTERVAL * INTERVALS:
        return unavailable(f"only {count(n, 'case')}; at least {CASES_AN_INTERVAL * INTERVALS} are needed")
    known = np.isfinite(curves).all(axis=0)
    if not known[0]:
        return unavailable(not_finite("curves", curves) or "no curves")
    last = curve_times[known.cumprod().astype(bool)][-1]
    until, died = np.minimum(time, last), event & (time <= last)
    share = np.array(
        [survival_at(curve[None], curve_times, month[None])[0, 0] for curve, month in zip(curves, until, strict=True)]
    )
    share = share.clip(1e-12, 1)
    upper = np.arange(1, INTERVALS + 1) / INTERVALS
    below = np.minimum(share[:, None], upper)  # of each case, the part of 0 to its share that lies below each edge
    in_several = np.diff(below, axis=1, prepend=0) / share[:, None]
    in_one = np.eye(INTERVALS)[np.searchsorted(upper[:-1], share, side="left")]
    counts = np.where(died[:, None], in_one, in_several).sum(axis=0)
    from scipy.stats import chi2

    expected = n / INTERVALS
    return Metric(float(chi2.sf(((counts - expected) ** 2 / expected).sum(), INTERVALS - 1)))


@dataclass(frozen=True)
class KaplanMeier:
    """A Kaplan–Meier curve: a step at each time, from (0, 1) on.

    Attributes:
        months: the distinct times of events and censorings, 0 before them, ascending.
        survival: probability to survive beyond each time, 1 to 0.
        low: lower end of the 95 % interval at each time.
        high: upper end.
    """

    months: Months
    survival: Float[np.ndarray, " t"]
    low: Float[np.ndarray, " t"]
    high: Float[np.ndarray, " t"]

    def at(self, months: Months) -> Float[np.ndarray, " n"]:
        """Survival at these times, which are not negative."""
        return self.survival[np.searchsorted(self.months, months, side="right") - 1]


def kaplan_meier(time: Months, event: Events) -> KaplanMeier:
    """The curve of n cases, with the intervals of exponential Greenwood (Kalbfleisch & Prentice 1980), as lifelines has them.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
    """
    months = np.unique(np.append(time, 0.0))
    died = np.array([(event & (time == month)).sum() for month in months], float)
    at_risk = np.array([(time >= month).sum() for month in months], float)
    survival = np.cumprod(1 - died / np.maximum(at_risk, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.cumsum(died / (at_risk * (at_risk - died)))) / np.log(survival)
        ends = [np.exp(-np.exp(np.log(-np.log(survival)) + sign * Z * error)) for sign in (-1, 1)]
    low, high = (np.where(survival == 1, 1.0, np.where(survival == 0, 0.0, end)) for end in ends)
    return KaplanMeier(months, survival, np.minimum(low, high), np.maximum(low, high))


def kaplan_meier_at(time: Months, event: Events, months: float) -> Statistic:
    """Kaplan–Meier's share of cases alive at a time, 0–1; NaN if the follow-up ends before, unless all have died."""
    steps = np.unique(time[event & (time <= months)])
    deaths = ((time[:, None] == steps) & event[:, None]).astype(float)
    remain = (time[:, None] >= steps).astype(float)
    followed = (time >= months).astype(float)

    def alive(weights: Weights) -> Draws:
        hazard = divide(weights @ deaths, weights @ remain)
        share = np.prod(1 - np.nan_to_num(hazard), axis=1)  # no one at risk, no step
        return np.where((weights @ followed > 0) | (share == 0), share, np.nan)

    statistic = Statistic(alive, len(time))
    if not np.isfinite(statistic.value):
        return undefined(len(time), f"none of {count(len(time), 'case')} is followed to {months:g} months")
    return statistic


def survival_at(
    curves: Float[np.ndarray, "n t"], curve_times: Float[np.ndarray, " t"], months: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "n m"]:
    """Interpolate curves at other times (months), linearly, from 1 at 0 months (Kvamme & Borgan 2021)."""
    times = np.concatenate([[0.0], curve_times[curve_times > 0]])
    known = np.column_stack([np.ones(len(curves)), curves[:, curve_times > 0]])
    return np.stack([np.interp(months, times, curve) for curve in known])


def beyond(curve_times: Float[np.ndarray, " t"], horizon: float) -> str | None:
    """Why curves cannot be evaluated at a horizon (months): they end before it; None where they can."""
    if curve_times[-1] < horizon:
        return f"the survival curves end at {curve_times[-1]:g} months, before {horizon:g}"
    return None


def calibration_slope(
    time: Months, event: Events, predicted: Float[np.ndarray, " n"], censoring: CensoringDistribution, horizon: float
) -> Statistic:
    """The slope of being alive at the horizon on the predicted probability; 1 is best, see `calibration`.

    Args:
        time: months to event or censoring.
        event: True where the event happened.
        predicted: survival probability at the horizon, 0 to 1.
        censoring: of the training cases.
        horizon: months.
    """
    dead, alive = event & (time <= horizon), time > horizon
    reason = no_horizon(dead, alive, horizon)
    if not reason and np.ptp(predicted) == 0:
        reason = "the predictions are all equal"
    chance = np.where(alive, censoring.at(np.array([horizon])), censoring.at(time))
    if not reason and (chance[dead | alive] == 0).any():
        reason = f"every training case is censored before {horizon:g} months (G = 0)"
    if reason:
        return undefined(len(time), reason)
    weight = np.where(dead | alive, divide(np.ones_like(chance), chance), 0)
    centred = predicted - predicted.mean()  # the slope does not depend on it; the sums stay exact

    def slope(weights: Weights) -> Draws:
        total, x, y, xx, xy = (
            weights @ (weight * column)
            for column in (np.ones_like(centred), centred, alive * 1.0, centred**2, centred * alive)
        )
        return divide(total * xy - x * y, total * xx - x**2)

    return Statistic(slope, len(time))


def _observed_in(
    group: Bool[np.ndarray, " n"], time: Months, event: Events, horizon: float, weights: Weights
) -> Metric:
    return measure(kaplan_meier_at(time[group], event[group], horizon), weights[:, group])
