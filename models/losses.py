"""Survival likelihoods of a model whose logits are those of the hazard in each of T time bins: discrete-time, and Cox's partial.

Zadeh and Schmid (2020), with the weight of censored cases of Chen et al. (2022); everything is computed on
logarithms, whence no product underflows.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

MIN_PROBABILITY = 1e-7  # of the observed outcome of a case; bounds its loss, and stops its gradient there


def survival_nll(
    logits: Float[Tensor, "B T"], time_bin: Int[Tensor, " B"], event: Bool[Tensor, " B"], alpha: float = 0.5
) -> Float[Tensor, " B"]:
    """The negative log-likelihood of each case.

    Args:
        logits: of the hazards.
        time_bin: the bin of the event, or of the last time the case was seen: 0 to T − 1.
        event: True where the event happened in that bin, False where the case was censored in it.
        alpha: what is taken off the weight of censored cases: 0 to 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    survival = _log_survival(logits)
    before = torch.cat([torch.zeros_like(survival[:, :1]), survival], 1)  # all are alive before the first bin
    happened = _log_likelihood(before, time_bin) + _log_likelihood(logsigmoid(logits), time_bin)
    censored = (1 - alpha) * _log_likelihood(survival, time_bin)
    return -torch.where(event, happened, censored)


def hazards(logits: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The probability of the event in each bin, of those who reach it."""
    return torch.sigmoid(logits)


def survival_curve(logits: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The probability that the event has not happened by the end of each bin: falls from 1 towards 0."""
    return _log_survival(logits).exp()


def risk(logits: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Minus the area under the survival curve, from −T to 0: higher is worse."""
    return -survival_curve(logits).sum(1)


def cox_loss(logits: Float[Tensor, "B T"], time: Float[Tensor, " B"], event: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cox's negative log partial likelihood per death, each death's risk set taken from the batch; ties as Efron (1977) has them.

    The log hazard of a case is the logarithm of its cumulative hazard over all bins: hazards that are proportional in each
    bin differ in it by their log ratio.

    Args:
        logits: of the hazards.
        time: to event or censoring, in any unit.
        event: True where the event happened.

    Returns:
        The mean over the deaths of the batch; 0 where nobody died.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_hazard = (-_log_survival(logits)[:, -1]).clamp(min=MIN_PROBABILITY).log()
    order = time.argsort(descending=True, stable=True)
    event, relative = event[order], (log_hazard - log_hazard.max().detach())[order]
    weight = relative.exp()
    _, group, sizes = torch.unique_consecutive(
        time[order], return_inverse=True, return_counts=True
    )  # cases of one time
    at_risk = weight.cumsum(0)[sizes.cumsum(0) - 1]
    dying = torch.zeros_like(at_risk).index_add(0, group, weight * event)
    deaths = event.cumsum(0)
    before = torch.cat([deaths.new_zeros(1), deaths[sizes.cumsum(0) - 1]])  # deaths at later times, by group
    gone = (deaths - 1 - before[group]) / before.diff()[group].clamp(
        min=1
    )  # share of the tied deaths that left the risk set
    terms = relative - (at_risk[group] - gone.clamp(min=0) * dying[group]).log()
    return -(terms * event).sum() / event.sum().clamp(min=1)


def _log_survival(logits: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    return logsigmoid(-logits).cumsum(1)


def _log_likelihood(log_probabilities: Float[Tensor, "B T"], time_bin: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    return log_probabilities.gather(1, time_bin[:, None])[:, 0].clamp(min=math.log(MIN_PROBABILITY))
