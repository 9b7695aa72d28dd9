"""Modularity of prototypes over the affinity graph of a bag's patches, without the graph's N × N matrix.

The patches of a case are nodes; A_ij = max(0, cos(h_i, h_j)) without self-loops, d = A·1, 2e = ΣA, W = A − d dᵀ/2e.
Patch i belongs to prototype k by S_ki = max(0, cos(c_k, h_i)). The loss of a case is −Σ_k s_k W s_kᵀ / 2e: it falls
as prototypes gather patches that resemble each other more than chance has it (Yi et al., MICCAI 2024, modularity loss).

What makes it cheap and exact:

- Where no feature is negative, no cosine is: A = Z Zᵀ − diag(‖z‖²), z the unit rows, and a product with A is two
  products with Z: O(N·D·K). Z itself is never made: its scale goes on the small side of each product.
- The rows of W sum to zero, so s_k may be shifted by a constant. Shifted by its mean over d it fulfils s̃·d = 0, and
  s W s = s̃ A s̃: the difference of two large numbers, which float32 does not carry, is gone.
- The graph is constant, so the gradient with respect to S is −2 S̃A / 2e, from the product that gave the value.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 256  # rows of A that exist at a time where features may be negative


def modularity_terms(
    patches: Float[Tensor, "B N D"],
    prototypes: Float[Tensor, "B K D"],
    mask: Bool[Tensor, "B N"],
    *,
    non_negative: bool,
) -> Float[Tensor, "B K"]:
    """What each prototype adds to the loss of its case, −s_k W s_kᵀ / 2e; lower is better.

    Gradients reach the prototypes, never the patches, and cannot be differentiated again. A graph without edges
    (no patch, one, rows of zeros, patches at right angles) gives 0. Half precision is computed in float32.

    Args:
        patches: features of the patches; padded rows do not count, so long as they are finite.
        prototypes: points in the patches' space.
        mask: True where a patch is real; padding is no node of the graph.
        non_negative: True promises that no feature is negative, as after a ReLU, and costs O(N·D·K); nothing checks it.
            False serves all features, block by block over A: O(N²·(D + K)) time, O(N·BLOCK) memory.
    """
    with torch.autocast(patches.device.type, enabled=False):
        H, c = _at_least_float32(patches.detach()), _at_least_float32(prototypes)
        scale = _inverse_norms(H, mask)
        terms: Tensor = _Modularity.apply(_similarity(H, scale, c), H, scale, non_negative)
        return terms


def similarity(
    patches: Float[Tensor, "B N D"], prototypes: Float[Tensor, "B K D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, "B K N"]:
    """How much each patch belongs to each prototype: max(0, cosine), from 0 to 1; 0 for padding and rows of zeros."""
    with torch.autocast(patches.device.type, enabled=False):
        H, c = _at_least_float32(patches), _at_least_float32(prototypes)
        return _similarity(H, _inverse_norms(H, mask), c)


class _Modularity(torch.autograd.Function):
    """−s W sᵀ / 2e of each row s of S. A function of its own because the forward pass already holds the gradient."""

    @staticmethod
    def forward(
        ctx: Any, S: Float[Tensor, "B K N"], H: Float[Tensor, "B N D"], scale: Float[Tensor, "B N"], non_negative: bool
    ) -> Float[Tensor, "B K"]:
        nodes = (scale > 0).sum(1, keepdim=True)  # (B, 1)
        s = S - S.sum(2, keepdim=True) / nodes.clamp(min=1)[..., None]  # near s̃, so that no digits are lost below
        product = _times_affinity if non_negative else _times_affinity_by_blocks
        degree, sA = product(torch.cat([torch.ones_like(s[:, :1]), s], 1), H, scale).split([1, s.shape[1]], 1)

        # What the diagonal leaves of a graph without edges is rounding, of the order of its nodes' number.
        edges = degree.sum(2)  # 2e: (B, 1)
        has_edges = edges > 64 * torch.finfo(edges.dtype).eps * nodes
        per_edge = has_edges / edges.where(has_edges, 1.0)

        sA -= (s @ degree.mT) * per_edge[..., None] * degree  # now s̃A, whose sum is 0: s and s̃ have one product with it
        value = -torch.linalg.vecdot(s, sA) * per_edge
        ctx.save_for_backward(sA.mul_(-2 * per_edge[..., None]))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "B K N"], None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient[..., None] * slope, None, None, None


def _times_affinity(
    x: Float[Tensor, "B K N"], H: Float[Tensor, "B N D"], scale: Float[Tensor, "B N"]
) -> Float[Tensor, "B K N"]:
    """The product x A for features that are nowhere negative: x Z Zᵀ − x∘‖z‖²."""
    scale = scale[:, None]
    gathered = (x * scale) @ H  # (B, K, D)
    return (gathered @ H.mT).mul_(scale).sub_(x * (scale > 0))


def _times_affinity_by_blocks(
    x: Float[Tensor, "B K N"], H: Float[Tensor, "B N D"], scale: Float[Tensor, "B N"]
) -> Float[Tensor, "B K N"]:
    """The product x A for any features, a block of A's rows at a time."""
    Z = H * scale[..., None]
    products = []
    for start, rows in enumerate(Z.split(BLOCK, 1)):
        A = (rows @ Z.mT).relu_()  # (B, block, N)
        A.diagonal(start * BLOCK, dim1=1, dim2=2).zero_()
        products.append(x @ A.mT)
    return torch.cat(products, 2)


def _similarity(
    H: Float[Tensor, "B N D"], scale: Float[Tensor, "B N"], prototypes: Float[Tensor, "B K D"]
) -> Float[Tensor, "B K N"]:
    norms = torch.linalg.vector_norm(prototypes, dim=2, keepdim=True)
    units = prototypes / norms.where(norms > 0, 1.0)
    return (units @ H.mT * scale[:, None]).relu()


def _inverse_norms(H: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """1/‖h‖ of real patches, 0 for padding and for rows of zeros, which are no nodes."""
    norms = torch.linalg.vector_norm(H, dim=2)
    real = mask & (norms > 0)
    return real / norms.where(real, 1.0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
