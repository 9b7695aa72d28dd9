"""Concordance: how well risks rank cases under censoring.

Conventions. `event` True: it happened. A higher risk is a worse outcome. Times are months. A pair of cases is
comparable if the one with the shorter time had its event; a case that is censored at that very time has outlived it.
Equal risks count half.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.metrics.bootstrap import (
    Statistic,
    agreement,
    divide,
    mean_area,
    not_finite,
    undefined,
)
from preprocessing.io.errors import count

Months = Float[np.ndarray, " n"]
Events = Bool[np.ndarray, " n"]
Risks = Float[np.ndarray, " n"]
Folds = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class FollowUp:
    """What is known of n cases: until when they were followed, and whether the event happened then.

    Attributes:
        time_months: months to event or censoring, above 0.
        event: True where it happened, False where the case was censored.
    """

    time_months: Months
    event: Events

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.time_months)

    def of(self, chosen: Bool[np.ndarray, " n"]) -> "FollowUp":
        """That of the chosen cases."""
        return FollowUp(self.time_months[chosen], self.event[chosen])


@dataclass(frozen=True)
class CensoringDistribution:
    """The chance to be still uncensored after t months, G(t), as the training cases show it.

    Kaplan–Meier with the roles exchanged; at equal times events come before censorings (Uno et al. 2011, as
    scikit-survival and the published tables have it). G is right-continuous.

    Attributes:
        time: training cases' times, months.
        event: training cases' events.
    """

    time: Months
    event: Events

    def at(self, months: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """G at these times, 1 to 0; beyond the longest follow-up it stays at its last value."""
        steps = np.unique(self.time[~self.event])
        leaves = (self.time == steps[:, None]) & ~self.event
        remain = ((self.time > steps[:, None]) | leaves).sum(axis=1)
        kept = np.concatenate([[1.0], np.cumprod(1 - leaves.sum(axis=1) / remain)])
        return kept[np.searchsorted(steps, months, side="right")]


def c_index(time: Months, event: Events, risk: Risks, *, folds: Folds | None = None) -> Statistic:
    """Harrell's concordance: how often, of two cases, the one that dies first has the higher risk; 0.5 is chance.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        risk: higher is worse.
        folds: compare pairs of one fold only; None: all pairs.

    Source: Harrell, Lee & Mark 1996; without folds the value is lifelines'.
    """
    pairs = _comparable(time, event, folds)
    reason = not_finite("risks", risk) or _no_pairs(pairs)
    if reason:
        return undefined(len(time), reason)
    statistic = _concordance(risk, pairs, event, folds)
    if folds is not None:
        return statistic
    from lifelines.utils import concordance_index

    return replace(statistic, point=float(concordance_index(time, -risk, event)))


def uno_c_index(
    time: Months,
    event: Events,
    risk: Risks,
    *,
    censoring: CensoringDistribution,
    tau: float | None = None,
    folds: Folds | None = None,
) -> Statistic:
    """Uno's concordance: pairs weigh 1 / G(t)² of the earlier event, so that censoring does not shift it.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        risk: higher is worse.
        censoring: of the training cases.
        tau: months; only pairs whose event comes before it count, since weights grow without bound in the tail. None:
            all.
        folds: compare pairs of one fold only.

    Source: Uno et al. 2011, equation 6.
    """
    early = event & (time < (np.inf if tau is None else tau))
    pairs = _comparable(time, early, folds, censored=~event)
    chance = censoring.at(time)
    lost = bool((early & (chance == 0)).any())
    reason = not_finite("risks", risk) or _no_pairs(pairs)
    if not reason and lost:
        reason = "an event occurs after every training case is censored (G = 0)"
    if reason:
        return undefined(len(time), reason)
    weighted = pairs * np.where(early, divide(np.ones_like(chance), chance) ** 2, 0)[:, None]
    return _concordance(risk, weighted, early, folds)


def dynamic_auc(
    time: Months,
    event: Events,
    risk: Risks,
    *,
    censoring: CensoringDistribution,
    horizon: float,
    folds: Folds | None = None,
) -> Statistic:
    """Cumulative/dynamic AUC: the chance that who dies by the horizon has a higher risk than who lives beyond it.

    Args:
        time: months to event or censoring.
        event: whether the event happened.
        risk: higher is worse.
        censoring: of the training cases; events weigh 1 / G(t).
        horizon: months.
        folds: compare pairs of one fold only.

    Source: Uno et al. 2007; Blanche et al. 2013.
    """
    cases, controls = event & (time <= horizon), time > horizon
    chance = censoring.at(time)
    reason = not_finite("risks", risk) or no_horizon(cases, controls, horizon)
    if not reason and (chance[cases] == 0).any():
        reason = f"an event before {horizon:g} months occurs after every training case is censored (G = 0)"
    if reason:
        return undefined(len(time), reason)
    weight = np.where(cases, divide(np.ones_like(chance), chance), 0)
    pairs = weight[:, None] * controls[None, :] * _same_fold(len(time), folds)
    if not pairs.any():
        return undefined(len(time), f"no fold has both a death by {horizon:g} months and a case followed beyond it")
    return _concordance(risk, pairs, cases, folds)


def no_horizon(dead: Bool[np.ndarray, " n"], alive: Bool[np.ndarray, " n"], horizon: float) -> str | None:
    """Why a horizon (months) cannot be evaluated: no death by then, or no case followed beyond; None where it can."""
    if not dead.any():
        return f"no event by {horizon:g} months among {count(len(dead), 'case')}"
    if not alive.any():
        return f"nobody is followed beyond {horizon:g} months"
    return None


def _comparable(
    time: Months, event: Events, folds: Folds | None, *, censored: Bool[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n n"]:
    """1 where i had its event while j was still under observation."""
    lasting = ~event if censored is None else censored
    later = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & lasting[None, :])
    return (event[:, None] & later) * _same_fold(len(time), folds)


def _same_fold(n: int, folds: Folds | None) -> Float[np.ndarray, "n n"]:
    return np.ones((n, n)) if folds is None else (folds[:, None] == folds[None, :]).astype(float)


def _concordance(
    risk: Risks, pairs: Float[np.ndarray, "n n"], positive: Bool[np.ndarray, " n"], folds: Folds | None
) -> Statistic:
    """Concordance over weighted pairs (n, n) of one that has its event before the other."""
    events = int(positive.sum())
    negatives = max(len(risk) - events, events)
    return mean_area([(agreement(risk, risk), pairs)], folds, positives=events, negatives=negatives, positive="event")


def _no_pairs(pairs: Float[np.ndarray, "n n"]) -> str | None:
    return None if pairs.any() else f"no comparable pair among {count(len(pairs), 'case')}: too few events"
