"""Quality of tiles: which are blurred or nearly empty, so that they can be dropped."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from pydantic import Field

from models.settings import Settings

Tile: TypeAlias = UInt8[np.ndarray, "h w 3"]

# Grey levels, 0 to 255. Of bare glass in real slides at 0.5 µm/px, at least 97 % of the pixels pass the first two.
GLASS_MIN_LEVEL = 210  # minimum of every channel
GLASS_MAX_CHROMA = 20  # difference between the channels
BLACK_MAX_LEVEL = 25  # maximum of every channel; less than 0.2 % of the pixels of real tissue are as dark


class QualityConfig(Settings):
    """Which tiles are dropped. Each filter reads every tile once; without a filter no tile is read.

    Variance of the Laplacian of real glioma at 20x and 0.5 µm/px: sharp 510–2860; blurred by a Gaussian of 1 px 64–197,
    of 2 px 11–20, of 4 px 3–4; clean glass 0–20. It depends on scanner, stain and `mpp`: measure it on the cohort before
    choosing a threshold.
    """

    min_sharpness: float | None = Field(
        None,
        gt=0,
        description="minimum variance of the grey tile's Laplacian, in squared grey levels; 200 drops blurred tiles",
    )
    max_empty: float | None = Field(
        None, ge=0, le=1, description="maximum share of bare glass or black padding in a tile, 0 to 1"
    )

    @property
    def on(self) -> bool:
        """Whether a filter is set, so that tiles have to be read."""
        return self.min_sharpness is not None or self.max_empty is not None


def measure_sharpness(tile: Tile) -> float:
    """Return the variance of the grey tile's Laplacian, in squared grey levels (0–255); higher is sharper.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000. On real glioma it
    separates sharp tiles from those blurred by 1 px without overlap; normalised by the variance of the grey levels it does
    not, nor does the blur effect of Crete et al. 2007.
    """
    grey = np.asarray(Image.fromarray(tile).convert("L"), dtype=np.float32)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def measure_empty(tile: Tile) -> float:
    """Return the share of pixels that are bare glass (near-white and colourless) or black, 0 to 1."""
    red, green, blue = np.moveaxis(tile, -1, 0)
    black = (red <= BLACK_MAX_LEVEL) & (green <= BLACK_MAX_LEVEL) & (blue <= BLACK_MAX_LEVEL)
    return float((find_glass(tile) | black).mean())


def find_glass(pixels: UInt8[np.ndarray, "*shape 3"]) -> Bool[np.ndarray, "*shape"]:
    """Return which pixels are near-white and colourless, as bare glass is."""
    red, green, blue = np.moveaxis(pixels, -1, 0)  # many times faster than `min` and `max` over triplets
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return (lowest >= GLASS_MIN_LEVEL) & (highest - lowest <= GLASS_MAX_CHROMA)
