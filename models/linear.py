"""A model of what a linear model of genes and covariates leaves unexplained."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput, Score


class LinearOffset(nn.Module):
    """The logits of a model plus fixed logits that are linear in the gene groups and covariates.

    Age, grade and subtype predict survival better than any gene, but as one group beside a thousand genes they drown: a
    network that has to find their effect finds much else meanwhile. The linear logits are therefore fitted beforehand and
    fixed while the model learns the rest: an offset, as in a regression. In training the offset of a case comes from a fit
    without that case (`Batch.offset`), or nothing would be left to learn.

    Args:
        model: learns the rest.
        weight: of the linear logits, for all gene groups side by side.
        bias: their intercepts.
        absent: the linear logits of a case without genes: the mean over the training cases.
    """

    weight: Tensor
    bias: Tensor
    absent: Tensor

    def __init__(
        self, model: nn.Module, weight: Float[Tensor, "K k"], bias: Float[Tensor, " K"], absent: Float[Tensor, " K"]
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weight", weight.clone())  # an ensemble's members share nothing
        self.register_buffer("bias", bias.clone())
        self.register_buffer("absent", absent.clone())

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """The model's output, the linear logits added to its own."""
        output: ModelOutput = self.model(batch, explain=explain)
        linear = torch.cat(batch.omics, 1) @ self.weight.T + self.bias if batch.offset is None else batch.offset
        logits = output.logits.to(linear.dtype) + torch.where(batch.has_omics[:, None], linear, self.absent)
        return ModelOutput(logits, output.losses, output.extras)

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """As the model's; `output` is that of `forward`, linear logits included."""
        if isinstance(self.model, AfterBackward):
            self.model.after_backward(output, score)
