"""Late fusion: the bag vector of attention MIL and the gene vector of a self-normalising network, side by side.

The comparator of Chen et al., "Multimodal Co-Attention Transformer", ICCV 2021, section 4.2, that fuses by concatenation: each
side is read by itself (`models.abmil`: Ilse et al. 2018; `models.snn`: Klambauer et al. 2017), and they meet in one
linear layer. Its logits are thus the sum of both sides' logits, each with a learned weight; averaged logits
would give both sides the same. A learned vector stands for a side that a case lacks.
"""

from collections.abc import Sequence

import torch
from torch import nn

from models.abmil import BagVector
from models.configs import LateFusionConfig
from models.snn import GeneVector
from models.types import Batch, ModelOutput


class LateFusion(nn.Module):
    """Slides and genes of a case, or either alone, to K outputs.

    Args:
        patch_dim: width of a patch feature.
        group_dims: genes in each gene group.
        n_outputs: K.
        config: of both sides.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: LateFusionConfig) -> None:
        super().__init__()
        self.slides = BagVector(patch_dim, config.slides)
        self.genes = GeneVector(group_dims, config.genes)
        self.classify = nn.Linear(config.slides.hidden + config.genes.hidden, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits and, with `explain`, `patch_attention` (N,): the weight of each patch in its bag."""
        bags, attention = self.slides(batch)
        logits = self.classify(torch.cat([bags, self.genes(batch)], 1))
        return ModelOutput(logits, extras={"patch_attention": attention.detach()} if explain else {})
