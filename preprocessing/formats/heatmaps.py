"""What a model sees in a slide's tiles, as a pyramidal TIFF that lies on the slide: OpenSlide and QuPath open it.

Its pixels are coarser than the slide's, and its resolution tags say by how much. Where there is no tile it is white.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, UInt8

from preprocessing.formats.colours import Scale, rgb
from preprocessing.formats.geojson import colour_of
from preprocessing.formats.h5 import Geometry
from preprocessing.io.atomic import atomic_file

MPP = 4.0  # of the finest level: a tile of 128 µm has 32 pixels a side
TIFF_TILE_PX = 256
SMALLEST_PX = 256  # of the coarsest level's longer side, at most
UM_IN_CM = 10_000.0
WHITE = 255


def write_heatmap(
    path: Path,
    what: str,
    values: Float[np.ndarray, " N"],
    coords: Int32[np.ndarray, "N 2"],
    geometry: Geometry,
    *,
    size_px: tuple[int, int],
    colours: Mapping[int, str] | None,
) -> None:
    """Write the picture; whole or not at all. Its description has a legend, as JSON.

    Args:
        path: the file.
        what: the values' name.
        values: of each tile; numbers, or prototypes from 1 on.
        coords: the tiles' upper left corners, level-0 pixels.
        geometry: of the tiles.
        size_px: width and height of the slide's level 0.
        colours: of prototypes; None: the values are numbers.
    """
    import tifffile

    picture = draw(values, coords, geometry, size_px=size_px, colours=colours)
    scale = Scale.of(values)
    legend: dict[str, object] = {"what": what, "low": scale.low, "high": scale.high, "ramp": scale.stops}
    if colours is not None:
        legend = {"what": what, "colours": {str(int(one)): colour_of(int(one), colours) for one in np.unique(values)}}
    mpp_xy = (size_px[i] * geometry.slide_mpp_xy[i] / picture.shape[1 - i] for i in (0, 1))
    x, y = (UM_IN_CM / mpp for mpp in mpp_xy)  # pixels a centimetre
    with atomic_file(path) as draft, tifffile.TiffWriter(draft) as tiff:
        for number, level in enumerate(_pyramid(picture)):
            tiff.write(
                level,
                photometric="rgb",
                tile=(TIFF_TILE_PX, TIFF_TILE_PX),
                compression="deflate",
                resolution=(x / 2**number, y / 2**number),
                resolutionunit="CENTIMETER",
                description=json.dumps(legend) if number == 0 else None,
                subfiletype=int(number > 0),  # of reduced size
                metadata=None,
            )


def draw(
    values: Float[np.ndarray, " N"],
    coords: Int32[np.ndarray, "N 2"],
    geometry: Geometry,
    *,
    size_px: tuple[int, int],
    colours: Mapping[int, str] | None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The finest level: each tile a rectangle of its colour. Of tiles that overlap, the one of the highest value is on top."""
    shrink = [max(1.0, MPP / mpp) for mpp in geometry.slide_mpp_xy]
    width, height = (max(1, round(size / by)) for size, by in zip(size_px, shrink, strict=True))
    scale = np.array([width / size_px[0], height / size_px[1]])
    first = np.rint(coords * scale).astype(int)
    last = np.maximum(np.rint((coords + np.array(geometry.span_px)) * scale).astype(int), first + 1)
    paint = (
        np.rint(Scale.of(values).colours(values))
        if colours is None
        else np.array([rgb(colour_of(int(one), colours)) for one in values])
    )
    picture = np.full((height, width, 3), WHITE, np.uint8)
    for i in np.argsort(values, kind="stable"):
        if np.isfinite(values[i]):
            picture[first[i, 1] : last[i, 1], first[i, 0] : last[i, 0]] = paint[i]
    return picture


def _pyramid(picture: UInt8[np.ndarray, "H W 3"]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The picture, and halves of it until one is small."""
    from PIL import Image

    levels = [picture]
    while max(levels[-1].shape[:2]) > SMALLEST_PX:
        image = Image.fromarray(levels[-1])
        half = (max(1, image.width // 2), max(1, image.height // 2))
        levels.append(np.asarray(image.resize(half, Image.Resampling.BOX)))
    return levels
