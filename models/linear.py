"""A model, logits that are linear in genes and covariates, and a model of slides only, side by side: their weighted sum."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput, Score

INPUTS = ("genes", "slides", "slides+genes")  # what a case may have: rows of the weights
PARTS = ("network", "linear", "slides network")  # columns


@dataclass(frozen=True)
class StackWeights:
    """How much each part counts, by what a case has.

    Attributes:
        weights: of the logits of each part, not negative; their sum need not be 1.
        offsets: added to the logits.
    """

    weights: Float[Tensor, "3 3"]
    offsets: Float[Tensor, "3 K"]

    @classmethod
    def equal(cls, n_outputs: int) -> "StackWeights":
        """The mean of network and linear logits; the network's alone where there are no genes."""
        return cls(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), torch.zeros(3, n_outputs))

    def describe(self, *, has_slides: bool, has_slides_network: bool) -> dict[str, dict[str, float]]:
        """The weights by what a case has and by part, for reports; those of parts and inputs that there are.

        Args:
            has_slides: whether any case has slides.
            has_slides_network: whether there is a network of slides only.
        """
        there = [name for name in PARTS if has_slides_network or name != "slides network"]
        return {
            inputs: {name: float(row[PARTS.index(name)]) for name in there if name != "linear" or "genes" in inputs}
            for inputs, row in zip(INPUTS, self.weights, strict=True)
            if has_slides or "slides" not in inputs
        }


class LinearBlend(nn.Module):
    """The weighted sum of a model's logits, of fixed ones that are linear in gene groups and covariates, and of slides only.

    Age, grade and subtype predict survival better than any gene, but as one group beside a thousand genes they drown; with a
    few hundred cases a ridge model of genes is hard to beat, and a network of both modalities learns from slides less than one of
    slides only. All are fitted by themselves, and the weights, chosen on predictions of cases that none was fitted to, may be 0
    for any of them: so a part that has learned nothing costs nothing. Parts that know different things add up, as
    independent evidence does: the weights need not sum to 1.

    In training mode the output is the model's alone.

    Args:
        model: trained by itself.
        weight: of the linear logits, for all gene groups side by side.
        bias: their intercepts.
        stack: the weights of the parts; None: equal ones.
        slides_model: a model of slides only; None: there is none, and its weight is not used.
    """

    weight: Float[Tensor, "K k"]
    bias: Float[Tensor, " K"]
    part_weights: Float[Tensor, "3 3"]
    offsets: Float[Tensor, "3 K"]

    def __init__(
        self,
        model: nn.Module,
        weight: Float[Tensor, "K k"],
        bias: Float[Tensor, " K"],
        stack: StackWeights | None = None,
        slides_model: nn.Module | None = None,
    ) -> None:
        super().__init__()
        stack = stack or StackWeights.equal(len(bias))
        self.model = model
        self.slides_model = slides_model
        # An ensemble's members share nothing.
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())
        self.register_buffer("part_weights", stack.weights.clone())
        self.register_buffer("offsets", stack.offsets.clone())

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """The model's output; in evaluation, with the weighted sum of the logits of all parts."""
        output: ModelOutput = self.model(batch, explain=explain)
        if self.training:
            return output
        linear = torch.cat(batch.omics, 1) @ self.weight.T + self.bias
        both = torch.where(batch.has_slides, INPUTS.index("slides+genes"), INPUTS.index("genes"))
        row = torch.where(batch.has_omics, both, INPUTS.index("slides"))
        network, lines, slides = self.part_weights[row].split(1, dim=1)
        logits = network * output.logits.to(linear.dtype) + lines * linear + self.offsets[row]
        if self.slides_model is not None and any(len(bag) for bag in batch.bags):
            logits = logits + slides * self.slides_model(batch).logits.to(linear.dtype)
        return ModelOutput(logits, output.losses, output.extras)

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """Passed on to the model."""
        if isinstance(self.model, AfterBackward):
            self.model.after_backward(output, score)
