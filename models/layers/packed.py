"""Bags of many cases as rows of one matrix, without padding, and the products that stay within a case.

TCGA bags differ tenfold in size: a batch that is padded to its longest bag is two thirds zeros. Here the rows of all
cases lie one after another, (R, D), and what a mask would have done is done by a `Packing`: it sums over the rows of a
case, hands a case's numbers to its rows, and multiplies the rows of a case with vectors of that case alone.

- `ByCase`, for the CPU: a plain loop over the cases, rows without any gap.
- `ByTile`, for CUDA, where a loop over cases would launch thousands of kernels: each case's rows are filled up with
  zeros to full tiles of `TILE` rows. Products are one batched product over all tiles, sums over a case one product with
  the (B, T) matrix of which tile is whose. Nothing is scattered with atomic additions, so that results are
  reproducible, and the host waits for nothing.

Scores and weights are (R, K), one row per patch: K prototypes, gene groups or attention heads.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers.devices import on_device

TILE = 128  # rows; a case wastes half of it on average


class Packing(ABC):
    """Which rows of a packed matrix belong to which case.

    Args:
        sizes: rows of each of the B cases; may be 0.
        device: where the matrices are.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes, self.device = tuple(sizes), device

    @staticmethod
    def of(sizes: Sequence[int], device: torch.device) -> "Packing":
        """The packing that suits the device: case by case on the CPU, by tiles on any other."""
        return ByCase(sizes, device) if device.type == "cpu" else ByTile(sizes, device)

    @property
    @abstractmethod
    def starts(self) -> tuple[int, ...]:
        """First row of each case."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """R."""

    @property
    def slices(self) -> tuple[slice, ...]:
        """The rows of each case."""
        return tuple(slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True))

    @cached_property
    def filled(self) -> Bool[Tensor, " B"]:
        """True for the cases that have a row."""
        return on_device(torch.tensor([size > 0 for size in self.sizes]), self.device)

    @abstractmethod
    def blocks(self, bags: Sequence[Float[Tensor, "n P"]], rows: int) -> Iterator[tuple[slice, Float[Tensor, "r P"]]]:
        """The bags of all cases as blocks of about so many rows, each with its place among the R rows."""

    @abstractmethod
    def cases(self, x: Float[Tensor, "R K"]) -> list[Float[Tensor, "n K"]]:
        """The rows of each case, as views."""

    @abstractmethod
    def clear(self, x: Float[Tensor, "R K"]) -> None:
        """Sets rows that are no case's to 0, in place."""

    @abstractmethod
    def real(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "N K"]:
        """The rows of the cases alone, one case after another: N is the sum of `sizes`."""

    @abstractmethod
    def sum(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "B K"]:
        """The sum over each case's rows; 0 for a case without any. Rows that are no case's must be 0."""

    @abstractmethod
    def broadcast(self, x: Float[Tensor, "B K"]) -> Float[Tensor, "R K"]:
        """The vector of each case, repeated for each of its rows; no gradient flows back."""

    @abstractmethod
    def products(self, x: Float[Tensor, "R D"], vectors: Float[Tensor, "B K D"]) -> Float[Tensor, "R K"]:
        """The scalar product of each row with each vector of its case."""

    @abstractmethod
    def gather(self, weights: Float[Tensor, "R K"], x: Float[Tensor, "R D"]) -> Float[Tensor, "B K D"]:
        """The weighted sums of each case's rows; weights of rows that are no case's must be 0."""

    @abstractmethod
    def softmax(self, scores: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
        """The softmax of each column within each case; 0 in rows that are no case's."""


class ByCase(Packing):
    """Rows without gaps; one small matrix product per case."""

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of each case."""
        return _starts(self.sizes)

    @property
    def rows(self) -> int:
        """R: the number of patches."""
        return sum(self.sizes)

    def blocks(self, bags: Sequence[Float[Tensor, "n P"]], rows: int) -> Iterator[tuple[slice, Float[Tensor, "r P"]]]:
        """Blocks of one bag each: views, nothing is copied."""
        for first, bag in zip(self.starts, bags, strict=True):
            for start in range(0, len(bag), rows):
                block = bag[start : start + rows]
                yield slice(first + start, first + start + len(block)), block

    def cases(self, x: Float[Tensor, "R K"]) -> list[Float[Tensor, "n K"]]:
        """See `Packing.cases`."""
        return list(x.split(list(self.sizes)))

    def clear(self, x: Float[Tensor, "R K"]) -> None:
        """Nothing to do: every row is a case's."""

    def real(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "N K"]:
        """The input: every row belongs to a case."""
        return x

    def sum(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "B K"]:
        """See `Packing.sum`."""
        return torch.stack([x[rows].sum(0) for rows in self.slices])

    def broadcast(self, x: Float[Tensor, "B K"]) -> Float[Tensor, "R K"]:
        """See `Packing.broadcast`."""
        return x.detach().repeat_interleave(torch.tensor(self.sizes), 0, output_size=self.rows)

    def products(self, x: Float[Tensor, "R D"], vectors: Float[Tensor, "B K D"]) -> Float[Tensor, "R K"]:
        """See `Packing.products`."""
        result: Tensor = _Products.apply(x, vectors, self.slices, Deferred.of(x, self.slices, vectors))
        return result

    def gather(self, weights: Float[Tensor, "R K"], x: Float[Tensor, "R D"]) -> Float[Tensor, "B K D"]:
        """See `Packing.gather`."""
        result: Tensor = _Gather.apply(weights, x, self.slices, Deferred.of(x, self.slices, weights.T))
        return result

    def softmax(self, scores: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
        """See `Packing.softmax`."""
        result: Tensor = _Softmax.apply(scores, self.slices)
        return result


class ByTile(Packing):
    """Each case's rows in tiles of `TILE`, the last filled up with zeros; one batched product for all cases."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        super().__init__(sizes, device)
        self.tiles = [-(-size // TILE) for size in self.sizes]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of each case."""
        return tuple(TILE * start for start in _starts(self.tiles))

    @property
    def rows(self) -> int:
        """TILE times the number of tiles."""
        return TILE * sum(self.tiles)

    @cached_property
    def _is_real(self) -> Bool[Tensor, "R 1"]:
        mask = torch.zeros(self.rows, 1, dtype=torch.bool)
        for rows in self.slices:
            mask[rows] = True
        return on_device(mask, self.device)

    @cached_property
    def _real_rows(self) -> Tensor:
        return on_device(torch.cat([torch.arange(rows.start, rows.stop) for rows in self.slices]), self.device)

    @cached_property
    def _is_of_case(self) -> Bool[Tensor, "B T"]:
        return self._case_of_tile == on_device(torch.arange(len(self.tiles))[:, None], self.device)

    @cached_property
    def _tiles_of_case(self) -> Tensor:
        """(B, longest) numbers of each case's tiles; T where it has fewer."""
        numbers = torch.full((len(self.tiles), max(self.tiles, default=0)), sum(self.tiles))
        for case, (start, count) in enumerate(zip(_starts(self.tiles), self.tiles, strict=True)):
            numbers[case, :count] = torch.arange(start, start + count)
        return on_device(numbers, self.device)

    @cached_property
    def _case_of_tile(self) -> Tensor:
        case = torch.arange(len(self.tiles))
        return on_device(case.repeat_interleave(torch.tensor(self.tiles), output_size=sum(self.tiles)), self.device)

    def blocks(self, bags: Sequence[Float[Tensor, "n P"]], rows: int) -> Iterator[tuple[slice, Float[Tensor, "r P"]]]:
        """Bags and the zeros between them, joined in the type that they are stored in, then cut."""
        if not self.rows:
            return
        parts, zeros = [], bags[0].new_zeros(TILE, bags[0].shape[1])
        for bag, tiles in zip(bags, self.tiles, strict=True):
            parts += [bag, zeros[: TILE * tiles - len(bag)]]
        for start, block in zip(range(0, self.rows, rows), torch.cat(parts).split(rows), strict=True):
            yield slice(start, start + len(block)), block

    def cases(self, x: Float[Tensor, "R K"]) -> list[Float[Tensor, "n K"]]:
        """See `Packing.cases`."""
        parts = x.split([TILE * tiles for tiles in self.tiles])
        return [part[:size] for part, size in zip(parts, self.sizes, strict=True)]

    def clear(self, x: Float[Tensor, "R K"]) -> None:
        """See `Packing.clear`."""
        x.mul_(self._is_real)

    def real(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "N K"]:
        """See `Packing.real`."""
        return x[self._real_rows]

    def sum(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "B K"]:
        """See `Packing.sum`."""
        return self._is_of_case.to(x.dtype) @ x.unflatten(0, (sum(self.tiles), TILE)).sum(1)

    def broadcast(self, x: Float[Tensor, "B K"]) -> Float[Tensor, "R K"]:
        """See `Packing.broadcast`."""
        return x.detach()[self._case_of_tile].repeat_interleave(TILE, 0, output_size=self.rows)

    def products(self, x: Float[Tensor, "R D"], vectors: Float[Tensor, "B K D"]) -> Float[Tensor, "R K"]:
        """See `Packing.products`."""
        to_tiles = self._is_of_case.to(x.dtype).T @ vectors.flatten(1)  # (T, K · D)
        return (x.unflatten(0, (sum(self.tiles), TILE)) @ to_tiles.view(-1, *vectors.shape[1:]).mT).flatten(0, 1)

    def gather(self, weights: Float[Tensor, "R K"], x: Float[Tensor, "R D"]) -> Float[Tensor, "B K D"]:
        """See `Packing.gather`."""
        weights, x = (y.unflatten(0, (sum(self.tiles), TILE)) for y in (weights, x))
        gathered = weights.mT @ x  # (T, K, D)
        return (self._is_of_case.to(x.dtype) @ gathered.flatten(1)).view(-1, *gathered.shape[1:])

    def softmax(self, scores: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
        """See `Packing.softmax`."""
        scores = scores.masked_fill(~self._is_real, float("-inf"))
        of_tiles = scores.detach().unflatten(0, (sum(self.tiles), TILE)).amax(1)  # (T, K)
        padded = torch.cat([of_tiles, torch.full_like(scores[:1], float("-inf"))])[self._tiles_of_case]
        shares = (scores - self.broadcast(padded.amax(1))).exp() if self.rows else scores
        total = self.sum(shares)
        return shares * self._carried(1 / total.where(self.filled[:, None], 1.0))

    def _carried(self, x: Float[Tensor, "B K"]) -> Float[Tensor, "R K"]:
        """`broadcast` with gradients."""
        return (self._is_of_case.to(x.dtype).T @ x).repeat_interleave(TILE, 0, output_size=self.rows)


class Deferred:
    """Gradients of projected patches, left to the projection's own backward pass, which multiplies them out block by block.

    What reads a bag with a few vectors leaves a gradient of low rank: weights of the rows times vectors of their case. As matrices
    of the patches' size these gradients, and their sum, would cost more time in memory than the products that they come from.
    A function whose output is read so has one as `deferred` on its context; its readers return no gradient for what they add here.
    """

    def __init__(self, slices: Sequence[slice]) -> None:
        self._slices = slices
        self._of_pass: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @staticmethod
    def of(x: Float[Tensor, "R D"], slices: Sequence[slice], few: Float[Tensor, "*B K D"]) -> "Deferred | None":
        """Return that of the function whose output `x` is, if it has one for these cases and `few` are few vectors."""
        found: Deferred | None = getattr(x.grad_fn, "deferred", None)
        return found if found and found._slices == slices and few.shape[-2] * 8 <= x.shape[1] else None

    def add(self, weights: Float[Tensor, "R K"], vectors: Float[Tensor, "B K D"]) -> None:
        """Add the gradient of which each row is its weights times the vectors of its case, in the backward pass that runs."""
        self._of_pass.setdefault(torch._C._current_graph_task_id(), []).append((weights, vectors))

    def take(self) -> tuple[Float[Tensor, "R K"], Float[Tensor, "B K D"]] | None:
        """Take what was added in the backward pass that runs, as one such gradient; None where nothing was."""
        parts = self._of_pass.pop(torch._C._current_graph_task_id(), None)
        if not parts:
            return None
        return torch.cat([weights for weights, _ in parts], 1), torch.cat([vectors for _, vectors in parts], 1)


class _Products(torch.autograd.Function):
    """`Packing.products`, case by case into one result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, vectors: Tensor, slices: Sequence[slice], deferred: Deferred | None) -> Tensor:
        ctx.save_for_backward(x, vectors)
        ctx.slices, ctx.deferred_to = slices, deferred
        return _each_row(x, vectors.mT, slices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, vectors = ctx.saved_tensors
        to_x = _to_rows(ctx, grad, vectors) if ctx.needs_input_grad[0] else None
        return to_x, _each_case(grad, x, ctx.slices) if ctx.needs_input_grad[1] else None, None, None


class _Gather(torch.autograd.Function):
    """`Packing.gather`, case by case into one result."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, slices: Sequence[slice], deferred: Deferred | None) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.slices, ctx.deferred_to = slices, deferred
        return _each_case(weights, x, slices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, x = ctx.saved_tensors
        to_weights = _each_row(x, grad.mT, ctx.slices) if ctx.needs_input_grad[0] else None
        return to_weights, _to_rows(ctx, weights, grad) if ctx.needs_input_grad[1] else None, None, None


def _to_rows(ctx: Any, weights: Float[Tensor, "R K"], vectors: Float[Tensor, "B K D"]) -> Tensor | None:
    """The gradient of the rows, or None where it was deferred."""
    if ctx.deferred_to is None:
        return _each_row(weights, vectors, ctx.slices)
    ctx.deferred_to.add(weights, vectors)
    return None


class _Softmax(torch.autograd.Function):
    """`Packing.softmax`, case by case into one result."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, slices: Sequence[slice]) -> Tensor:
        shares = torch.empty_like(scores)
        for rows in slices:
            shares[rows] = scores[rows].T.contiguous().softmax(1).T  # along memory, which is several times faster
        ctx.save_for_backward(shares)
        ctx.slices = slices
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (shares,) = ctx.saved_tensors
        weighted = grad * shares
        for rows in ctx.slices:
            weighted[rows] -= shares[rows] * weighted[rows].sum(0)
        return weighted, None


def _each_row(x: Float[Tensor, "R a"], matrices: Float[Tensor, "B a b"], slices: Sequence[slice]) -> Tensor:
    """The rows of each case times its matrix: (R, b)."""
    result = x.new_empty(len(x), matrices.shape[2])
    for rows, matrix in zip(slices, matrices, strict=True):
        torch.mm(x[rows], matrix, out=result[rows])
    return result


def _each_case(weights: Float[Tensor, "R K"], x: Float[Tensor, "R D"], slices: Sequence[slice]) -> Tensor:
    """The products of each case's weights with its rows: (B, K, D)."""
    result = x.new_empty(len(slices), weights.shape[1], x.shape[1])
    for rows, gathered in zip(slices, result, strict=True):
        torch.mm(weights[rows].T, x[rows], out=gathered)
    return result


def _starts(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(sizes[:number]) for number in range(len(sizes)))
