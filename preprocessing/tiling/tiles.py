"""Tiles: a grid of squares of equal physical size over a slide's tissue."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from pydantic import Field

from models.settings import Settings
from preprocessing.io.errors import SlideError
from preprocessing.slides.reader import SlideReader
from preprocessing.slides.resolution import MPP_RANGE
from preprocessing.slides.slide import Slide
from preprocessing.tiling.masks import read_mask
from preprocessing.tiling.quality import QualityConfig, measure_empty, measure_sharpness
from preprocessing.tiling.stain import Normaliser, StainConfig, fit_normaliser
from preprocessing.tiling.tissue import TissueConfig, detect_tissue, tissue_recipe

SAMPLE_TILES = 32  # of a slide, where its tiles are to be known but not all be read
ROUNDING = 1e-9  # of a tissue share that is computed from sums over the whole mask


class TileConfig(Settings):
    """What a tile is."""

    tile_px: int = Field(256, ge=16, le=4096, description="side of a tile, in pixels at `mpp`")
    mpp: float = Field(0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1], description="microns per pixel of the tiles")
    min_tissue: float = Field(0.5, ge=0, le=1, description="share of a tile that must be tissue")
    stride_px: int | None = Field(
        None,
        ge=16,
        le=65536,
        description="distance between neighbouring tiles' corners, in pixels at `mpp`; default: tile_px, edge to edge",
    )
    tissue: TissueConfig = TissueConfig()
    quality: QualityConfig = QualityConfig()
    stain: StainConfig = StainConfig()


def tile_recipe(config: TileConfig) -> dict[str, Any]:
    """Return everything in the configuration that decides where tiles lie, for the key of the tiles; the stain does not."""
    return config.model_dump(mode="json", exclude={"tissue", "stain"}) | {"tissue": tissue_recipe(config.tissue)}


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of one slide lie and how they are read.

    Attributes:
        coords: upper left corners, level-0 pixels (x, y), in row order.
        cells: column and row of each tile on the slide's grid, which has the stride's pitch.
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
        dropped: how many tiles each quality filter left out; empty where none is on.
    """

    grid: TileGrid
    mask: Bool[np.ndarray, "h w"]
    mask_downsample: float
    dropped: Mapping[str, int] = field(default_factory=dict)


def tile_slide(slide: Slide, config: TileConfig) -> TiledSlide:
    """Lay the grid over the slide's tissue. Only whole tiles inside the scanned bounds count.

    Raises:
        SlideError: no tissue, no room for a tile, no tile that is good enough; or see `read_mask`.
    """
    with SlideReader(slide.path) as reader:
        downsample = max(1.0, config.tissue.mpp / slide.mpp)
        mask = _find_tissue(reader, slide, config.tissue, downsample)
        grid = _lay_grid(reader, slide, config, mask)
        grid, dropped = _without_poor(reader, grid, config.quality)
    return TiledSlide(grid, mask, downsample, dropped)


def _find_tissue(reader: SlideReader, slide: Slide, config: TissueConfig, downsample: float) -> Bool[np.ndarray, "h w"]:
    """By the user's mask, where there is a folder of them, else by the detector."""
    if config.masks is None:
        return detect_tissue(reader.thumbnail(downsample), slide.mpp * downsample, config)
    width, height = (max(1, round(side / downsample)) for side in slide.size_px)  # as large as the thumbnail
    corner = reader.bounds_px[:2] if config.outline_origin == "scan" else (0, 0)
    return read_mask(slide, config.masks, (height, width), corner_px=corner)


def _lay_grid(reader: SlideReader, slide: Slide, config: TileConfig, mask: Bool[np.ndarray, "h w"]) -> TileGrid:
    span = (config.tile_px * config.mpp / slide.mpp_xy[0], config.tile_px * config.mpp / slide.mpp_xy[1])
    stretch = (config.stride_px or config.tile_px) / config.tile_px
    x, y, width, height = reader.bounds_px
    left, top = x + _starts(width, span[0], stretch), y + _starts(height, span[1], stretch)
    if not len(left) or not len(top):
        raise SlideError(
            f"smaller than one tile: {width} × {height} pixels, a tile takes {span[0]:.0f} × {span[1]:.0f}"
        )
    if not mask.any():
        raise SlideError("no tissue found")
    size = slide.size_px
    share = tissue_share(mask, left / size[0], top / size[1], span=(span[0] / size[0], span[1] / size[1]))
    enough = max(config.min_tissue - ROUNDING, ROUNDING)  # all tissue passes 1, none does not pass 0
    cells = np.argwhere(share >= enough)[:, ::-1]  # (column, row), in row order
    if not len(cells):
        raise SlideError(
            f"no tile with {config.min_tissue:.0%} of tissue; the slide's tissue share is {mask.mean():.1%}"
        )
    level = reader.best_level(min(span) / config.tile_px)
    shrink = reader.downsamples[level]
    return TileGrid(
        coords=np.rint(np.column_stack([left[cells[:, 0]], top[cells[:, 1]]])).astype(np.int32),
        cells=cells.astype(np.int32),
        level=level,
        span_px=span,
        level_span_px=(span[0] / shrink, span[1] / shrink),
        tile_px=config.tile_px,
        mpp=config.mpp,
    )


def _starts(room: float, span: float, stretch: float) -> Float[np.ndarray, " n"]:
    """Where tiles of length `span` start that lie `stretch` spans apart and end within the room."""
    count = math.floor((room - span + 1e-6) / (span * stretch)) + 1
    return np.arange(max(0, count)) * (span * stretch)


def _without_poor(reader: SlideReader, grid: TileGrid, config: QualityConfig) -> tuple[TileGrid, dict[str, int]]:
    """The tiles that pass the filters, and how many each filter dropped; a tile is counted by the first that it fails."""
    if not config.on:
        return grid, {}
    tiles = (read_tile(reader, grid, i) for i in range(len(grid)))
    empty, sharpness = np.array([(measure_empty(tile), measure_sharpness(tile)) for tile in tiles]).T
    faults: dict[str, Bool[np.ndarray, " N"]] = {}
    if config.max_empty is not None:
        faults["empty"] = empty > config.max_empty
    if config.min_sharpness is not None:
        faults["blurred"] = (sharpness < config.min_sharpness) & ~faults.get("empty", np.zeros(len(grid), bool))
    good = ~np.any(list(faults.values()), axis=0)
    dropped = {name: int(np.count_nonzero(fault)) for name, fault in faults.items()}
    if not good.any():
        raise SlideError(
            f"all {len(grid)} tiles dropped: {', '.join(f'{n} {name}' for name, n in dropped.items())} (the fullest is "
            f"{empty.min():.0%} empty, the sharpest has {sharpness.max():.1f}); see tiles.quality"
        )
    return replace(grid, coords=grid.coords[good], cells=grid.cells[good]), dropped


def tissue_share(
    mask: Bool[np.ndarray, "h w"],
    left: Float[np.ndarray, " c"],
    top: Float[np.ndarray, " r"],
    *,
    span: tuple[float, float],
) -> Float[np.ndarray, "r c"]:
    """The share of tissue in each of a grid of rectangles, which may overlap; exact to fractions of mask pixels.

    Args:
        mask: tissue over the whole slide.
        left: left edges as fractions of the slide's width (0 to 1).
        top: upper edges as fractions of its height.
        span: width and height of a rectangle, as the same fractions.
    """
    height, width = mask.shape
    area = np.zeros((height + 1, width + 1), np.int32)  # tissue above and left of each mask corner
    np.cumsum(mask, axis=0, out=area[1:, 1:])
    np.cumsum(area, axis=1, out=area)
    columns = _between(area.T, (left + span[0]) * width) - _between(area.T, left * width)  # (columns, mask rows + 1)
    tissue = _between(columns.T, (top + span[1]) * height) - _between(columns.T, top * height)
    return tissue / (span[0] * width * span[1] * height)


def _between(
    lines: Float[np.ndarray, "n m"] | Int32[np.ndarray, "n m"], at: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "k m"]:
    """The lines at fractional positions, interpolated; beyond the last it stays as it is."""
    at = np.clip(at, 0, len(lines) - 1)
    before = np.minimum(at.astype(int), len(lines) - 2)
    part = (at - before)[:, None]
    return lines[before] * (1 - part) + lines[before + 1] * part


def slide_normaliser(path: Path, grid: TileGrid, config: StainConfig) -> tuple[Normaliser | None, str]:
    """What normalises the stain of this slide's tiles, and why where nothing does; see `fit_normaliser`."""
    if config.method == "none":
        return None, ""
    with SlideReader(path) as reader:
        tiles = np.stack([read_tile(reader, grid, int(row)) for row in sample_rows(len(grid))])
    return fit_normaliser(config, tiles)


def sample_rows(n: int, size: int = SAMPLE_TILES) -> Int[np.ndarray, " k"]:
    """At most `size` numbers below n, evenly spread: always the same ones."""
    return np.unique(np.linspace(0, n - 1, min(n, size)).round().astype(int))


def read_tile(reader: SlideReader, grid: TileGrid, index: int) -> np.ndarray:
    """Tile `index` of the grid: (tile_px, tile_px, 3) uint8."""
    x, y = (int(value) for value in grid.coords[index])
    return reader.read(x, y, level=grid.level, span=grid.level_span_px, size_px=(grid.tile_px, grid.tile_px))
