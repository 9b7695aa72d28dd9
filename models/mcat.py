"""MCAT: gene groups attend to patches; both are then read as short sequences.

Chen, Lu, Weng, Chen, Williamson, Manz, Shady, Mahmood: "Multimodal Co-Attention Transformer for Survival Prediction in
Gigapixel Whole Slide Images", ICCV 2021. Section 3.2: bags of patches and of gene groups; 3.3: genomic-guided
co-attention; 3.4: a set transformer for each modality, gated attention pooling (Ilse et al. 2018) and concatenation.

Where this departs from the paper or its released code, and why:

- A batch holds several cases, packed (`models.layers.packed`); there, it is one case.
- A case may lack slides or genes: learned tokens stand for the gene groups, which then ask in their place, or for what
  the patches would have answered.
- The co-attention's keys have no bias, which would have no effect, and are never computed (`BagAttention`): the bag costs
  one product for each gene group.
- Gene groups are read by the self-normalising layers of `models.snn`, of SELU in place of ELU.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.abmil import GatedAttention
from models.configs import ABMILConfig, MCATConfig
from models.layers.attention import BagAttention
from models.layers.projection import PatchProjection
from models.snn import SelfNormalising
from models.types import Batch, ModelOutput


class Pooled(nn.Module):
    """A short sequence of tokens to one vector: transformer, gated attention pooling, one layer."""

    def __init__(self, config: MCATConfig) -> None:
        super().__init__()
        H = config.hidden
        layer = nn.TransformerEncoderLayer(H, config.heads, config.feed_forward, config.dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, config.blocks, enable_nested_tensor=False)
        self.attention = GatedAttention(ABMILConfig(hidden=H, attention=H))
        self.rho = nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Dropout(config.dropout))

    def forward(self, tokens: Float[Tensor, "B S H"]) -> Float[Tensor, "B H"]:
        """A vector of width H for each case."""
        x = self.transformer(tokens)
        return self.rho((self.attention(x).softmax(1).mT @ x)[:, 0])


class MCAT(nn.Module):
    """Slides and genes of a case, or either alone, to K outputs.

    Args:
        patch_dim: width of a patch feature.
        group_dims: genes in each gene group; without any, one learned token asks.
        n_outputs: K.
        config: everything else.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: MCATConfig) -> None:
        super().__init__()
        H, S = config.hidden, max(1, len(group_dims))
        self.project = PatchProjection(patch_dim, H, config.dropout)
        self.groups = nn.ModuleList(
            SelfNormalising(genes, hidden=H, layers=config.gene_layers, dropout=config.dropout) for genes in group_dims
        )
        self.absent_genes = nn.Parameter(torch.randn(S, H).mul_(0.02))
        self.absent_answers = nn.Parameter(torch.randn(S, H).mul_(0.02))
        self.coattention = BagAttention(H)
        self.slides, self.genes = Pooled(config), Pooled(config)
        self.fuse = nn.Sequential(nn.Linear(2 * H, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU())
        self.classify = nn.Linear(H, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits and, with `explain`, `coattention` (S, N): the attention of each gene group, 1 over a case's patches."""
        groups, packing = self._read(batch), batch.packing
        answers, extras = self.absent_answers.expand(len(batch), -1, -1), {}
        if packing.rows:
            patches = self.project(batch.bags, packing, batch.precision)
            gathered = self.coattention(groups, patches, packing)  # (B, S, H)
            answers = torch.where(packing.filled[:, None, None], gathered, answers)
            if explain:
                extras["coattention"] = packing.real(self.coattention.weights(groups, patches, packing)).T.detach()
        fused = self.fuse(torch.cat([self.slides(answers), self.genes(groups)], 1))
        return ModelOutput(self.classify(fused), extras=extras)

    def _read(self, batch: Batch) -> Float[Tensor, "B S H"]:
        absent = self.absent_genes.expand(len(batch), -1, -1)
        if not self.groups:
            return absent
        read = torch.stack([layers(genes) for layers, genes in zip(self.groups, batch.omics, strict=True)], 1)
        return torch.where(batch.has_omics[:, None, None], read, absent)
