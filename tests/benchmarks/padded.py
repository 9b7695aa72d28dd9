"""UMEML on padded batches, as it was before bags were packed: what the benchmark and the tests compare with.

The weights are those of `models.umeml`; only what reads the bag is here once more, on (B, N, ·) arrays with a mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from models.types import Batch, ModelOutput
from models.umeml import UMEML


@dataclass(frozen=True)
class PaddedBatch:
    """Cases padded to the longest bag, in float32."""

    patches: Tensor  # (B, N, P)
    mask: Tensor  # (B, N)
    omics: tuple[Tensor, ...]
    has_omics: Tensor

    def __len__(self) -> int:
        return len(self.mask)


def padded(batch: Batch) -> PaddedBatch:
    """The batch, assembled as it was: every bag converted and copied into one array of zeros."""
    longest = max(len(bag) for bag in batch.bags)
    dtype = torch.promote_types(batch.bags[0].dtype, torch.float32)
    patches = torch.zeros(len(batch), longest, batch.bags[0].shape[1], dtype=dtype)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for number, bag in enumerate(batch.bags):
        patches[number, : len(bag)] = bag
        mask[number, : len(bag)] = True
    return PaddedBatch(patches, mask, batch.omics, batch.has_omics)


class PaddedUMEML(UMEML):
    """The same model on a padded batch; a batch that is not is padded first."""

    def forward(self, batch: Batch | PaddedBatch, *, explain: bool = False) -> ModelOutput:
        batch = padded(batch) if isinstance(batch, Batch) else batch
        mask, has_omics = batch.mask, batch.has_omics
        linear, dropout, _ = self.project
        patches = dropout(linear(batch.patches)).relu_()
        c = self.pathology.start.expand(len(batch), -1, -1)
        for block in self.pathology.blocks:
            c = c + block.norm(_attention(block.attention, c, patches, mask))
        groups = self.genomic(batch.omics)
        slides, genes = self.slide_side(c, mask.any(1)), self.gene_side(groups, has_omics)
        logits = self.classify(self.fuse(*self.decoder(slides, genes)))
        terms = _modularity(patches.detach(), torch.cat([c, groups], 1), mask)
        of_slides, of_genes = terms.split([c.shape[1], groups.shape[1]], 1)
        loss = self.config.alpha * of_slides.sum(1) + self.config.beta * has_omics * of_genes.sum(1)
        return ModelOutput(logits, {"modularity": self.config.gamma * loss.sum() / mask.any(1).sum().clamp(min=1)})


def _attention(attention, queries, context, mask):
    q = attention._queries_in_context_space(queries)[:, None]
    seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]
    bag = context[:, None]
    means = scaled_dot_product_attention(q, bag, bag, attn_mask=seen, scale=1.0)[:, 0].unflatten(
        1, (attention.heads, -1)
    )
    value = attention.value.weight.unflatten(0, (attention.heads, -1))
    gathered = (means @ value.mT).transpose(1, 2).flatten(2) + attention.value.bias
    return attention.dropout(attention.output(gathered * mask.any(1)[:, None, None]))


def _modularity(H, prototypes, mask):
    norms = torch.linalg.vector_norm(H, dim=2)
    real = mask & (norms > 0)
    scale = real / norms.where(real, 1.0)
    lengths = torch.linalg.vector_norm(prototypes, dim=2, keepdim=True)
    S = (prototypes / lengths.where(lengths > 0, 1.0) @ H.mT * scale[:, None]).relu()
    return _Modularity.apply(S, H, scale)


class _Modularity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, S, H, scale):
        nodes = (scale > 0).sum(1, keepdim=True)
        s = S - S.sum(2, keepdim=True) / nodes.clamp(min=1)[..., None]
        x, row = torch.cat([torch.ones_like(s[:, :1]), s], 1), scale[:, None]
        degree, sA = ((x * row) @ H @ H.mT).mul_(row).sub_(x * (row > 0)).split([1, s.shape[1]], 1)
        edges = degree.sum(2)
        has_edges = edges > 64 * torch.finfo(edges.dtype).eps * nodes
        per_edge = has_edges / edges.where(has_edges, 1.0)
        sA -= (s @ degree.mT) * per_edge[..., None] * degree
        value = -torch.linalg.vecdot(s, sA) * per_edge
        ctx.save_for_backward(sA.mul_(-2 * per_edge[..., None]))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient[..., None] * ctx.saved_tensors[0], None, None
