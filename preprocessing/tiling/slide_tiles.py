"""The tiles of one slide, as an encoder gets them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.stain import Normaliser
from preprocessing.tiling.tiles import TileGrid, read_tile


@dataclass(frozen=True)
class SlideTiles:
    """The tiles of a slide as an encoder gets them.

    Attributes:
        path: the slide.
        grid: its tiles.
        normalise: stain normaliser, applied to each tile; None: pixels as they are.
    """

    path: Path
    grid: TileGrid
    normalise: Normaliser | None = None

    def read(self, reader: SlideReader, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the tile with this index, RGB uint8.

        Args:
            reader: of the slide, open.
            row: index of the tile in the grid.
        """
        tile = read_tile(reader, self.grid, row)
        return tile if self.normalise is None else self.normalise(tile)

    def band(self, rows: range) -> "SlideTiles":
        """Return the tiles with these indices alone; their indices begin at 0."""
        here = slice(rows.start, rows.stop)
        return replace(self, grid=replace(self.grid, coords=self.grid.coords[here], cells=self.grid.cells[here]))
