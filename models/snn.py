"""SNN: all genes through a self-normalising network; genes alone.

Klambauer, Unterthiner, Mayr, Hochreiter: "Self-Normalizing Neural Networks", NeurIPS 2017 (arXiv 1706.02515): SELU, weights
N(0, 1/fan-in) and alpha dropout, which keep mean and variance from layer to layer. Depth, width and dropout are those of
the genes-only model of Chen et al., "Multimodal Co-Attention Transformer", ICCV 2021, section 4.2, which has ELU in
SELU's place. All gene groups are read side by side, and a learned vector stands for a case without genes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.configs import SNNConfig
from models.types import Batch, ModelOutput


class SelfNormalising(nn.Sequential):
    """Layers of Linear, SELU and alpha dropout: `width` numbers in, `hidden` out.

    Args:
        width: of what is read.
        hidden: of every layer.
        layers: how many.
        dropout: behind each.
    """

    def __init__(self, width: int, *, hidden: int, layers: int, dropout: float) -> None:
        blocks: list[nn.Module] = []
        for before in [width, *[hidden] * (layers - 1)]:
            dense = nn.Linear(before, hidden)
            nn.init.normal_(dense.weight, std=before**-0.5)
            nn.init.zeros_(dense.bias)
            blocks += [dense, nn.SELU(), nn.AlphaDropout(dropout)]
        super().__init__(*blocks)


class GeneVector(nn.Module):
    """All genes of a case as one vector, or a learned vector for a case without genes."""

    def __init__(self, group_dims: Sequence[int], config: SNNConfig) -> None:
        super().__init__()
        self.read: SelfNormalising | None = None
        if group_dims:
            self.read = SelfNormalising(
                sum(group_dims), hidden=config.hidden, layers=config.layers, dropout=config.dropout
            )
        self.absent = nn.Parameter(torch.randn(config.hidden).mul_(0.02))

    def forward(self, batch: Batch) -> Float[Tensor, "B H"]:
        """A vector of width H for each case."""
        absent = self.absent.expand(len(batch), -1)
        if self.read is None:
            return absent
        return torch.where(batch.has_omics[:, None], self.read(torch.cat(batch.omics, 1)), absent)


class SNN(nn.Module):
    """Genes of a case to K outputs; slides are ignored.

    Args:
        patch_dim: ignored.
        group_dims: genes in each gene group.
        n_outputs: K.
        config: everything else.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: SNNConfig) -> None:
        super().__init__()
        self.genes = GeneVector(group_dims, config)
        self.classify = nn.Linear(config.hidden, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits; there is nothing that explains them."""
        return ModelOutput(self.classify(self.genes(batch)))
