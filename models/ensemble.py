"""Several models of one kind, trained apart from different random starts, that answer together."""

from collections.abc import Sequence

import torch
from torch import nn

from models.types import Batch, ModelOutput


class Ensemble(nn.Module):
    """The mean of its members' logits.

    What the random start and the order of the cases put into one model is noise, and averages out: with a few hundred
    cases that is worth more than most changes of the model (Lakshminarayanan et al. 2017, "Deep ensembles").
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, batch: Batch) -> ModelOutput:
        """The mean logits; as extras `logits` (E, B, K) of each member, and each extra of theirs, stacked likewise."""
        told: list[ModelOutput] = [member(batch) for member in self.members]
        logits = torch.stack([output.logits for output in told]).to(
            torch.promote_types(told[0].logits.dtype, torch.float32)
        )
        extras = {name: torch.stack([output.extras[name] for output in told]) for name in told[0].extras}
        return ModelOutput(logits.mean(0), {}, {"logits": logits} | extras)
