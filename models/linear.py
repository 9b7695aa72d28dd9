"""A model and logits that are linear in genes and covariates, side by side: their weighted mean."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput, Score


class LinearBlend(nn.Module):
    """The weighted mean of a model's logits and of fixed logits that are linear in the gene groups and covariates.

    Age, grade and subtype predict survival better than any gene, but as one group among a thousand genes their signal is lost, and
    with a few hundred cases a ridge model of genes is hard to beat. Neither is added to the other: both are fitted by
    themselves, and the weight, chosen on predictions of cases that neither was fitted to, may be 0 for either. So a model
    that has learned nothing beyond the linear logits costs nothing.

    In training mode the output is the model's alone. So it is in evaluation for cases without genes.

    Args:
        model: trained by itself.
        weight: of the linear logits, for all gene groups side by side.
        bias: their intercepts.
        model_share: the weight of the model's logits, 0 to 1: of cases with genes alone, and of cases with slides and genes.
    """

    weight: Float[Tensor, "K k"]
    bias: Float[Tensor, " K"]
    model_share: Float[Tensor, "2"]

    def __init__(
        self,
        model: nn.Module,
        weight: Float[Tensor, "K k"],
        bias: Float[Tensor, " K"],
        model_share: tuple[float, float] = (0.5, 0.5),
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weight", weight.clone())  # an ensemble's members share nothing
        self.register_buffer("bias", bias.clone())
        self.register_buffer("model_share", torch.tensor(model_share))

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """The model's output; in evaluation, its logits averaged with the linear ones where there are genes."""
        output: ModelOutput = self.model(batch, explain=explain)
        if self.training:
            return output
        linear = torch.cat(batch.omics, 1) @ self.weight.T + self.bias
        share = torch.where(batch.has_slides, self.model_share[1], self.model_share[0])
        share = torch.where(batch.has_omics, share, 1.0)[:, None]
        return ModelOutput(share * output.logits.to(linear.dtype) + (1 - share) * linear, output.losses, output.extras)

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """Passed on to the model."""
        if isinstance(self.model, AfterBackward):
            self.model.after_backward(output, score)
