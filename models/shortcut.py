"""A model that learns what a linear reading of a few covariates leaves to be said."""

import torch
from jaxtyping import Float
from torch import nn

from models.types import Batch, ModelOutput


class OnCovariates(nn.Module):
    """Logits of a model on top of those that are linear in one group: the clinical covariates.

    Age, grade and subtype tell more of survival than any gene, but as one group beside a thousand genes they drown: a
    network that has to find their effect finds much else meanwhile. The linear part is therefore fitted beforehand, on
    the same training cases, and stands still while the model learns the rest: an offset, as in a regression.

    Args:
        model: learns the rest.
        group: number of the group of covariates.
        weight: of the linear part, (K, g).
        bias: its intercepts, (K).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, model: nn.Module, group: int, weight: Float[torch.Tensor, "K g"], bias: Float[torch.Tensor, " K"]
    ) -> None:
        super().__init__()
        self.model = model
        self.group = group
        self.register_buffer("weight", weight.clone())  # an ensemble's members share nothing
        self.register_buffer("bias", bias.clone())

    def forward(self, batch: Batch) -> ModelOutput:
        """As the model's output; a case without covariates is given the intercept alone."""
        output: ModelOutput = self.model(batch)
        known = batch.omics[self.group] * batch.has_omics[:, None]
        return ModelOutput(output.logits + known @ self.weight.T + self.bias, output.losses, output.extras)
