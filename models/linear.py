"""A model that learns what a linear reading of genes and covariates leaves to be said."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput, Score


class OnLinear(nn.Module):
    """Logits of a model on top of those that are linear in the gene groups and covariates.

    Age, grade and subtype tell more of survival than any gene, but as one group beside a thousand genes they drown: a
    network that has to find their effect finds much else meanwhile. What is linear is therefore fitted beforehand, and
    stands still while the model learns the rest: an offset, as in a regression. In training the offset of a case comes
    from a fit that has not seen it (`Batch.offset`), or nothing would be left to learn.

    Args:
        model: learns the rest.
        weight: of the linear part, for all groups side by side.
        bias: its intercepts.
        absent: what a case without genes is given: the mean over the training cases.
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

    def forward(self, batch: Batch) -> ModelOutput:
        """As the model's output, the linear part added to its logits."""
        output: ModelOutput = self.model(batch)
        with torch.autocast(output.logits.device.type, enabled=False):
            linear = torch.cat(batch.omics, 1) @ self.weight.T + self.bias if batch.offset is None else batch.offset
            logits = output.logits.to(linear.dtype) + torch.where(batch.has_omics[:, None], linear, self.absent)
        return ModelOutput(logits, output.losses, output.extras)

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """The model's own say, if it has one; it is shown the output with the linear part."""
        if isinstance(self.model, AfterBackward):
            self.model.after_backward(output, score)
