"""Large slides in a moment: a few encoded tiles of tissue, repeated."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from workflows.demo import draw_slide

TILE_PX = 256


def tissue_tiles(count: int = 64) -> list[bytes]:
    """Encoded tiles of one drawn slide, those with most in them."""
    rgb, tissue = draw_slide(4096, grade=3, rng=np.random.default_rng(0))
    corners = [(y, x) for y in range(0, 4096, TILE_PX) for x in range(0, 4096, TILE_PX)]
    share = [tissue[y : y + TILE_PX, x : x + TILE_PX].mean() for y, x in corners]
    best = [corners[i] for i in np.argsort(share)[-count:]]
    tiles = (np.ascontiguousarray(rgb[y : y + TILE_PX, x : x + TILE_PX]) for y, x in best)
    return [simplejpeg.encode_jpeg(tile, quality=80, colorsubsampling="420") for tile in tiles]


def write_large_slide(path: Path, side_px: int, tiles: list[bytes], *, mpp: float = 0.5) -> None:
    """A square Aperio slide, all tissue, levels 1, 4 and 16."""
    text = f"Aperio Image Library v12.0.15 \r\n{side_px}x{side_px} [0,0 {side_px}x{side_px}] ({TILE_PX}x{TILE_PX}) JPEG"

    def repeated(side: int) -> Iterator[bytes]:
        rng, count = np.random.default_rng(side), (-(-side // TILE_PX)) ** 2
        return (tiles[i] for i in rng.integers(0, len(tiles), count))

    # The tiles are encoded already; tifffile looks up its codec all the same, which a machine without imagecodecs lacks.
    vars(tifffile.TIFF.COMPRESSORS)["_codecs"].setdefault(tifffile.COMPRESSION.JPEG, simplejpeg.encode_jpeg)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for factor in (1, 4, 16):
            side = side_px // factor
            tiff.write(
                repeated(side), shape=(side, side, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), photometric="ycbcr",
                subsampling=(2, 2), compression="jpeg", description=f"{text}|AppMag = {10 / mpp:g}|MPP = {mpp}", metadata=None,
            )  # fmt: skip
