"""ABMIL: one vector a bag, the sum of its patches weighted by gated attention; slides alone.

Ilse, Tomczak, Welling: "Attention-based Deep Multiple Instance Learning", ICML 2018 (arXiv 1802.04712), section 2.4,
gated attention. Departures: patches are first projected (their features come frozen from another network), and a
learned vector stands for the bag of a case without slides, so that such a case still leaves with a prediction.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.configs import ABMILConfig
from models.layers.projection import PatchProjection
from models.types import Batch, ModelOutput


class GatedAttention(nn.Module):
    """Scores w·(tanh(V h) ∘ sigmoid(U h)) of tokens (Ilse et al. 2018, equation 9)."""

    def __init__(self, config: ABMILConfig) -> None:
        super().__init__()
        self.V = nn.Linear(config.hidden, config.attention)
        self.U = nn.Linear(config.hidden, config.attention)
        self.w = nn.Linear(config.attention, 1, bias=False)

    def forward(self, tokens: Float[Tensor, "*B L H"]) -> Float[Tensor, "*B L 1"]:
        """The score of each token; their softmax over the sequence is the attention."""
        return self.w(torch.tanh(self.V(tokens)) * torch.sigmoid(self.U(tokens)))


class BagVector(nn.Module):
    """All patches of a case as one vector, or the learned vector of a case without slides."""

    def __init__(self, patch_dim: int, config: ABMILConfig) -> None:
        super().__init__()
        H = config.hidden
        self.project = PatchProjection(patch_dim, H, config.dropout)
        self.attention = GatedAttention(config)
        self.absent = nn.Parameter(torch.randn(H).mul_(0.02))

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B H"], Float[Tensor, " N"]]:
        """A vector (B, H) of the cases, and the weight of each patch in it, which sum to 1 over the patches of a case."""
        packing = batch.packing
        if not packing.rows:
            return self.absent.expand(len(batch), -1), self.absent[:0]
        patches = self.project(batch.bags, packing, batch.precision)  # (R, H)
        attention = packing.softmax(self.attention(patches))  # (R, 1)
        bags = packing.gather(attention, patches)[:, 0]
        return torch.where(packing.filled[:, None], bags, self.absent), packing.real(attention)[:, 0]


class ABMIL(nn.Module):
    """Slides of a case to K outputs; genes are ignored.

    Args:
        patch_dim: width of a patch feature.
        group_dims: ignored.
        n_outputs: K.
        config: everything else.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: ABMILConfig) -> None:
        super().__init__()
        self.bag = BagVector(patch_dim, config)
        self.classify = nn.Linear(config.hidden, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits and, with `explain`, `patch_attention` (N,): the weight of each patch in its bag."""
        bags, attention = self.bag(batch)
        return ModelOutput(self.classify(bags), extras={"patch_attention": attention.detach()} if explain else {})
