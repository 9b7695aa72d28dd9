"""Overlays: coloured tiles on the thumbnail of a slide, each exactly where it was read."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from preprocessing.io.atomic import atomic_file
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.tiles import TileGrid

LONG_SIDE_PX = 1024  # of a thumbnail
OPACITY = 0.6  # of a tile's colour: the tissue stays visible


@dataclass(frozen=True)
class Thumbnail:
    """The thumbnail of a slide.

    Attributes:
        pixels: RGB, (h, w, 3).
        slide_px: width and height of the slide's level 0.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    slide_px: tuple[int, int]


def draw_thumbnail(reader: SlideReader) -> Thumbnail:
    """Read the whole slide at `LONG_SIDE_PX` along its longer side; a smaller slide at its full resolution."""
    return Thumbnail(reader.thumbnail(max(1.0, max(reader.size_px) / LONG_SIDE_PX)), reader.size_px)


def over_tissue(
    thumbnail: Thumbnail, grid: TileGrid, colours: Float[np.ndarray, "N 3"], *, opacity: float = OPACITY
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw every tile over the thumbnail; overlapping tiles get their mean colour.

    Args:
        thumbnail: of the slide.
        grid: its tiles, with corners and extent in level-0 pixels.
        colours: of the tiles, RGB from 0 to 255.
        opacity: 0 for the tissue only, 1 for the colours only.

    Returns:
        RGB of the size of the thumbnail.
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


def save_jpeg(path: Path, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a picture atomically as JPEG."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88, subsampling=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
