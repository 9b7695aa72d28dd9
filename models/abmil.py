"""ABMIL: one vector a bag, the sum of its patches weighted by gated attention; slides alone.

Ilse, Tomczak, Welling: "Attention-based Deep Multiple Instance Learning", ICML 2018 (arXiv 1802.04712), section 2.4,
gated attention. Departures: patches are first projected (their features come frozen from another network), and a
learned vector stands for the bag of a case without slides, so that such a case still leaves with a prediction.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from models.settings import ModelSettings
from models.types import Batch, ModelOutput


class ABMILConfig(ModelSettings):
    """Sizes of the model; `attention` is the paper's 128."""

    hidden: int = Field(256, ge=1, description="width of projected patches")
    attention: int = Field(128, ge=1, description="width inside the attention")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout of projected patches")


class GatedAttention(nn.Module):
    """softmax over the bag of w·(tanh(V h) ∘ sigmoid(U h))."""

    def __init__(self, config: ABMILConfig) -> None:
        super().__init__()
        self.V = nn.Linear(config.hidden, config.attention)
        self.U = nn.Linear(config.hidden, config.attention)
        self.w = nn.Linear(config.attention, 1, bias=False)

    def forward(self, patches: Float[Tensor, "B N H"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The share of each patch: sums to 1 over those where `mask` is True, and is 0 elsewhere."""
        scores = self.w(torch.tanh(self.V(patches)) * torch.sigmoid(self.U(patches)))[..., 0]
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(1) * mask


class BagVector(nn.Module):
    """All patches of a case as one vector, or the learned vector that says that there are none."""

    def __init__(self, patch_dim: int, config: ABMILConfig) -> None:
        super().__init__()
        H = config.hidden
        # Dropout and ReLU commute; in this order the ReLU can run in place.
        self.project = nn.Sequential(nn.Linear(patch_dim, H), nn.Dropout(config.dropout), nn.ReLU(inplace=True))
        self.attention = GatedAttention(config)
        self.absent = nn.Parameter(torch.randn(H) * 0.02)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B N"]]:
        """One vector a case, and the share of each patch in it."""
        mask = batch.mask & batch.has_slides[:, None]
        patches = self.project(batch.patches)  # (B, N, H)
        attention = self.attention(patches, mask)
        bags = (attention[:, None].to(patches.dtype) @ patches)[:, 0]
        return torch.where(mask.any(1, keepdim=True), bags, self.absent), attention


class ABMIL(nn.Module):
    """Slides of a case to K outputs; genes are ignored.

    Args:
        patch_dim: width of a patch feature.
        group_dims: ignored.
        n_outputs: K.
        config: everything else.
    """

    Config: ClassVar[type[ABMILConfig]] = ABMILConfig
    reads_slides: ClassVar[bool] = True
    reads_genes: ClassVar[bool] = False
    subspaces: ClassVar[tuple[str, ...]] = ()

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: ABMILConfig) -> None:
        super().__init__()
        self.bag = BagVector(patch_dim, config)
        self.classify = nn.Linear(config.hidden, n_outputs)

    def forward(self, batch: Batch) -> ModelOutput:
        """Logits and, in evaluation only, `patch_attention` (B, N): the share of each patch in its bag."""
        bags, attention = self.bag(batch)
        return ModelOutput(self.classify(bags), extras={} if self.training else {"patch_attention": attention.detach()})
