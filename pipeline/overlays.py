"""Pictures of what a model sees: tiles in colours over a slide's thumbnail, each exactly where it was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from preprocessing.drafts import whole_file
from preprocessing.reader import SlideReader
from preprocessing.tiles import TileGrid

LONG_SIDE_PX = 1024  # of a thumbnail
OPACITY = 0.6  # of a tile's colour: the tissue is still seen
COLOURS = ("#1b9e77", "#d95f02", "#3b6fd4", "#e6ab02", "#7a3db8", "#66a61e", "#8c510a", "#35978f", "#444444", "#c51b7d")
SHARES = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")  # viridis: van der Walt and Smith 2015
SIGNED = ("#2166ac", "#f7f7f7", "#b2182b")  # below, at and above zero


@dataclass(frozen=True)
class Thumbnail:
    """A slide, small.

    Attributes:
        pixels: RGB.
        slide_px: width and height of level 0.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    slide_px: tuple[int, int]


def draw_thumbnail(reader: SlideReader) -> Thumbnail:
    """The whole slide, `LONG_SIDE_PX` along its longer side, or as it is where it is smaller."""
    return Thumbnail(reader.thumbnail(max(1.0, max(reader.size_px) / LONG_SIDE_PX)), reader.size_px)


def over_tissue(
    thumbnail: Thumbnail, grid: TileGrid, colours: Float[np.ndarray, "N 3"], *, opacity: float = OPACITY
) -> UInt8[np.ndarray, "h w 3"]:
    """The thumbnail with every tile in its colour; where tiles overlap, in the mean of theirs.

    Args:
        thumbnail: of the slide.
        grid: its tiles, with their corners and extent in level-0 pixels.
        colours: of the tiles, 0 to 255.
        opacity: 0 shows the tissue alone, 1 the colours alone.
    """
    height, width = thumbnail.pixels.shape[:2]
    scale = np.array([width, height]) / np.array(thumbnail.slide_px)
    first = np.rint(grid.coords * scale).astype(int)  # neighbours share an edge, whatever the rounding
    last = np.maximum(np.rint((grid.coords + np.array(grid.span_px)) * scale).astype(int), first + 1)
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for (left, top), (right, bottom), colour in zip(first.tolist(), last.tolist(), colours, strict=True):
        total[top:bottom, left:right] += colour
        count[top:bottom, left:right] += 1
    mean = total / np.maximum(count, 1)
    mixed = np.where(count > 0, (1 - opacity) * thumbnail.pixels + opacity * mean, thumbnail.pixels)
    return np.rint(mixed).astype(np.uint8)


def prototype_colours(count: int) -> list[str]:
    """A colour for each prototype, as #rrggbb; beyond ten they come again."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def in_colours(numbers: Int[np.ndarray, " N"], colours: Sequence[str]) -> Float[np.ndarray, "N 3"]:
    """The colour of each number, the first being 0."""
    return np.array([_rgb(colour) for colour in colours])[numbers]


def on_scale(
    values: Float[np.ndarray, " N"], *, low: float, high: float, stops: Sequence[str]
) -> Float[np.ndarray, "N 3"]:
    """The colours of values: the first stop at `low`, the last at `high`, evenly in between; what lies beyond is cut."""
    share = np.clip((values - low) / ((high - low) or 1), 0, 1)
    at = np.linspace(0, 1, len(stops))
    table = np.array([_rgb(stop) for stop in stops])
    return np.column_stack([np.interp(share, at, channel) for channel in table.T])


def save_jpeg(path: Path, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write the picture, whole or not at all."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88, subsampling=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_bytes(buffer.getvalue())


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(float(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
