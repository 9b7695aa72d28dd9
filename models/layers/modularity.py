"""Modularity of prototypes over the affinity graph of a bag's patches, without the graph's N × N matrix.

The patches of a case are nodes; A_ij = max(0, cos(h_i, h_j)) without self-loops, d = A·1, 2e = ΣA, W = A − d dᵀ/2e.
Patch i belongs to prototype k by S_ki = max(0, cos(c_k, h_i)). The loss of a case is −Σ_k s_k W s_kᵀ / 2e: it falls
as prototypes gather patches that resemble each other more than chance has it (Yi et al., MICCAI 2024, modularity loss).

What makes it cheap and exact:

- Where no feature is negative, no cosine is: A = Z Zᵀ − diag(‖z‖²), z the unit rows, and a product with A is two
  products with Z: O(N·D·K). Z itself is never made: its scale goes on the small side of each product.
- The rows of W sum to zero, so s_k may be shifted by a constant. Shifted by its mean over d it fulfils s̃·d = 0, and
  s W s = s̃ A s̃: the difference of two large numbers, which float32 does not carry, is gone.
- The graphs of a batch are those of its cases, without edges between them: see `models.layers.packed`.
- The graph is constant, so the gradient with respect to S is −2 S̃A / 2e, from the product that gave the value.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers.devices import without_autocast
from models.layers.packed import Packing

BLOCK = 256  # rows of A that exist at a time where features may be negative


def modularity_terms(
    patches: Float[Tensor, "R D"],
    prototypes: Float[Tensor, "B K D"],
    packing: Packing,
    *,
    non_negative: bool,
) -> Float[Tensor, "B K"]:
    """The term of each prototype in the loss of its case, −s_k W s_kᵀ / 2e; lower is better.

    Gradients reach the prototypes, never the patches, and cannot be differentiated again. A graph without edges
    (no patch, one, rows of zeros, patches at right angles) gives 0. Half precision is computed in float32.

    Args:
        patches: features of the patches of all cases, packed.
        prototypes: points in the patches' space.
        packing: of the patches.
        non_negative: True promises that no feature is negative, as after a ReLU, and costs O(N·D·K); nothing checks it.
            False serves all features, block by block over A: O(N²·(D + K)) time, O(N·BLOCK) memory.
    """
    with without_autocast(patches.device):
        H, c = _at_least_float32(patches.detach()), _at_least_float32(prototypes)
        scale = _inverse_norms(H)
        terms: Tensor = _Modularity.apply(_similarity(H, scale, c, packing), H, scale, packing, non_negative)
        return terms


def similarity(
    patches: Float[Tensor, "R D"], prototypes: Float[Tensor, "B K D"], packing: Packing
) -> Float[Tensor, "R K"]:
    """How much each patch belongs to each prototype of its case: max(0, cosine), from 0 to 1; 0 for rows of zeros."""
    with without_autocast(patches.device):
        H, c = _at_least_float32(patches), _at_least_float32(prototypes)
        return _similarity(H, _inverse_norms(H), c, packing)


class _Modularity(torch.autograd.Function):
    """−s W sᵀ / 2e of each column s of S. An autograd function because the forward pass already holds the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        S: Float[Tensor, "R K"],
        H: Float[Tensor, "R D"],
        scale: Float[Tensor, "R 1"],
        packing: Packing,
        non_negative: bool,
    ) -> Float[Tensor, "B K"]:
        is_node = (scale > 0).to(S.dtype)
        nodes = packing.sum(is_node)  # (B, 1)
        mean = packing.sum(S) / nodes.clamp(min=1)
        s = (S - packing.broadcast(mean)) * is_node  # near s̃, so that no digits are lost below
        product = _times_affinity if non_negative else _times_affinity_by_blocks
        degree, sA = product(torch.cat([is_node, s], 1), H, scale, packing).split([1, s.shape[1]], 1)

        # What the diagonal leaves of a graph without edges is rounding, of the order of its nodes' number.
        edges = packing.sum(degree)  # 2e: (B, 1)
        has_edges = edges > 64 * torch.finfo(edges.dtype).eps * nodes
        per_edge = has_edges / edges.where(has_edges, 1.0)

        # s̃A, whose sum over the nodes is 0: s and s̃ have one product with it.
        sA = sA - packing.broadcast(packing.sum(s * degree) * per_edge) * degree
        value = -packing.sum(s * sA) * per_edge
        ctx.save_for_backward(sA.mul_(packing.broadcast(-2 * per_edge)))
        ctx.packing = packing
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "R K"], None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return ctx.packing.broadcast(gradient) * slope, None, None, None, None


def _times_affinity(
    x: Float[Tensor, "R K"], H: Float[Tensor, "R D"], scale: Float[Tensor, "R 1"], packing: Packing
) -> Float[Tensor, "R K"]:
    """The product A x for features that are nowhere negative: Z Zᵀ x − ‖z‖²∘x."""
    gathered = packing.gather(x * scale, H)  # (B, K, D)
    return packing.products(H, gathered).mul_(scale).sub_(x * (scale > 0))


def _times_affinity_by_blocks(
    x: Float[Tensor, "R K"], H: Float[Tensor, "R D"], scale: Float[Tensor, "R 1"], packing: Packing
) -> Float[Tensor, "R K"]:
    """The product A x for any features, a block of A's rows at a time."""
    products = torch.zeros_like(x)
    for rows in packing.slices:
        Z = H[rows] * scale[rows]
        for start, block in zip(range(0, len(Z), BLOCK), Z.split(BLOCK), strict=False):
            A = (block @ Z.T).relu_()  # (block, n)
            A.diagonal(start).zero_()
            products[rows][start : start + len(block)] = A @ x[rows]
    return products


def _similarity(
    H: Float[Tensor, "R D"], scale: Float[Tensor, "R 1"], prototypes: Float[Tensor, "B K D"], packing: Packing
) -> Float[Tensor, "R K"]:
    norms = torch.linalg.vector_norm(prototypes, dim=2, keepdim=True)
    units = prototypes / norms.where(norms > 0, 1.0)
    return (packing.products(H, units) * scale).relu()


def _inverse_norms(H: Float[Tensor, "R D"]) -> Float[Tensor, "R 1"]:
    """1/‖h‖ of patches, 0 for rows of zeros, which are no nodes."""
    norms = torch.linalg.vector_norm(H, dim=1, keepdim=True)
    return (norms > 0) / norms.where(norms > 0, 1.0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
