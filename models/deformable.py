"""Deformable cross-attention on a map of cells: queries look at a few places of another map, which they choose.

Xia, Pan, Song, Li, Huang: "Vision Transformer with Deformable Attention", CVPR 2022 (arXiv 2201.00520), section 3.2, in
the form that Zhang et al. 2024 (see `models.subspace`) use across two maps, with the continuous position bias of Liu et
al., "Swin Transformer V2", CVPR 2022, section 3.3.

A strided grid is laid over the map of the queries; each of its points says, for each group of channels, how far off it
wants to look (the offsets). The other map is sampled there, and every query attends to all samples: the product of
query and key, and a bias that a small network reads from how far the sample lies from the query.

Where this departs from the released code, and why:

- x is divided by the width and y by the height when positions are brought to [−1, 1]; as released, the two are swapped,
  which is harmless on squares alone.
- Maps may have holes (`mask`): cells without tissue are no queries, and they are not looked at. A sample is the mean of
  the real cells under it and counts by their share, so that it fades as it moves off the tissue, and beyond the map's
  border alike. Without a mask, what lies beyond the border is a zero vector that takes its share, as released.
- The position bias ends without a bias of its own, which would add the same number to all logits of a query.
- The bias of every query for every sample is what fills the memory: (queries · samples · groups · 64) numbers. Queries
  are therefore read in chunks, of which training computes the inner part twice (checkpointing): the same values, and
  memory that depends on the chunk alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample, max_pool2d
from torch.utils.checkpoint import checkpoint

FAINTEST = 1e-6  # the share by which a sample without a real cell counts: next to none


@dataclass(frozen=True)
class Looked:
    """What the queries saw.

    Attributes:
        values: of each query, row by row over the map; cells without tissue are none.
        offsets: where each point of the strided grid looked, (x, y) in steps of that grid, by group; zero where there
            is no tissue under the point.
    """

    values: Float[Tensor, "n D"]
    offsets: Float[Tensor, "groups 2 h w"]


class DeformableCrossAttention(nn.Module):
    """The cells of one map look at samples of another map of the same extent.

    Args:
        width: D of both maps and of what is gathered.
        heads: of attention.
        head_width: channels of a head.
        groups: of channels, each with its own offsets; heads are split over them.
        stride: cells from one point of the strided grid to the next.
        kernel: cells a side that decide on the offset of a point.
        reach: the largest offset, in steps of the strided grid.
        dropout: of the attention.
        chunk_mib: memory for the position bias at a time.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 8,
        head_width: int = 64,
        groups: int = 8,
        stride: int = 4,
        kernel: int = 6,
        reach: float = 4.0,
        dropout: float = 0.1,
        chunk_mib: float = 16.0,
    ) -> None:
        super().__init__()
        inner, hidden = heads * head_width, width // 4
        if heads % groups or width % groups:
            raise ValueError(f"{heads} heads and a width of {width} cannot be split over {groups} groups")
        if kernel < stride or (kernel - stride) % 2:
            raise ValueError(f"a kernel of {kernel} has no even margin about a stride of {stride}; choose {stride + 2}")
        self.heads, self.groups, self.reach, self.chunk_mib = heads, groups, reach, chunk_mib
        self.stride, self.kernel, self.margin = stride, kernel, (kernel - stride) // 2
        self.query = nn.Conv2d(width, inner, 1, groups=groups, bias=False)
        self.key = nn.Conv2d(width, inner, 1, groups=groups, bias=False)
        self.value = nn.Conv2d(width, inner, 1, groups=groups, bias=False)
        self.output = nn.Linear(inner, width)
        part = inner // groups
        self.offset = nn.Sequential(
            nn.Conv2d(part, part, kernel, stride, self.margin, groups=part),
            nn.GELU(),
            nn.Conv2d(part, 2, 1, bias=False),
            nn.Tanh(),
        )
        self.position = nn.Sequential(
            nn.Linear(2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, heads // groups, bias=False),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "H W D"],
        source: Float[Tensor, "H W D"],
        mask: Bool[Tensor, "H W"] | None = None,
    ) -> Looked:
        """What every cell of the first map gathers from the second.

        Args:
            queries: the map that asks.
            source: the map that is looked at.
            mask: True where there is a cell; None: everywhere, and what lies beyond the border counts as zeros.
        """
        if mask is not None:
            queries, source = (x.masked_fill(~mask[..., None], 0) for x in (queries, source))
        q = self.query(queries.permute(2, 0, 1)[None])[0]  # (inner, H, W)
        offsets = self.reach * self.offset(q.unflatten(0, (self.groups, -1)))  # (groups, 2, h, w)
        exact = torch.promote_types(offsets.dtype, torch.float32)  # half precision cannot tell neighbouring cells apart
        samples = _normalised(_grid(*offsets.shape[-2:], like=offsets.to(exact)) + offsets.movedim(1, -1).to(exact))
        read, shares = self._sample(source, samples, mask)
        k, v = (self._by_head(project(read[None])[0]) for project in (self.key, self.value))  # (heads, S, d)
        places = _normalised(_grid(*queries.shape[:2], like=samples)).flatten(0, 1)  # (H · W, 2)
        asked = self._by_head(q)
        if mask is not None:
            cells = mask.flatten().nonzero()[:, 0]
            asked, places = asked[:, cells], places[cells]
            offsets = offsets * self._has_tissue(mask)
        values = self._in_chunks(asked, places, k, v, samples.flatten(1, 2), shares)
        return Looked(self.output(values), offsets)

    def _sample(
        self, source: Float[Tensor, "H W D"], samples: Float[Tensor, "groups h w 2"], mask: Bool[Tensor, "H W"] | None
    ) -> tuple[Float[Tensor, "D h w"], Float[Tensor, "groups S"] | None]:
        """The source at the samples, bilinear, and how much of each sample is real; None where that is not asked."""
        by_group = source.to(samples.dtype).permute(2, 0, 1).unflatten(0, (self.groups, -1))
        read = grid_sample(by_group, samples, align_corners=False)
        if mask is None:
            return read.flatten(0, 1), None
        real = mask.to(samples.dtype).expand(self.groups, 1, *mask.shape)
        shares = grid_sample(real, samples, align_corners=False).clamp(min=FAINTEST)  # (groups, 1, h, w)
        return (read / shares).flatten(0, 1), shares.flatten(1)

    def _in_chunks(
        self,
        q: Float[Tensor, "heads n d"],
        places: Float[Tensor, "n 2"],
        k: Float[Tensor, "heads S d"],
        v: Float[Tensor, "heads S d"],
        samples: Float[Tensor, "groups S 2"],
        shares: Float[Tensor, "groups S"] | None,
    ) -> Float[Tensor, "n inner"]:
        numbers = self.groups * k.shape[1] * (4 + 2 * self.position[0].out_features)  # that a query's bias takes
        size = max(1, int(self.chunk_mib * 2**20 / (numbers * q.element_size())))
        parts = []
        for some_q, some_places in zip(q.split(size, 1), places.split(size), strict=True):
            inputs = (some_q, some_places, k, v, samples, shares)
            again = torch.is_grad_enabled()
            parts.append(checkpoint(self._look, *inputs, use_reentrant=False) if again else self._look(*inputs))
        return torch.cat(parts)

    def _look(
        self,
        q: Float[Tensor, "heads n d"],
        places: Float[Tensor, "n 2"],
        k: Float[Tensor, "heads S d"],
        v: Float[Tensor, "heads S d"],
        samples: Float[Tensor, "groups S 2"],
        shares: Float[Tensor, "groups S"] | None,
    ) -> Float[Tensor, "n inner"]:
        away = places[:, None] - samples[:, None]  # (groups, n, S, 2)
        bias = self.position(away.sign() * away.abs().log1p())  # (groups, n, S, heads of a group)
        logits = (q * q.shape[-1] ** -0.5) @ k.mT + bias.movedim(-1, 1).flatten(0, 1)  # (heads, n, S)
        if shares is not None:
            logits = logits + shares.log().repeat_interleave(self.heads // self.groups, 0)[:, None]
        gathered = self.dropout(logits.softmax(-1)).to(v.dtype) @ v
        return gathered.transpose(0, 1).flatten(1)

    def _by_head(self, x: Float[Tensor, "inner *place"]) -> Float[Tensor, "heads n d"]:
        return x.flatten(1).unflatten(0, (self.heads, -1)).mT

    def _has_tissue(self, mask: Bool[Tensor, "H W"]) -> Float[Tensor, "1 h w"]:
        """1 for the points of the strided grid that have a cell under their kernel."""
        return max_pool2d(mask[None].float(), self.kernel, self.stride, self.margin)



def _grid(height: int, width: int, *, like: Tensor) -> Float[Tensor, "h w 2"]:
    """Column and row of each point."""
    rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) for side in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)


def _normalised(points: Float[Tensor, "*group h w 2"]) -> Float[Tensor, "*group h w 2"]:
    """Columns and rows of a map to [−1, 1]."""
    height, width = points.shape[-3:-1]
    sides = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=points.dtype, device=points.device)
    return 2 * points / sides - 1
