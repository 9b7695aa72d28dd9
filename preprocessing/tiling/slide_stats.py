"""How a slide looks, in a few numbers: its stain, its sharpness, how much tissue it has, how much ink and glass.

They are measured on a sample of tiles and on the thumbnail, at a cost that does not grow with the slide, and say later
whether a slide is like those that a model was trained on (`pipeline.ood.reference`).
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preprocessing.slides.reader import SlideReader
from preprocessing.slides.slide import Slide
from preprocessing.tiling.quality import find_glass, measure_empty, measure_sharpness
from preprocessing.tiling.tiles import TiledSlide, read_tile, sample_rows
from preprocessing.tiling.tissue import measure_ink

LOOK_FORMAT = 1  # raise it whenever a measure means something else
PIXEL_STEP = 2  # every second pixel, either way, is enough for a mean
MIN_SHARPNESS = 0.1  # squared grey levels; an empty image has 0, of which there is no logarithm
# Optical density of the stains in red, green and blue: Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291.
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


@dataclass(frozen=True)
class Look:
    """Measures of one slide. Densities are decimal optical densities of pixels that are not bare glass; NaN where there are none.

    Attributes:
        tissue_mm2: area of the tissue.
        ink: share of pen ink in what lies on the glass, 0 to 1.
        empty: share of glass or black in the tiles, 0 to 1.
        sharpness: decimal logarithm of the variance of the Laplacian, the median tile's; see `measure_sharpness`.
        density: mean over pixels and channels.
        contrast: standard deviation of the pixels' densities.
        haematoxylin: mean amount, as density along the stain's own colour.
        eosin: likewise.
        other_colour: share of density that neither stain explains, 0 to 1.
    """

    tissue_mm2: float
    ink: float
    empty: float
    sharpness: float
    density: float
    contrast: float
    haematoxylin: float
    eosin: float
    other_colour: float


def look_at(slide: Slide, tiled: TiledSlide) -> Look:
    """The slide's measures."""
    with SlideReader(slide.path) as reader:
        tiles = [read_tile(reader, tiled.grid, int(row)) for row in sample_rows(len(tiled.grid))]
        thumbnail = reader.thumbnail(tiled.mask_downsample)
    pixel_mm2 = slide.mpp_xy[0] * slide.mpp_xy[1] * tiled.mask_downsample**2 / 1e6
    return Look(
        tissue_mm2=float(tiled.mask.sum() * pixel_mm2),
        ink=measure_ink(thumbnail, slide.mpp * tiled.mask_downsample),
        empty=float(np.mean([measure_empty(tile) for tile in tiles])),
        sharpness=float(np.median([np.log10(max(measure_sharpness(tile), MIN_SHARPNESS)) for tile in tiles])),
        **measure_stain(np.concatenate([tile[::PIXEL_STEP, ::PIXEL_STEP].reshape(-1, 3) for tile in tiles])),
    )


def measure_stain(pixels: np.ndarray) -> dict[str, float]:
    """Density, contrast, amounts of both stains and the share of other colours of RGB pixels (N, 3), uint8."""
    stained = pixels[~find_glass(pixels)]
    density: Float[np.ndarray, "n 3"] = np.log10(255.0 / np.maximum(stained, 1).astype(np.float32))
    axes = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    other = np.cross(*axes)
    amounts = density @ np.linalg.inv(np.vstack([axes, other / np.linalg.norm(other)]))  # (n, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # without a stained pixel every mean is NaN, which is meant
        total = np.linalg.norm(density, axis=1).mean()
        return {
            "density": float(density.mean()),
            "contrast": float(density.mean(axis=1).std()),
            "haematoxylin": float(amounts[:, 0].mean()),
            "eosin": float(amounts[:, 1].mean()),
            "other_colour": float(np.abs(amounts[:, 2]).mean() / total),
        }
