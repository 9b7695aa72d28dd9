"""The patches of a slide on its tile grid, cut to the tissue: what attention that presupposes neighbours reads."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.layers.devices import on_device


@dataclass(frozen=True)
class Layout:
    """Where the N patches of one slide lie, cut to the tissue; in main memory.

    Attributes:
        occupied: flat index of each of the n cells that have patches, row · width + column.
        counts: patches of each.
        cell_of: which of the cells each patch is part of.
        height, width: of the map.
        halvings: how often the map was pooled by 2.
    """

    occupied: Int[Tensor, " n"]
    counts: Int[Tensor, " n"]
    cell_of: Int[Tensor, " N"]
    height: int
    width: int
    halvings: int = 0

    def mask(self) -> Bool[Tensor, "H W"]:
        """True where there is a patch."""
        empty = torch.zeros(self.height * self.width, dtype=torch.bool)
        empty[self.occupied] = True
        return empty.unflatten(0, (self.height, self.width))


class SlideMap:
    """The patches of one slide where they lie.

    Args:
        layout: where they lie.
        patches: features, on their device and as they are stored; cells of several become means, in float32 at least.

    Attributes:
        patches: one feature a cell; row by row.
        counts: of how many patches each is the mean.
    """

    def __init__(self, layout: Layout, patches: Float[Tensor, "N P"]) -> None:
        self.layout, device = layout, patches.device
        self.occupied, self.counts, self._cell_of = (
            on_device(x, device) for x in (layout.occupied, layout.counts, layout.cell_of)
        )
        if layout.halvings:
            exact = patches.to(torch.promote_types(patches.dtype, torch.float32))
            total = exact.new_zeros(len(self.counts), exact.shape[1]).index_add(0, self._cell_of, exact)
            self.patches = total / self.counts[:, None]
        else:
            self.patches = patches[on_device(layout.cell_of.argsort(), device)]

    def laid_out(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "H W D"]:
        """A vector for each cell with patches as a map; zero elsewhere."""
        empty = x.new_zeros(self.layout.height * self.layout.width, x.shape[1])
        return empty.index_copy(0, self.occupied, x).unflatten(0, (self.layout.height, self.layout.width))

    def by_patch(self, shares: Float[Tensor, "H W"]) -> Float[Tensor, " N"]:
        """A map's shares by patch; those of one cell have equal parts of it."""
        return (shares.flatten()[self.occupied] / self.counts)[self._cell_of]


def rows_by_slide(cells: Int[Tensor, "N 3"]) -> list[Int[Tensor, " n"]]:
    """The rows of each slide of a case, slides by their number.

    Args:
        cells: of each patch the number of its slide in the case, then its column and row on the slide's tile grid.
    """
    return [(cells[:, 0] == slide).nonzero()[:, 0] for slide in cells[:, 0].unique()]


def lay_out_within(cells: Int[Tensor, "N 2"], *, min_side: int, fits: Callable[[Layout], bool]) -> Layout:
    """The layout of one slide's patches, pooled by 2 until it fits or is a single cell; see `lay_out`."""
    layout = lay_out(cells, min_side=min_side)
    while not fits(layout) and len(layout.occupied) > 1:
        layout = lay_out(cells, min_side=min_side, halvings=layout.halvings + 1)
    return layout


def lay_out(cells: Int[Tensor, "N 2"], *, min_side: int, halvings: int = 0) -> Layout:
    """The layout of one slide's patches, of at least so many cells a side.

    Args:
        cells: column and row of each on the slide's tile grid.
        min_side: what is smaller gets empty cells at its right and lower side.
        halvings: by 2 to this power, rows and columns are pooled: a cell becomes the mean of its patches.

    Raises:
        ValueError: two patches on one cell.
    """
    inside = (cells - cells.amin(0)).long()  # where tissue begins is cell 0, whatever lies before it
    pooled = inside >> halvings
    width, height = (max(int(side) + 1, min_side) for side in pooled.amax(0))
    occupied, cell_of, count = (pooled[:, 1] * width + pooled[:, 0]).unique(return_inverse=True, return_counts=True)
    if not halvings and len(occupied) < len(cells):
        raise ValueError(
            f"subspace: {len(cells)} patches of a slide share {len(occupied)} cells: their features have no positions; "
            "embed the slides again, or set models.subspace.attention to plain, which needs no positions"
        )
    return Layout(occupied, count, cell_of, height, width, halvings)
