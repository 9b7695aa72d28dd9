"""Exact multi-head attention, in one form for short padded sequences and one for few queries over long packed bags."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from models.layers.packed import Packing


class Attention(nn.Module):
    """Multi-head attention of queries over a context, for sequences of up to a few thousand tokens.

    Queries, values and the output have biases. Keys have none: it would add the same number to all scores of a query,
    which the softmax takes away again, so the bias of the usual layer never learns.

    Args:
        width: D of queries, context and output.
        heads: into how many parts D is split.
        dropout: probability that a number of the output is dropped in training.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, width: int, *, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: a width of {width} cannot be split over {heads} heads; choose a divisor")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Float[Tensor, "B Q D"], context: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B Q D"]:
        """The attention output of the queries over the context tokens where `mask` is True; zero where none is."""
        q, k, v = (self._split(x) for x in (self.query(queries), self.key(context), self.value(context)))
        gathered = _merge(scaled_dot_product_attention(q, k, v, attn_mask=_open(mask)))
        return self.dropout(self.output(_or_zero(gathered, mask)))

    def weights(
        self, queries: Float[Tensor, "B Q D"], context: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B Q L"]:
        """How much each query attends to each context token: sums to 1 over L, mean over the heads; 0 where masked."""
        scores = self._queries_in_context_space(queries) @ context.mT  # (B, heads · Q, L)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        shares = scores.softmax(-1)
        if mask is not None:
            shares = shares * mask[:, None]
        return shares.unflatten(1, (self.heads, -1)).mean(1)

    def _split(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B heads L d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _queries_in_context_space(self, queries: Float[Tensor, "B Q D"]) -> Float[Tensor, "B headsQ D"]:
        """Scaled queries whose products with the raw context tokens are the scores: q·(W h) = (Wᵀ q)·h."""
        q = self._split(self.query(queries))
        key = self.key.weight.unflatten(0, (self.heads, -1))  # (heads, d, D)
        return (q @ key).flatten(1, 2) * q.shape[-1] ** -0.5


class BagAttention(Attention):
    """The same attention with the same weights, of few queries over bags of up to hundreds of thousands of patches.

    Matrix products are regrouped so that neither keys nor values of the bag are ever computed: scores are
    (W_kᵀ q)·h, and what is gathered is W_v (Σ a_i h_i) + b_v, the weights a_i summing to 1. A bag then costs
    O(L·D·Q·heads) in place of O(L·D²), and no array of its size is made besides itself.
    """

    def forward(  # type: ignore[override]  # it takes several bags at once, packed into one tensor
        self, queries: Float[Tensor, "B Q D"], patches: Float[Tensor, "R D"], packing: Packing
    ) -> Float[Tensor, "B Q D"]:
        """The attention output of each case's queries over its patches; zeros, before the output layer, for an empty bag."""
        means = packing.gather(self._weights(queries, patches, packing), patches)  # (B, heads · Q, D)
        value = self.value.weight.unflatten(0, (self.heads, -1))  # (heads, d, D)
        gathered = _merge(means.unflatten(1, (self.heads, -1)) @ value.mT) + self.value.bias
        return self.dropout(self.output(gathered * packing.filled[:, None, None]))

    def weights(  # type: ignore[override]  # it takes several bags at once, packed into one tensor
        self, queries: Float[Tensor, "B Q D"], patches: Float[Tensor, "R D"], packing: Packing
    ) -> Float[Tensor, "R Q"]:
        """How much each query attends to each patch: sums to 1 over a case's patches, mean over the heads."""
        return self._weights(queries, patches, packing).unflatten(1, (self.heads, -1)).mean(1)

    def _weights(
        self, queries: Float[Tensor, "B Q D"], patches: Float[Tensor, "R D"], packing: Packing
    ) -> Float[Tensor, "R headsQ"]:
        return packing.softmax(packing.products(patches, self._queries_in_context_space(queries)))


def _merge(x: Float[Tensor, "B heads L d"]) -> Float[Tensor, "B L D"]:
    return x.transpose(1, 2).flatten(2)


def _open(mask: Bool[Tensor, "B L"] | None) -> Bool[Tensor, "B 1 1 L"] | None:
    """The mask as the kernels take it; a case without any token opens to all of them, since no kernel defines 0 / 0."""
    return None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None]


def _or_zero(gathered: Float[Tensor, "B Q D"], mask: Bool[Tensor, "B L"] | None) -> Float[Tensor, "B Q D"]:
    """Zero for the cases of which no token may be seen, the rest unchanged."""
    return gathered if mask is None else gathered * mask.any(1)[:, None, None]
