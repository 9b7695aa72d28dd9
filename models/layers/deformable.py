"""Deformable cross-attention on a map of cells: queries attend to a few learned positions of another map.

Xia, Pan, Song, Li, Huang: "Vision Transformer with Deformable Attention", CVPR 2022 (arXiv 2201.00520), section 3.2, in
the form that Zhang et al. 2024 (see `models.subspace`) use across two maps, with the continuous position bias of Liu et
al., "Swin Transformer V2", CVPR 2022, section 3.3.

A strided grid is laid over the map of the queries; each of its points predicts, for each group of channels, how far
off it samples (the offsets). The other map is sampled there, and every query attends to all samples: the product of
query and key, and a bias that a small network reads from how far the sample lies from the query.

Where this departs from the released code, and why:

- x is divided by the width and y by the height when positions are brought to [−1, 1]; as released, the two are swapped,
  which is harmless on squares alone.
- Maps may have holes (`mask`): cells without tissue are neither queries nor sources. A sample is the mean of
  the real cells under it and counts by their share, so that it fades as it moves off the tissue, and beyond the map's
  border alike. Without a mask, what lies beyond the border is a zero vector that takes its share, as released.
- The position bias ends without a bias, which would add the same number to all logits of a query.
- The bias of every query for every sample is what fills the memory: (queries · samples · groups · 64) numbers. Queries
  are therefore read in chunks, which the backward pass computes again: the same values, and memory that depends on the
  chunk alone.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import grid_sample, max_pool2d

from models.layers.devices import free_bytes, on_device

CPU_CHUNK_MIB = 8  # of the position bias at a time: stays in the cache
GPU_CHUNK_MIB, GPU_CHUNK_SHARE = 512, 1 / 16  # at most, and of the free memory
FAINTEST = 1e-6  # the share by which a sample without a real cell counts: next to none


@dataclass(frozen=True)
class DeformableOutput:
    """The output of deformable attention.

    Attributes:
        values: of each query, row by row over the map; cells without tissue are none.
        offsets: of each point of the strided grid, (x, y) in steps of that grid, by group; zero where there
            is no tissue under the point.
        has_tissue: 1 for the points of the strided grid that have a cell under their kernel, 0 for the others.
        attention: to each cell of the other map, the mean over queries and heads: samples count for the
            cells that they are read from. It sums to 1, or is zero where no sample meets a cell. None where it was not
            requested, and without a mask.
    """

    values: Float[Tensor, "n D"]
    offsets: Float[Tensor, "groups 2 h w"]
    has_tissue: Float[Tensor, "h w"]
    attention: Float[Tensor, "H W"] | None = None


@dataclass(frozen=True)
class DeformableSettings:
    """Settings of the attention; the defaults are those of the released code.

    Attributes:
        heads: of attention.
        head_width: channels of a head.
        groups: of channels, each with its offsets; heads are split over them.
        stride: cells from one point of the strided grid to the next.
        kernel: cells a side that decide on the offset of a point.
        reach: the largest offset, in steps of the strided grid.
        dropout: of the attention.
        chunk_mib: memory for the position bias at a time; None: `CPU_CHUNK_MIB`, or a share of what a GPU has free.
    """

    heads: int = 8
    head_width: int = 64
    groups: int = 8
    stride: int = 4
    kernel: int = 6
    reach: float = 4.0
    dropout: float = 0.1
    chunk_mib: float | None = None


class _Samples(NamedTuple):
    """What all queries attend to: S samples of the other map.

    Attributes:
        keys: of each sample.
        values: likewise.
        positions: (x, y) of the samples of each group, −1 to 1 over the map.
        shares: how much of each sample is real, 0 to 1; None without a mask.
    """

    keys: Float[Tensor, "S heads d"]
    values: Float[Tensor, "S heads d"]
    positions: Float[Tensor, "groups S 2"]
    shares: Float[Tensor, "groups S"] | None


class _Pointwise(nn.Conv2d):
    """A convolution of 1 × 1, without a bias, as one product: cuDNN would prepare it anew for each extent of a map."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 1, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "*batch in h w"]) -> Float[Tensor, "*batch out h w"]:
        weight = self.weight.flatten(1).unflatten(0, (self.groups, -1))  # (groups, out, in) of a group
        by_group = x.unflatten(-3, (self.groups, -1)).flatten(-2)
        return (weight @ by_group).flatten(-3, -2).unflatten(-1, x.shape[-2:])


class DeformableCrossAttention(nn.Module):
    """The cells of one map attend to samples of another map of the same extent.

    Args:
        width: D of both maps and of what is gathered.
        settings: of the attention.
    """

    def __init__(self, width: int, settings: DeformableSettings | None = None) -> None:
        super().__init__()
        settings = settings or DeformableSettings()
        heads, groups, stride, kernel = settings.heads, settings.groups, settings.stride, settings.kernel
        inner, hidden = heads * settings.head_width, width // 4
        if heads % groups or width % groups:
            raise ValueError(f"{heads} heads and a width of {width} cannot be split over {groups} groups")
        if kernel < stride or (kernel - stride) % 2:
            raise ValueError(f"a kernel of {kernel} has no even margin about a stride of {stride}; choose {stride + 2}")
        self.heads, self.groups, self.hidden = heads, groups, hidden
        self.reach, self.chunk_mib, self.dropout = settings.reach, settings.chunk_mib, settings.dropout
        self.stride, self.kernel, self.margin = stride, kernel, (kernel - stride) // 2
        self.query = _Pointwise(width, inner, groups)
        self.key = _Pointwise(width, inner, groups)
        self.value = _Pointwise(width, inner, groups)
        self.output = nn.Linear(inner, width)
        part = inner // groups
        self.offset = nn.Sequential(
            nn.Conv2d(part, part, kernel, stride, self.margin, groups=part),
            nn.GELU(),
            _Pointwise(part, 2),
            nn.Tanh(),
        )
        self.position = nn.Sequential(
            nn.Linear(2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, heads // groups, bias=False),
        )

    def forward(
        self,
        queries: Float[Tensor, "H W D"],
        source: Float[Tensor, "H W D"],
        mask: Bool[Tensor, "H W"] | None = None,
        *,
        explain: bool = False,
    ) -> DeformableOutput:
        """The attention output of every cell of the first map over samples of the second.

        Args:
            queries: the map of the queries.
            source: the map that is sampled.
            mask: True where there is a cell; None: everywhere, and what lies beyond the border counts as zeros. It may
                stay in main memory: the host need then not wait for a GPU to count the cells.
            explain: whether `DeformableOutput.attention` is computed.
        """
        cells = None
        if mask is not None:
            cells = on_device(mask.flatten().nonzero()[:, 0], queries.device)
            mask = on_device(mask, queries.device)
            queries, source = (x.masked_fill(~mask[..., None], 0) for x in (queries, source))
        q = self.query(queries.permute(2, 0, 1))  # (inner, H, W)
        offsets = self.reach * self.offset(q.unflatten(0, (self.groups, -1)))  # (groups, 2, h, w)
        exact = torch.promote_types(offsets.dtype, torch.float32)  # half precision cannot tell neighbouring cells apart
        samples = _normalised(_grid(*offsets.shape[-2:], like=offsets.to(exact)) + offsets.movedim(1, -1).to(exact))
        read, shares = self._sample(source, samples, mask)
        k, v = (self._by_head(project(read)) for project in (self.key, self.value))  # (S, heads, d)
        positions = _normalised(_grid(*queries.shape[:2], like=samples)).flatten(0, 1)  # (H · W, 2)
        q_rows, has_tissue = self._by_head(q), torch.ones_like(samples[0, ..., 0])
        if mask is not None:
            q_rows, positions = q_rows[cells], positions[cells]
            has_tissue = self._has_tissue(mask).to(exact)
            offsets = offsets * has_tissue
        tally = None if mask is None or not explain else samples.new_zeros(self.heads, len(k))
        values = self._in_chunks(q_rows, positions, _Samples(k, v, samples.flatten(1, 2), shares), tally=tally)
        attention = None if mask is None or tally is None else self._carried_back(tally, samples, mask)
        return DeformableOutput(self.output(values), offsets, has_tissue, attention)

    def _sample(
        self, source: Float[Tensor, "H W D"], samples: Float[Tensor, "groups h w 2"], mask: Bool[Tensor, "H W"] | None
    ) -> tuple[Float[Tensor, "D h w"], Float[Tensor, "groups S"] | None]:
        """The source at the samples, bilinear, and how much of each sample is real; None without a mask."""
        by_group = source.to(samples.dtype).permute(2, 0, 1).unflatten(0, (self.groups, -1))
        read = grid_sample(by_group, samples, align_corners=False)
        if mask is None:
            return read.flatten(0, 1), None
        real = mask.to(samples.dtype).expand(self.groups, 1, *mask.shape)
        shares = grid_sample(real, samples, align_corners=False).clamp(min=FAINTEST)  # (groups, 1, h, w)
        return (read / shares).flatten(0, 1), shares.flatten(1)

    def _carried_back(
        self, tally: Float[Tensor, "heads S"], samples: Float[Tensor, "groups h w 2"], mask: Bool[Tensor, "H W"]
    ) -> Float[Tensor, "H W"]:
        """The attention to the samples, given to the cells that each was read from: the transpose of the sampling."""
        by_group = tally.detach().unflatten(0, (self.groups, -1)).sum(1)  # (groups, S)
        with torch.enable_grad():
            real = mask.to(samples.dtype).requires_grad_()
            read = grid_sample(real.expand(self.groups, 1, *mask.shape), samples.detach(), align_corners=False).flatten(
                1
            )
            (seen,) = torch.autograd.grad((read * by_group / read.detach().clamp(min=FAINTEST)).sum(), real)
        seen = seen * mask
        return seen / seen.sum().clamp(min=torch.finfo(seen.dtype).tiny)

    def _in_chunks(
        self,
        q: Float[Tensor, "n heads d"],
        positions: Float[Tensor, "n 2"],
        samples: _Samples,
        *,
        tally: Float[Tensor, "heads S"] | None,
    ) -> Float[Tensor, "n inner"]:
        numbers = self.groups * len(samples.keys) * (4 + 2 * self.hidden)  # that a query's bias takes
        size = max(1, int(self._chunk_bytes(q.device) / (numbers * samples.positions.element_size())))
        seed = int(torch.randint(2**31, ())) if self.training and self.dropout else None
        gathered: Tensor = _InChunks.apply(
            partial(self._attend, seed=seed, tally=tally), size, tuple(self.position.parameters()), q, positions, *samples,
            *self.position.parameters(),
        )  # fmt: skip
        return gathered

    def _attend(
        self,
        chunk: int,
        q: Float[Tensor, "n heads d"],
        positions: Float[Tensor, "n 2"],
        samples: _Samples,
        *,
        seed: int | None,
        tally: Float[Tensor, "heads S"] | None,
    ) -> Float[Tensor, "n inner"]:
        """The attention output of a chunk of queries; the seed, if there is one, decides which of its attention is dropped.

        Their attention is added to the tally, but not when it is computed once more for the gradient.
        """
        q, k, v = (x.transpose(0, 1) for x in (q, samples.keys, samples.values))
        away = positions[:, None] - samples.positions[:, None]  # (groups, n, S, 2)
        bias = self.position(away.sign() * away.abs().log1p())  # (groups, n, S, heads of a group)
        logits = (q * q.shape[-1] ** -0.5) @ k.mT + bias.movedim(-1, 1).flatten(0, 1)  # (heads, n, S)
        if samples.shares is not None:
            logits = logits + samples.shares.log().repeat_interleave(self.heads // self.groups, 0)[:, None]
        weights = logits.softmax(-1)
        if tally is not None and not torch.is_grad_enabled():
            tally += weights.sum(1)
        if seed is not None:
            generator = torch.Generator(weights.device).manual_seed(seed + chunk)
            kept = torch.empty_like(weights).bernoulli_(1 - self.dropout, generator=generator)
            weights = weights * kept / (1 - self.dropout)
        return (weights.to(v.dtype) @ v).transpose(0, 1).flatten(1)

    def _chunk_bytes(self, device: torch.device) -> float:
        """Memory for the position bias at a time. On a GPU each chunk costs dozens of launches, so few large ones."""
        if self.chunk_mib is not None:
            return self.chunk_mib * 2**20
        if device.type != "cuda" or not torch.cuda.is_available():
            return CPU_CHUNK_MIB * 2**20
        return min(GPU_CHUNK_MIB * 2**20, GPU_CHUNK_SHARE * free_bytes(device))

    def _by_head(self, x: Float[Tensor, "inner h w"]) -> Float[Tensor, "n heads d"]:
        return x.flatten(1).T.unflatten(1, (self.heads, -1)).contiguous()

    def _has_tissue(self, mask: Bool[Tensor, "H W"]) -> Float[Tensor, "h w"]:
        """1 for the points of the strided grid that have a cell under their kernel."""
        return max_pool2d(mask[None].float(), self.kernel, self.stride, self.margin)[0]


def _grid(height: int, width: int, *, like: Tensor) -> Float[Tensor, "h w 2"]:
    """Column and row of each point."""
    rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) for side in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)


def _normalised(points: Float[Tensor, "*group h w 2"]) -> Float[Tensor, "*group h w 2"]:
    """Columns and rows of a map to [−1, 1]."""
    height, width = points.shape[-3:-1]
    x, y = points.unbind(-1)
    return torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)


class _InChunks(torch.autograd.Function):
    """`attend(number, q[rows], positions[rows], samples)` for a few rows at a time, and so again for the gradient.

    What `torch.utils.checkpoint` would do for each chunk; but sums of gradients, made once, are all that stays between two
    chunks, and so the next one takes the memory that the last one has left. `attend` must give the same when called again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        attend: Callable[..., Tensor],
        size: int,
        weights: tuple[Tensor, ...],
        q: Tensor,
        positions: Tensor,
        *samples_and_weights: Any,
    ) -> Tensor:
        """Return what `attend` returns for all rows, `size` of them at a time.

        `weights` holds all other tensors that gradients are taken of, so that autograd knows of them.
        """
        samples = _Samples(*samples_and_weights[: len(_Samples._fields)])
        ctx.attend, ctx.size, ctx.weights = attend, size, weights
        ctx.autocast = _autocast_now(q.device.type)
        ctx.save_for_backward(q, positions, *samples)
        gathered = q.new_empty(len(q), q.shape[1] * q.shape[2])
        for number, rows in enumerate(_rows(len(q), size)):
            gathered[rows] = attend(number, q[rows], positions[rows], samples)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, of the samples, and of the weights."""
        q, positions, *shared = ctx.saved_tensors
        shared = [None if x is None else x.detach().requires_grad_() for x in shared]
        learned = [*(x for x in shared if x is not None), *ctx.weights]
        to_q = torch.empty_like(q)
        # In half precision a sum over many chunks would lose more with every one.
        sums = [torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in learned]
        for number, rows in enumerate(_rows(len(q), ctx.size)):
            with torch.enable_grad(), ctx.autocast():
                queries = q[rows].detach().requires_grad_()
                gathered = ctx.attend(number, queries, positions[rows], _Samples(*shared))
            to_q[rows], *others = torch.autograd.grad(gathered, [queries, *learned], grad[rows].to(gathered.dtype))
            for total, other in zip(sums, others, strict=True):
                total += other
        gradients = (total.to(x.dtype) for total, x in zip(sums, learned, strict=True))
        return None, None, None, to_q, None, *(x if x is None else next(gradients) for x in shared), *gradients


def _autocast_now(device: str) -> Callable[[], AbstractContextManager[object]]:
    """The autocast context that is active now, to enter again in the backward pass."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext
    return partial(torch.autocast, device, torch.get_autocast_dtype(device))


def _rows(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
