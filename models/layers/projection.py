"""The first layer of every model that reads patches: stored features to tokens, a block of rows at a time.

A bag is as it was stored, in half precision, and as wide as its encoder; tokens are narrow. So the features are converted
a block at a time, in the processor's cache, never as a whole, and for the gradient once more. Linear, dropout and ReLU
are one function that keeps nothing but its result: where a token is zero, it was dropped or negative, and no gradient
passes. Everything behind this layer is in the precision of the weights.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.layers.packed import ByCase, Deferred, Packing

CPU_BLOCK_BYTES = 1 << 20  # of converted features at a time: stays in a core's cache
GPU_BLOCK_BYTES = 1 << 27


class PatchProjection(nn.Sequential):
    """Linear, dropout, ReLU of patch features; no token is negative.

    Args:
        patch_dim: P, width of a patch feature.
        hidden: H, width of a token.
        dropout: probability that a number of a token is dropped in training, in steps of 1/256.
    """

    def __init__(self, patch_dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(patch_dim, hidden), nn.Dropout(dropout), nn.ReLU())
        self.dropout = dropout

    def forward(  # type: ignore[override]  # it takes several bags at once
        self, bags: Sequence[Float[Tensor, "n P"]], packing: Packing, precision: torch.dtype | None = None
    ) -> Float[Tensor, "R H"]:
        """The tokens of all bags, packed, in the precision of the weights.

        Args:
            bags: patch features of each case, of any floating type.
            packing: of these bags; rows that are no case's become 0.
            precision: of the product; None: that of the weights. bfloat16 halves its time on processors that compute in
                it and leaves 0.2 % of noise on the gradients.
        """
        linear = self[0]
        chance = round(256 * self.dropout) if self.training else 0
        tokens: Tensor = _Project.apply(linear.weight, linear.bias, chance, precision, packing, *bags)
        return tokens


class _Project(torch.autograd.Function):
    """ReLU of a linear layer, its numbers dropped with a chance in 256ths."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Float[Tensor, "H P"],
        bias: Float[Tensor, " H"],
        chance: int,
        precision: torch.dtype | None,
        packing: Packing,
        *bags: Float[Tensor, "n P"],
    ) -> Float[Tensor, "R H"]:
        ctx.precision, ctx.packing, ctx.scale = precision or weight.dtype, packing, 256 / (256 - chance)
        ctx.deferred = Deferred(packing.slices) if isinstance(packing, ByCase) else None
        ctx.set_materialize_grads(False)
        tokens = weight.new_empty(packing.rows, len(weight))
        turned, shift = (ctx.scale * weight).to(ctx.precision).T, ctx.scale * bias
        convert = _Converter(weight, ctx.precision, packing.rows)
        keep = weight.new_empty(convert.rows, len(weight)) if chance else None
        for rows, block in packing.blocks(bags, convert.rows):
            part = tokens[rows]
            if ctx.precision == weight.dtype:
                torch.addmm(shift, convert(block), turned, out=part)
            else:
                torch.add(shift, convert(block) @ turned, out=part)
            part.relu_()
            if keep is not None:
                part.mul_(torch.ge(_random_bytes(part), chance, out=keep[: len(part)]))
        packing.clear(tokens)
        ctx.save_for_backward(weight, tokens, *bags)
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "R H"] | None) -> tuple[Tensor | None, ...]:
        weight, tokens, *bags = ctx.saved_tensors
        to_weight, to_bias = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
        wanted = any(ctx.needs_input_grad[5:])
        to_rows = tokens.new_empty(len(tokens), weight.shape[1]) if wanted else None
        convert = _Converter(weight, ctx.precision, len(tokens))
        gradient = _BlockGradient(ctx, tokens, grad, convert.rows)
        for rows, block in ctx.packing.blocks(bags, convert.rows):
            part = gradient(rows)
            to_bias += part.sum(0)
            if ctx.precision == weight.dtype:
                to_weight.addmm_(part.T, convert(block))
            else:
                to_weight += part.to(ctx.precision).T @ convert(block)
            if to_rows is not None:
                torch.mm(part, weight, out=to_rows[rows])
        to_weight, to_bias = to_weight.mul_(ctx.scale), to_bias.mul_(ctx.scale)
        if to_rows is None:
            return to_weight, to_bias, None, None, None, *(None for _ in bags)
        to_rows.mul_(ctx.scale)
        to_bags = (to_rows[rows].to(bag.dtype) for rows, bag in zip(ctx.packing.slices, bags, strict=True))
        return to_weight, to_bias, None, None, None, *to_bags


class _BlockGradient:
    """The gradient of the linear layer's output, but for the scale of dropout, block by block in the same memory.

    Args:
        ctx: of `_Project`.
        tokens: its result; no gradient passes where they are 0.
        grad: of the tokens, but for what was deferred; None: there is no other.
        rows: of a block.
    """

    def __init__(self, ctx: Any, tokens: Float[Tensor, "R H"], grad: Float[Tensor, "R H"] | None, rows: int) -> None:
        self._tokens, self._grad, self._starts = tokens, grad, ctx.packing.starts
        self._deferred = ctx.deferred.take() if ctx.deferred else None
        self._memory = tokens.new_empty(rows, tokens.shape[1])

    def __call__(self, rows: slice) -> Float[Tensor, "r H"]:
        """The gradient of these rows, which are of one case if any gradient was deferred; the next call overwrites it."""
        tokens = self._tokens[rows]
        part = self._memory[: len(tokens)]
        whole = part.zero_() if self._grad is None else self._grad[rows]
        if self._deferred is not None:
            weights, vectors = self._deferred
            case = bisect_right(self._starts, rows.start) - 1
            if self._grad is None:
                whole = torch.mm(weights[rows], vectors[case], out=part)
            else:
                whole = torch.addmm(whole, weights[rows], vectors[case], out=part)
        torch.ops.aten.threshold_backward.grad_input(whole, tokens, 0, grad_input=part)
        return part


class _Converter:
    """Blocks of stored features in another type, one after another in the same memory: fresh pages cost as much as the copy.

    Half precision becomes bfloat16 by way of float32: the direct way is ten times slower on the CPU.

    Attributes:
        rows: of a block; no more than there are in all.
    """

    def __init__(self, weight: Float[Tensor, "H P"], precision: torch.dtype, rows: int) -> None:
        at_once = CPU_BLOCK_BYTES if weight.device.type == "cpu" else GPU_BLOCK_BYTES
        self.rows = max(1, min(rows, max(16, at_once // (weight.element_size() * weight.shape[1]))))
        self._weight = weight
        self._memory: list[Tensor] = []
        self._steps = [weight.dtype] if precision == weight.dtype else [torch.float32, precision]

    def __call__(self, block: Float[Tensor, "r P"]) -> Float[Tensor, "r P"]:
        """The block; what was returned before is overwritten."""
        if block.dtype == self._steps[-1]:
            return block
        if not self._memory:
            self._memory = [
                self._weight.new_empty(self.rows, self._weight.shape[1], dtype=step) for step in self._steps
            ]
        for memory in self._memory:
            block = memory[: len(block)].copy_(block)
        return block


def _random_bytes(like: Tensor) -> Tensor:
    """Uniform random bytes of that shape: eight to a draw."""
    count = like.numel()
    draws = torch.empty(-(-count // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    return draws.view(torch.uint8)[:count].view(like.shape)
