"""Several models of one kind, trained from different random starts, whose logits are averaged."""

from collections.abc import Sequence

import torch
from torch import nn

from models.types import Batch, ModelOutput


class Ensemble(nn.Module):
    """The mean of its members' logits.

    What the random start and the order of the cases put into one model is noise, and averages out: with a few hundred
    cases that is worth more than most changes of the model (Lakshminarayanan et al. 2017, "Deep ensembles").

    Args:
        members: E models that take the same batches.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """The mean logits; as extras `logits` (E, B, K) of each member, and each extra of theirs, stacked likewise.

        Args:
            batch: B cases.
            explain: whether the members compute what explains their outputs.
        """
        outputs: list[ModelOutput] = [member(batch, explain=explain) for member in self.members]
        logits = torch.stack([output.logits for output in outputs])
        extras = {name: torch.stack([output.extras[name] for output in outputs]) for name in outputs[0].extras}
        return ModelOutput(logits.mean(0), {}, {"logits": logits} | extras)
