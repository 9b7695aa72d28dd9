"""A model that is trained on several tasks at once, and predicts one of them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.types import AfterBackward, Batch, ModelOutput, Score

RATE = (
    50.0  # of the log variances over that of the weights: a training has some hundred steps, in which they must settle
)


class JointModel(nn.Module):
    """One trunk with a head for each task: the model's outputs side by side, the main task's first.

    In training the logits are those of all heads. In evaluation they are the main task's, so that the model takes the place of one
    that was trained on that task only.

    Args:
        model: with the outputs of all heads.
        n_outputs: of the main task.
        total_outputs: of all tasks.
        n_heads: how many tasks there are.
    """

    def __init__(self, model: nn.Module, n_outputs: int, total_outputs: int, n_heads: int) -> None:
        super().__init__()
        self.model, self.n_outputs, self.total_outputs, self.n_heads = model, n_outputs, total_outputs, n_heads
        self.scaled_log_variance = nn.Parameter(torch.zeros(n_heads))

    @property
    def log_variance(self) -> Float[Tensor, " T"]:
        """Of each task: log σ² of Kendall, Gal, Cipolla (CVPR 2018), learned with the weights."""
        return RATE * self.scaled_log_variance

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """The model's output; in evaluation with the main task's logits only."""
        output: ModelOutput = self.model(batch, explain=explain)
        if self.training:
            return output
        return ModelOutput(output.logits[:, : self.n_outputs], output.losses, output.extras)

    def after_backward(self, output: ModelOutput, score: Score) -> None:
        """Passed on to the model."""
        if isinstance(self.model, AfterBackward):
            self.model.after_backward(output, score)
