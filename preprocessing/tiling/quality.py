"""Which tiles are too poor to keep: blurred, or nearly empty."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from pydantic import Field

from models.settings import Settings

Tile: TypeAlias = UInt8[np.ndarray, "h w 3"]

GLASS_MIN_LEVEL = 210  # of every channel; bare glass in real slides at 0.5 µm/px: 97 % of the pixels and more pass both
GLASS_MAX_SPREAD = 20  # between the channels
BLACK_MAX_LEVEL = 25  # of every channel; in real tissue less than 0.2 % of the pixels are as dark


class QualityConfig(Settings):
    """Which tiles are dropped, once each of them was read; with neither filter none is read.

    Variance of the Laplacian of real glioma at 20x and 0.5 µm/px: sharp 510–2860; blurred by a Gaussian of 1 px 64–197,
    of 2 px 11–20, of 4 px 3–4; clean glass 0–20. It depends on scanner, stain and `mpp`: look at one's own before a choice.
    """

    min_sharpness: float | None = Field(
        None,
        gt=0,
        description="least variance of the grey tile's Laplacian, squared grey levels; 200 drops what is blurred",
    )
    max_empty: float | None = Field(
        None, ge=0, le=1, description="largest share of a tile's pixels that may be bare glass or black padding"
    )

    @property
    def on(self) -> bool:
        """Whether tiles have to be looked at."""
        return self.min_sharpness is not None or self.max_empty is not None


def measure_sharpness(tile: Tile) -> float:
    """Variance of the Laplacian of the grey tile (0–255), higher is sharper.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000. On real glioma it
    tells sharp tiles from those blurred by 1 px without an overlap; divided by the variance of the grey levels it does not,
    nor does the blur effect of Crete et al. 2007.
    """
    grey = np.asarray(Image.fromarray(tile).convert("L"), dtype=np.float32)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def measure_empty(tile: Tile) -> float:
    """The share of pixels that are near-white and colourless, or black."""
    red, green, blue = np.moveaxis(tile, -1, 0)
    black = (red <= BLACK_MAX_LEVEL) & (green <= BLACK_MAX_LEVEL) & (blue <= BLACK_MAX_LEVEL)
    return float((find_glass(tile) | black).mean())


def find_glass(pixels: UInt8[np.ndarray, "*shape 3"]) -> Bool[np.ndarray, "*shape"]:
    """Which pixels are near-white and colourless."""
    red, green, blue = np.moveaxis(pixels, -1, 0)  # many times faster than `min` and `max` over triplets
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return (lowest >= GLASS_MIN_LEVEL) & (highest - lowest <= GLASS_MAX_SPREAD)
