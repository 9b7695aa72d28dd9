"""Slide statistics: stain, sharpness, tissue area, ink and empty glass of a slide in a few numbers.

They are measured on a sample of tiles and on the thumbnail, at a cost that does not grow with the slide. Prediction compares
them with those of the training cohort to detect a distribution shift (`pipeline.ood.reference`).
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from preprocessing.slides.reader import SlideReader
from preprocessing.slides.slide import Slide
from preprocessing.tiling.quality import find_glass, measure_empty, measure_sharpness
from preprocessing.tiling.tiles import TiledSlide, read_tile, sample_rows
from preprocessing.tiling.tissue import measure_ink

STATS_FORMAT = 1  # raise it whenever the meaning of a statistic changes
PIXEL_STEP = 2  # every second pixel in both directions is enough for a mean
MIN_SHARPNESS = 0.1  # squared grey levels; an empty image has 0, whose logarithm is not finite
# Optical density of the stains in red, green and blue: Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291.
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


@dataclass(frozen=True)
class SlideStats:
    """Statistics of one slide. Densities are decimal optical densities of pixels other than bare glass; NaN without any.

    Attributes:
        tissue_mm2: area of the tissue.
        ink: pen ink as a share of ink and tissue, 0 to 1.
        empty: mean share of glass or black padding in a tile, 0 to 1.
        sharpness: log10 of the variance of the Laplacian, median over tiles; see `measure_sharpness`.
        density: mean over pixels and channels.
        contrast: standard deviation over pixels of the mean density.
        haematoxylin: mean amount, as density along the stain's colour vector.
        eosin: mean amount, as density along the stain's colour vector.
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


def measure_slide(slide: Slide, tiled: TiledSlide) -> SlideStats:
    """Return the statistics of a tiled slide, from at most `SAMPLE_TILES` tiles and the thumbnail."""
    with SlideReader(slide.path) as reader:
        tiles = [read_tile(reader, tiled.grid, int(row)) for row in sample_rows(len(tiled.grid))]
        thumbnail = reader.thumbnail(tiled.mask_downsample)
    pixel_mm2 = slide.mpp_xy[0] * slide.mpp_xy[1] * tiled.mask_downsample**2 / 1e6
    return SlideStats(
        tissue_mm2=float(tiled.mask.sum() * pixel_mm2),
        ink=measure_ink(thumbnail, slide.mpp * tiled.mask_downsample),
        empty=float(np.mean([measure_empty(tile) for tile in tiles])),
        sharpness=float(np.median([np.log10(max(measure_sharpness(tile), MIN_SHARPNESS)) for tile in tiles])),
        **measure_stain(np.concatenate([tile[::PIXEL_STEP, ::PIXEL_STEP].reshape(-1, 3) for tile in tiles])),
    )


def measure_stain(pixels: UInt8[np.ndarray, "N 3"]) -> dict[str, float]:
    """Return density, contrast, the amounts of both stains and the share of other colours of RGB pixels (N, 3), uint8."""
    stained = pixels[~find_glass(pixels)]
    density: Float[np.ndarray, "n 3"] = np.log10(255.0 / np.maximum(stained, 1).astype(np.float32))
    axes = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    residual = np.cross(*axes)
    amounts = density @ np.linalg.inv(np.vstack([axes, residual / np.linalg.norm(residual)]))  # (n, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # without stained pixels every mean is NaN, as documented
        total = np.linalg.norm(density, axis=1).mean()
        return {
            "density": float(density.mean()),
            "contrast": float(density.mean(axis=1).std()),
            "haematoxylin": float(amounts[:, 0].mean()),
            "eosin": float(amounts[:, 1].mean()),
            "other_colour": float(np.abs(amounts[:, 2]).mean() / total),
        }
