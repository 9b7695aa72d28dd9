"""Tiles: a grid of squares of equal physical size over a slide's tissue."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8
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

SAMPLE_TILES = 32  # tiles that represent a slide where reading all would take too long
ROUNDING = 1e-9  # error of a tissue share, which is computed from sums over the whole mask


class TileConfig(Settings):
    """Size, resolution and spacing of the tiles, and which tiles are kept."""

    tile_px: int = Field(256, ge=16, le=4096, description="side of a tile, in pixels at `mpp`")
    mpp: float = Field(0.5, ge=MPP_RANGE[0], le=MPP_RANGE[1], description="microns per pixel of the tiles")
    min_tissue: float = Field(0.5, ge=0, le=1, description="minimum share of tissue in a tile, 0 to 1")
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

    Three pixel frames are involved. All have x to the right, y downwards and their origin at the upper left corner:

    - level-0 pixels: the slide at full resolution. Positions are always given in this frame.
    - level pixels: the pyramid level that tiles are read from, the coarsest one that is still finer than the tile.
    - tile pixels: the image that the encoder gets, `tile_px` a side at `mpp` microns per pixel.

    Example: a slide of 100,000 × 80,000 px scanned at 0.25 µm/px (40x) with levels downsampled by 1, 4 and 16, and tiles
    of 256 px at 1.1 µm/px. A tile covers 256 × 1.1 = 281.6 µm, that is `span_px` = 281.6 / 0.25 = 1126.4 level-0 pixels.
    Its downsample from level 0 is 1.1 / 0.25 = 4.4, so that `level` is 1 (4 ≤ 4.4 < 16), where the tile spans
    `level_span_px` = 1126.4 / 4 = 281.6 level pixels. The tile in column 2, row 1 of the grid (`cells` = [2, 1]) has its
    corner at 2 × 1126.4 = 2252.8 → 2253 and 1126.4 → 1126 (`coords` = [2253, 1126]); the region of 281.6 × 281.6 level
    pixels there is resampled to 256 × 256 tile pixels. Fractions of `span_px` are kept, so that rounding does not
    accumulate along a row.

    Attributes:
        coords: upper left corners, level-0 pixels (x, y), int32, ordered by row.
        cells: column and row of each tile on the slide's grid, int32; neighbouring cells lie one stride apart.
        level: the pyramid level that is read.
        span_px: width and height of a tile in level-0 pixels, with fractions.
        level_span_px: width and height of a tile in pixels of `level`, with fractions.
        tile_px: side of a tile in tile pixels.
        mpp: microns per tile pixel.
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
    """The tiles of a slide, and its tissue.

    Attributes:
        grid: the tiles.
        mask: True where there is tissue, over the whole slide.
        mask_downsample: level-0 pixels per mask pixel.
        dropped: number of tiles that each quality filter removed, by filter; empty without filters.
    """

    grid: TileGrid
    mask: Bool[np.ndarray, "h w"]
    mask_downsample: float
    dropped: Mapping[str, int] = field(default_factory=dict)


def tile_slide(slide: Slide, config: TileConfig) -> TiledSlide:
    """Lay the grid over the slide's tissue. Only whole tiles inside the scanned region are used.

    Raises:
        SlideError: no tissue, a slide smaller than a tile, or no tile that passes the filters; or see `read_mask`.
    """
    with SlideReader(slide.path) as reader:
        downsample = max(1.0, config.tissue.mpp / slide.mpp)
        mask = _find_tissue(reader, slide, config.tissue, downsample)
        grid = _lay_grid(reader, slide, config, mask)
        grid, dropped = _without_poor(reader, grid, config.quality)
    return TiledSlide(grid, mask, downsample, dropped)


def _find_tissue(reader: SlideReader, slide: Slide, config: TissueConfig, downsample: float) -> Bool[np.ndarray, "h w"]:
    """By the user's mask, where a folder of masks is set, else by the detector."""
    if config.masks is None:
        return detect_tissue(reader.thumbnail(downsample), slide.mpp * downsample, config)
    width, height = (max(1, round(side / downsample)) for side in slide.size_px)  # the thumbnail's size
    corner = reader.bounds_px[:2] if config.outline_origin == "scan" else (0, 0)
    return read_mask(slide, config.masks, (height, width), corner_px=corner, values=config.mask_values)


def _lay_grid(reader: SlideReader, slide: Slide, config: TileConfig, mask: Bool[np.ndarray, "h w"]) -> TileGrid:
    span = (config.tile_px * config.mpp / slide.mpp_xy[0], config.tile_px * config.mpp / slide.mpp_xy[1])
    stretch = (config.stride_px or config.tile_px) / config.tile_px
    x, y, width, height = reader.bounds_px
    left, top = x + _starts(width, span[0], stretch), y + _starts(height, span[1], stretch)
    if not len(left) or not len(top):
        raise SlideError(
            f"smaller than one tile: {width} × {height} pixels; a tile spans {span[0]:.0f} × {span[1]:.0f}"
        )
    if not mask.any():
        raise SlideError("no tissue found")
    size = slide.size_px
    share = tissue_share(mask, left / size[0], top / size[1], span=(span[0] / size[0], span[1] / size[1]))
    enough = max(
        config.min_tissue - ROUNDING, ROUNDING
    )  # a tile that is all tissue passes 1, one without tissue fails 0
    cells = np.argwhere(share >= enough)[:, ::-1]  # (column, row), in row order
    if not len(cells):
        raise SlideError(
            f"no tile with at least {config.min_tissue:.0%} tissue; {mask.mean():.1%} of the slide is tissue"
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
    """Start positions of tiles of length `span` that lie `stretch` spans apart and fit into the room."""
    count = math.floor((room - span + 1e-6) / (span * stretch)) + 1
    return np.arange(max(0, count)) * (span * stretch)


def _without_poor(reader: SlideReader, grid: TileGrid, config: QualityConfig) -> tuple[TileGrid, dict[str, int]]:
    """The tiles that pass the filters, and the number that each filter dropped; a tile counts for the first it fails."""
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
            f"all {len(grid)} tiles dropped: {', '.join(f'{n} {name}' for name, n in dropped.items())} "
            "(lowest empty share "
            f"{empty.min():.0%}, highest sharpness {sharpness.max():.1f}); relax --set tiles.quality.min_sharpness or max_empty"
        )
    return replace(grid, coords=grid.coords[good], cells=grid.cells[good]), dropped


def tissue_share(
    mask: Bool[np.ndarray, "h w"],
    left: Float[np.ndarray, " c"],
    top: Float[np.ndarray, " r"],
    *,
    span: tuple[float, float],
) -> Float[np.ndarray, "r c"]:
    """Return the share of tissue in each rectangle of a grid, exact to fractions of mask pixels; rectangles may overlap.

    Args:
        mask: tissue over the whole slide.
        left: left edges as fractions of the slide's width (0 to 1).
        top: upper edges as fractions of its height.
        span: width and height of a rectangle, as the same fractions.

    Returns:
        Shares from 0 to 1, a row for each upper edge and a column for each left edge.
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
    """The lines at fractional positions, linearly interpolated; the first and last are repeated beyond the ends."""
    at = np.clip(at, 0, len(lines) - 1)
    before = np.minimum(at.astype(int), len(lines) - 2)
    part = (at - before)[:, None]
    return lines[before] * (1 - part) + lines[before + 1] * part


def slide_normaliser(path: Path, grid: TileGrid, config: StainConfig) -> tuple[Normaliser | None, str]:
    """Return the stain normaliser of a slide, or None and the reason; without normalisation None and ""."""
    if config.method == "none":
        return None, ""
    with SlideReader(path) as reader:
        tiles = np.stack([read_tile(reader, grid, int(row)) for row in sample_rows(len(grid))])
    return fit_normaliser(config, tiles)


def sample_rows(n: int, size: int = SAMPLE_TILES) -> Int[np.ndarray, " k"]:
    """Return at most `size` evenly spread numbers below n, always the same ones."""
    return np.unique(np.linspace(0, n - 1, min(n, size)).round().astype(int))


def read_tile(reader: SlideReader, grid: TileGrid, index: int) -> UInt8[np.ndarray, "t t 3"]:
    """Return tile `index` of the grid, RGB; its side t is `grid.tile_px`."""
    x, y = (int(value) for value in grid.coords[index])
    return reader.read(x, y, level=grid.level, span=grid.level_span_px, size_px=(grid.tile_px, grid.tile_px))
