"""Accuracy and calibration of predicted survival curves under censoring."""

import numpy as np
from jaxtyping import Bool, Float

from pipeline.metrics.bootstrap import (
    Draws,
    Metric,
    Statistic,
    Weights,
    divide,
    measure,
    ratio_of_sums,
    unavailable,
    undefined,
)
from pipeline.metrics.concordance import CensoringDistribution, Events, Months, no_horizon, not_finite
from pipeline.metrics.report import Part

GRID_STEP = 1.0  # months between two points of the Brier integral


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
        thirds: from the worst predicted to the best; fewer than three where predictions are equal.
    """

    mean_difference: Metric
    slope: Metric
    thirds: tuple[CalibrationThird, ...] = ()

    @classmethod
    def unavailable(cls, reason: str) -> "Calibration":
        """Without values, and why."""
        return cls(mean_difference=unavailable(reason), slope=unavailable(reason))


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
        curves: probability to be alive at curve_times, 0–1.
        curve_times: months, ascending.
        censoring: of the training cases.
        until: months; the end of the integral.

    Source: Graf et al. 1999. Between two curve times the curve is taken as straight, from 1 at 0 months.
    """
    grid = np.append(np.arange(0, until, GRID_STEP), until)
    chance, chance_then = censoring.at(time), censoring.at(grid)
    dead = (time[:, None] <= grid) & event[:, None]
    alive = time[:, None] > grid
    reason = not_finite("curves", curves) or beyond(curve_times, until)
    if not reason and (not alive[:, -1].any() or chance_then[-1] == 0 or (chance[dead[:, -1]] == 0).any()):
        reason = f"nobody is followed beyond {until:g} months"
    if reason:
        return undefined(len(time), reason)
    survival = survival_at(curves, curve_times, grid)
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
        predicted: probability to be alive at the horizon.
        censoring: of the training cases.
        horizon: months.
        weights: resamples.
    """
    observed = kaplan_meier_at(time, event, horizon)
    reason = not_finite("curves", predicted)
    if reason:
        return Calibration.unavailable(reason)
    difference = Statistic(lambda w: w @ predicted / w.sum(axis=1) - observed.of(w), len(time), reason=observed.reason)
    edges = np.unique(np.quantile(predicted, [1 / 3, 2 / 3]))
    third = np.searchsorted(edges, predicted, side="left")
    return Calibration(
        mean_difference=measure(difference, weights),
        slope=measure(calibration_slope(time, event, predicted, censoring, horizon), weights),
        thirds=tuple(
            CalibrationThird(
                n=int((third == number).sum()),
                predicted=measure(ratio_of_sums(predicted * (third == number), (third == number) * 1.0), weights),
                observed=_observed_in(third == number, time, event, horizon, weights),
            )
            for number in np.unique(third)
        ),
    )


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
        return undefined(len(time), f"nobody is followed to {months:g} months")
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
        predicted: probability to be alive at the horizon, 0 to 1.
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
