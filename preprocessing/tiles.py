"""Tiles: a grid of squares of equal physical size over a slide's tissue."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int32
from pydantic import Field

from models.settings import Settings
from preprocessing.errors import SlideError
from preprocessing.reader import SlideReader
from preprocessing.slides import MPP_RANGE, Slide
from preprocessing.tissue import TissueConfig, detect_tissue

ROUNDING = 1e-9  # of a tissue share that is computed from sums over the whole mask


class TileConfig(Settings):
    """What a tile is."""

    tile_px: int = Field(256, ge=16, le=4096, description="side of a tile, in pixels at `mpp`")
    mpp: float = Field(0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1], description="microns per pixel of the tiles")
    min_tissue: float = Field(0.5, ge=0, le=1, description="share of a tile that must be tissue")
    tissue: TissueConfig = TissueConfig()


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of one slide lie and how they are read.

    Attributes:
        coords: upper left corners, level-0 pixels (x, y), in row order.
        cells: column and row of each tile on the slide's grid.
        level: the pyramid level that is read.
        span_px: width and height of a tile on level 0; fractions are meant.
        level_span_px: the same on `level`.
        tile_px: side of the tile that comes out.
        mpp: microns per pixel of the tile that comes out.
    """

    coords: Int32[np.ndarray, "N 2"]
    cells: Int32[np.ndarray, "N 2"]
    level: int
    span_px: tuple[float, float]
    level_span_px: tuple[float, float]
    tile_px: int
    mpp: float

    def __len__(self) -> int:
        return len(self.coords)


@dataclass(frozen=True)
class TiledSlide:
    """A slide's tiles, and the tissue that they were laid over.

    Attributes:
        mask: tissue, on a thumbnail of `mask_downsample` level-0 pixels a mask pixel.
    """

    grid: TileGrid
    mask: Bool[np.ndarray, "h w"]
    mask_downsample: float


def tile_slide(slide: Slide, config: TileConfig) -> TiledSlide:
    """Lay the grid over the slide's tissue. Only whole tiles inside the scanned bounds count.

    Raises:
        SlideError: no tissue, or no room for a tile.
    """
    span = (config.tile_px * config.mpp / slide.mpp_xy[0], config.tile_px * config.mpp / slide.mpp_xy[1])
    with SlideReader(slide.path) as reader:
        downsample = max(1.0, config.tissue.mpp / slide.mpp)
        mask = detect_tissue(reader.thumbnail(downsample), slide.mpp * downsample, config.tissue)
        x, y, width, height = reader.bounds_px
        level = reader.best_level(min(span) / config.tile_px)
        shrink = reader.downsamples[level]
    columns, rows = int((width + 1e-6) // span[0]), int((height + 1e-6) // span[1])
    if not columns or not rows:
        raise SlideError(
            f"smaller than one tile: {width} × {height} pixels, a tile takes {span[0]:.0f} × {span[1]:.0f}"
        )
    if not mask.any():
        raise SlideError("no tissue found")
    left, top = x + np.arange(columns + 1) * span[0], y + np.arange(rows + 1) * span[1]
    share = tissue_share(mask, left / slide.size_px[0], top / slide.size_px[1])
    enough = max(config.min_tissue - ROUNDING, ROUNDING)  # all tissue passes 1, none does not pass 0
    cells = np.argwhere(share >= enough)[:, ::-1]  # (column, row), in row order
    if not len(cells):
        raise SlideError(
            f"no tile with {config.min_tissue:.0%} of tissue; the slide's tissue share is {mask.mean():.1%}"
        )
    coords = np.column_stack([left[cells[:, 0]], top[cells[:, 1]]])
    grid = TileGrid(
        coords=np.rint(coords).astype(np.int32),
        cells=cells.astype(np.int32),
        level=level,
        span_px=span,
        level_span_px=(span[0] / shrink, span[1] / shrink),
        tile_px=config.tile_px,
        mpp=config.mpp,
    )
    return TiledSlide(grid, mask, downsample)


def tissue_share(
    mask: Bool[np.ndarray, "h w"], left: Float[np.ndarray, " c1"], top: Float[np.ndarray, " r1"]
) -> Float[np.ndarray, "r c"]:
    """The share of tissue in each cell of a grid, exact to fractions of mask pixels.

    Args:
        mask: tissue over the whole slide.
        left: column edges as fractions of the slide's width (0 to 1).
        top: row edges as fractions of its height.
    """
    height, width = mask.shape
    area = np.pad(mask.cumsum(0, dtype=float).cumsum(1), ((1, 0), (1, 0)))  # tissue above and left of each mask corner
    area = np.stack([np.interp(left * width, np.arange(width + 1), row) for row in area])
    area = np.stack([np.interp(top * height, np.arange(height + 1), column) for column in area.T]).T
    tissue = np.diff(np.diff(area, axis=0), axis=1)
    return tissue / np.outer(np.diff(top) * height, np.diff(left) * width)


def read_tile(reader: SlideReader, grid: TileGrid, index: int) -> np.ndarray:
    """Tile `index` of the grid: (tile_px, tile_px, 3) uint8."""
    x, y = (int(value) for value in grid.coords[index])
    return reader.read(x, y, level=grid.level, span=grid.level_span_px, size_px=(grid.tile_px, grid.tile_px))
