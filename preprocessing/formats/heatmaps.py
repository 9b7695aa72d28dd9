"""Heatmaps: a model's values per tile as a pyramidal TIFF that overlays the slide in OpenSlide and QuPath.

Its pixels are coarser than the slide's; its resolution tags give their size. Where there is no tile it is white.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, UInt8

from preprocessing.formats.colours import Scale, rgb
from preprocessing.formats.geojson import colour_of
from preprocessing.formats.h5 import Geometry
from preprocessing.formats.labels import with_label
from preprocessing.io.atomic import atomic_file

MPP = 4.0  # µm/px of the finest level: a tile of 128 µm has 32 pixels a side
TIFF_TILE_PX = 256
SMALLEST_PX = 256  # maximum of the coarsest level's longer side
UM_IN_CM = 10_000.0
WHITE = 255


@dataclass(frozen=True)
class TileValues:
    """One value per tile, and its colours.

    Attributes:
        name: of the values.
        values: numbers, or prototypes counted from 1; not drawn where not finite.
        palette: the scale of numbers, best that of the whole case; or colours of prototypes (#rrggbb), by number.
    """

    name: str
    values: Float[np.ndarray, " N"]
    palette: Scale | Mapping[int, str]


def write_heatmap(
    path: Path, layer: TileValues, coords: Int32[np.ndarray, "N 2"], geometry: Geometry, *, size_px: tuple[int, int]
) -> None:
    """Write the heatmap atomically. Its description contains a legend, as JSON; the scale's note stands in the picture.

    Args:
        path: the file.
        layer: the values.
        coords: the tiles' upper left corners, level-0 pixels.
        geometry: size and spacing of the tiles.
        size_px: width and height of the slide's level 0.
    """
    import tifffile

    values, palette = layer.values, layer.palette
    image = draw(layer, coords, geometry, size_px=size_px)
    if isinstance(palette, Scale):
        image, legend = with_label(image, palette.note), palette.legend()
    else:
        legend = {"colours": {str(int(one)): colour_of(int(one), palette) for one in np.unique(values)}}
    mpp_xy = (size_px[i] * geometry.slide_mpp_xy[i] / image.shape[1 - i] for i in (0, 1))
    x, y = (UM_IN_CM / mpp for mpp in mpp_xy)  # pixels per centimetre
    with atomic_file(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for number, level in enumerate(_pyramid(image)):
            tiff.write(
                level,
                photometric="rgb",
                tile=(TIFF_TILE_PX, TIFF_TILE_PX),
                compression="deflate",
                resolution=(x / 2**number, y / 2**number),
                resolutionunit="CENTIMETER",
                description=json.dumps({"name": layer.name} | legend) if number == 0 else None,
                subfiletype=int(number > 0),  # reduced resolution
                metadata=None,
            )


def draw(
    layer: TileValues, coords: Int32[np.ndarray, "N 2"], geometry: Geometry, *, size_px: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the finest level, RGB: each tile a rectangle of its colour; of overlapping tiles the highest is on top.

    Args:
        layer: the values and their colours.
        coords: the tiles' upper left corners, level-0 pixels (x, y).
        geometry: size and spacing of the tiles.
        size_px: width and height of the slide's level 0.
    """
    values, palette = layer.values, layer.palette
    shrink = [max(1.0, MPP / mpp) for mpp in geometry.slide_mpp_xy]
    width, height = (max(1, round(size / by)) for size, by in zip(size_px, shrink, strict=True))
    scale = np.array([width / size_px[0], height / size_px[1]])
    first = np.rint(coords * scale).astype(int)
    last = np.maximum(np.rint((coords + np.array(geometry.span_px)) * scale).astype(int), first + 1)
    paint = (
        np.rint(palette.colours(values))
        if isinstance(palette, Scale)
        else np.array([rgb(colour_of(int(one), palette)) for one in values])
    )
    image = np.full((height, width, 3), WHITE, np.uint8)
    for i in np.argsort(values, kind="stable"):
        if np.isfinite(values[i]):
            image[first[i, 1] : last[i, 1], first[i, 0] : last[i, 0]] = paint[i]
    return image


def _pyramid(image: UInt8[np.ndarray, "H W 3"]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The image, and its halves until the longer side is at most `SMALLEST_PX`."""
    from PIL import Image

    levels = [image]
    while max(levels[-1].shape[:2]) > SMALLEST_PX:
        finer = Image.fromarray(levels[-1])
        half = (max(1, finer.width // 2), max(1, finer.height // 2))
        levels.append(np.asarray(finer.resize(half, Image.Resampling.BOX)))
    return levels
