"""The weights of several predictors of a case, chosen on cases that none of them was fitted to (stacking: Wolpert 1992)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from models.linear import INPUTS, PARTS, StackWeights
from pipeline.tasks.base import FittedTask

log = logging.getLogger(__name__)
FEWEST_CASES = 30  # of which weights are learned; with fewer all parts weigh the same
MOST_STEPS = 15_000  # of the optimiser
PENALTY = 0.01  # of the mean loss: on squared distances from equal weights without offsets


def fit_stack(
    task: FittedTask, logits: Sequence[Float[np.ndarray, "n K"]], targets: Float[np.ndarray, "n t"]
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " K"]]:
    """Weights of the logits of P parts, and what is added to their weighted sum, least in the task's own loss.

    Weights are not negative (Breiman 1996, "Stacked regressions") and need not sum to 1: two parts that know different
    things are surer together, as log odds of independent evidence add up, and one that is too sure of itself is damped.

    Args:
        task: whose loss decides.
        logits: of each part, for cases that it was not fitted to.
        targets: of these cases.

    Returns:
        Weights of the parts and offsets of the outputs; equal weights that sum to 1 where there are too few cases.
    """
    parts, outputs = len(logits), logits[0].shape[1]
    start = np.concatenate([np.full(parts, 1 / parts), np.zeros(outputs)])
    if len(targets) < FEWEST_CASES:
        return start[:parts], start[parts:]
    values, wanted = torch.from_numpy(np.stack(logits)).double(), torch.from_numpy(targets)
    equal = torch.from_numpy(start)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(flat.copy()).requires_grad_()
        total = (x[:parts, None, None] * values).sum(0) + x[parts:]
        value = task.loss(total, wanted) + PENALTY * (x - equal).square().sum()
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    from scipy.optimize import minimize

    bounds = [(0, None)] * parts + [(None, None)] * outputs
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MOST_STEPS})
    if not found.success:
        log.warning("the weights of the model's parts may not be optimal: %s", found.message)
    return found.x[:parts], found.x[parts:]


@dataclass(frozen=True)
class LeftOutLogits:
    """Logits of each part for n training cases.

    Attributes:
        honest: whether each was computed by what was fitted without the case; else the weights cannot be learned from them.
        networks: of the networks, by what they were given of each case, one of `models.linear.INPUTS`.
        linear: linear in genes and covariates; 0 for a case without genes.
        slides: of the networks of slides only; None: there are none.
        has_slides: which cases have slides.
        has_genes: which cases have genes.
    """

    honest: bool
    networks: Mapping[str, Float[np.ndarray, "n K"]]
    linear: Float[np.ndarray, "n K"]
    slides: Float[np.ndarray, "n K"] | None
    has_slides: Bool[np.ndarray, " n"]
    has_genes: Bool[np.ndarray, " n"]

    def parts(self, inputs: str) -> dict[str, Float[np.ndarray, "n K"]]:
        """Logits of the parts that read these inputs, by name: of `models.linear.PARTS`."""
        found = {"network": self.networks[inputs]}
        if "genes" in inputs:
            found["linear"] = self.linear
        if "slides" in inputs and self.slides is not None:
            found["slides network"] = self.slides
        return found

    def have(self, inputs: str) -> Bool[np.ndarray, " n"]:
        """Which cases have these inputs, or more."""
        return (self.has_slides | ("slides" not in inputs)) & (self.has_genes | ("genes" not in inputs))


def fit_weights(task: FittedTask, left_out: LeftOutLogits, targets: Float[np.ndarray, "n t"]) -> StackWeights:
    """The weights of the parts by what a case has.

    Those for cases with genes only are learned from all cases with genes, as if there were no slides, and likewise for slides.

    Args:
        task: whose loss decides.
        left_out: logits of the training cases.
        targets: of these cases.
    """
    weights, offsets = np.zeros((len(INPUTS), len(PARTS))), np.zeros((len(INPUTS), left_out.linear.shape[1]))
    for row, inputs in enumerate(INPUTS):
        parts, there = left_out.parts(inputs), left_out.have(inputs) & left_out.honest
        if len(parts) == 1:
            found = np.ones(1)
        else:
            found, offsets[row] = fit_stack(task, [logits[there] for logits in parts.values()], targets[there])
        weights[row, [PARTS.index(name) for name in parts]] = found
    return StackWeights(torch.from_numpy(weights).float(), torch.from_numpy(offsets).float())


def describe_equal_weights(left_out: LeftOutLogits) -> list[str]:
    """A note for the report on cases with whose inputs too few training cases were left out to learn weights; else nothing."""
    counts = {inputs: int(left_out.have(inputs).sum()) for inputs in INPUTS if len(left_out.parts(inputs)) > 1}
    equal = [name for name, count in counts.items() if count and (count < FEWEST_CASES or not left_out.honest)]
    if not equal:
        return []
    return [
        f"the parts of the model have equal weights for cases with {', '.join(equal)}: learning the weights takes at least "
        f"{FEWEST_CASES} training cases that a member of the ensemble left out"
    ]


def blended(left_out: LeftOutLogits, stack: StackWeights) -> Float[np.ndarray, "n K"]:
    """The weighted sum of the parts for each case by what it has, as `LinearBlend` computes it for other cases."""
    logits = np.empty_like(left_out.linear)
    for row, inputs in enumerate(INPUTS):
        rows = ~left_out.has_genes
        if "genes" in inputs:
            rows = left_out.has_genes & (left_out.has_slides == ("slides" in inputs))
        weights = stack.weights[row].numpy()
        total = stack.offsets[row].numpy() + sum(
            weights[PARTS.index(name)] * values for name, values in left_out.parts(inputs).items()
        )
        logits[rows] = total[rows]
    return logits
