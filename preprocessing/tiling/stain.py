"""Stain normalisation: the colours of a slide's tiles become those of a target image, before they are embedded.

The stains of a slide are estimated once, on a sample of its tiles, and all its tiles are transformed alike. If they were
estimated per tile, as is common, the eosin of a tile without nuclei would become haematoxylin, and a blank tile would have
no stains at all.

Macenko's and Reinhard's methods are TIAToolbox's. Reinhard's statistics are taken from stained pixels only, and bare glass,
which would turn green, is left unchanged. TIAToolbox's Vahadane is, as its documentation states, unusable with current
scikit-learn (on TIAToolbox's target image it yields a stain of negative density); here the same sparse, non-negative factors
are found by scikit-learn's dictionary learning over the pixels.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from pydantic import Field

from models.settings import Settings
from preprocessing.io.extras import extra, extra_version
from preprocessing.io.fingerprints import file_fingerprint
from preprocessing.tiling.quality import find_glass

TileImage: TypeAlias = UInt8[np.ndarray, "h w 3"]
Normaliser: TypeAlias = Callable[[TileImage], TileImage]
SPARSITY = 0.1  # of Vahadane's factors, as in the paper
DICTIONARY_PIXELS = 20_000  # a stain vector has three numbers: more pixels change nothing
LAB_UNIT, LAB_ZERO = (2.55, 1.0, 1.0), (0.0, 128.0, 128.0)  # of the channels L, a and b as bytes
PIXEL_STEP = 4  # every fourth pixel in both directions is used


class StainError(ValueError):
    """The stains of an image cannot be estimated, for the reason that the message gives."""


class StainConfig(Settings):
    """Whether and how the stain is normalised."""

    method: Literal["none", "macenko", "vahadane", "reinhard"] = Field(
        "none", description="method of normalisation; none: colours as scanned"
    )
    target: Path | None = Field(
        None,
        description="image of stained tissue to whose colours all slides are normalised; default: TIAToolbox's target image",
    )


def stain_recipe(config: StainConfig) -> dict[str, Any] | None:
    """Return the part of a feature's recipe that concerns stain, the target by its bytes; None without normalisation."""
    if config.method == "none":
        return None
    target = None if config.target is None else file_fingerprint(config.target)
    return {
        "method": config.method,
        "target": target,
        "tiatoolbox": extra_version("tiatoolbox", "stain", "stain normalisation"),
    }


def fit_normaliser(config: StainConfig, tiles: UInt8[np.ndarray, "n h w 3"]) -> tuple[Normaliser | None, str]:
    """Return the normaliser of one slide's tiles and ""; or, where its stains cannot be separated, None and the reason.

    Args:
        config: a method other than none.
        tiles: a sample of the slide's tiles, RGB uint8.
    """
    image = tiles[:, ::PIXEL_STEP, ::PIXEL_STEP].reshape(1, -1, 3)
    try:
        if config.method == "reinhard":
            return _reinhard(_target(config), image), ""
        return _by_stains(config, image), ""
    except StainError as error:
        return None, f"stain not normalised: {config.method} cannot separate two stains ({error})"


def _target(config: StainConfig) -> TileImage:
    if config.target is not None:
        return np.asarray(Image.open(config.target).convert("RGB"))
    with extra("stain", "stain normalisation"):
        from tiatoolbox.data import stain_norm_target

    return stain_norm_target()


def _by_stains(config: StainConfig, image: TileImage) -> Normaliser:
    """Rewrite the amounts of the slide's two stains in the target's colours, scaled to the target's maximum of each."""
    target = _target(config)[::PIXEL_STEP, ::PIXEL_STEP]
    stains = {"macenko": _macenko, "vahadane": _vahadane}[config.method]
    source_stains, target_stains = stains(image), stains(target)
    to_amounts = np.linalg.pinv(source_stains)  # (3, 2)
    source_max = np.percentile(_density(image) @ to_amounts, 99, axis=0)
    target_max = np.percentile(_density(target) @ np.linalg.pinv(target_stains), 99, axis=0)
    if not (source_max > 0).all():
        raise StainError(f"the largest amounts are {source_max[0]:.3g} and {source_max[1]:.3g}")
    change = (to_amounts * (target_max / source_max) @ target_stains).astype(np.float32)  # (3, 3), density to density

    return _ByStains(change)


@dataclass(frozen=True)
class _ByStains:
    """Normalises a tile.

    Attributes:
        change: from a pixel's density to the density that it has in the target's stains.
    """

    change: Float32[np.ndarray, "3 3"]

    def __call__(self, tile: TileImage) -> TileImage:
        density = _density(tile) @ self.change
        return (255 * np.exp(-density)).clip(0, 255).astype(np.uint8).reshape(tile.shape)


def _density(image: TileImage) -> Float[np.ndarray, "n 3"]:
    """Natural (base e) optical density of each pixel."""
    return -np.log(np.maximum(image.reshape(-1, 3), 1).astype(np.float32) / 255)


def _macenko(image: TileImage) -> Float[np.ndarray, "2 3"]:
    with extra("stain", "stain normalisation"):
        from tiatoolbox.tools.stainextract import MacenkoExtractor

    with _library_errors():
        stains = MacenkoExtractor().get_stain_matrix(image)
    return _require_stains(stains)


def _vahadane(image: TileImage) -> Float[np.ndarray, "2 3"]:
    """Vahadane et al., "Structure-preserving color normalization", IEEE Trans. Med. Imaging 35 (2016) 1962."""
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    with extra("stain", "stain normalisation"):
        from tiatoolbox.utils.misc import get_luminosity_tissue_mask

    with _library_errors():
        tissue = get_luminosity_tissue_mask(image, threshold=0.8)
    density = _density(image)[tissue.reshape(-1)]
    density = density[np.linspace(0, len(density) - 1, min(len(density), DICTIONARY_PIXELS)).astype(int)]
    learner = MiniBatchDictionaryLearning(
        n_components=2, alpha=SPARSITY, fit_algorithm="cd", positive_code=True, positive_dict=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of single pixels' amounts, at the seventh digit
        with _library_errors():
            stains = learner.fit(density).components_
    return _require_stains(stains[np.argsort(-stains[:, 0])])  # haematoxylin, which absorbs more red, first


@contextmanager
def _library_errors() -> Iterator[None]:
    """Around the libraries' estimates alone: an image without two stains makes them raise these."""
    try:
        yield
    except (ValueError, np.linalg.LinAlgError) as error:
        raise StainError(str(error)) from error


def _require_stains(stains: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    lengths = np.linalg.norm(stains, axis=1, keepdims=True)
    if not np.isfinite(stains).all() or (lengths <= 0).any():
        raise StainError("a stain without a colour")
    unit = stains / lengths
    if abs(unit[0] @ unit[1]) > 0.9999:
        raise StainError("both stains have the same colour")
    return unit


def _reinhard(target: TileImage, image: TileImage) -> Normaliser:
    with extra("stain", "stain normalisation"):
        from tiatoolbox.tools.stainnorm import ReinhardNormalizer

    toolbox = ReinhardNormalizer()
    stained, stained_target = _stained(image), _stained(target)
    with _library_errors():
        means, deviations = toolbox.get_mean_std(stained)
        target_means, target_deviations = toolbox.get_mean_std(stained_target)
    if min(deviations) <= 0:
        raise StainError("all pixels have the same colour")

    scales = tuple(target / here for target, here in zip(target_deviations, deviations, strict=True))
    return _ByColours(means, scales, target_means)


@dataclass(frozen=True)
class _ByColours:
    """Normalises a tile, as TIAToolbox does; without importing it, which takes half a minute.

    Attributes:
        means: of the channels L (0 to 100), a and b (about 0) of the slide.
        scales: by which differences from them are multiplied.
        target_means: means of the target image.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    target_means: tuple[float, ...]

    def __call__(self, tile: TileImage) -> TileImage:
        with extra("stain", "stain normalisation"):
            import cv2

        means, scales, target_means, unit, zero = np.array(
            [self.means, self.scales, self.target_means, LAB_UNIT, LAB_ZERO], np.float32
        )
        lab = ((cv2.cvtColor(tile, cv2.COLOR_RGB2LAB) - np.array(LAB_ZERO)) / LAB_UNIT).astype(np.float32)
        lab = ((lab - means) * scales + target_means) * unit + zero
        changed = cv2.cvtColor(lab.clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
        return np.where(find_glass(tile)[..., None], tile, changed)


def _stained(image: TileImage) -> TileImage:
    """All pixels other than bare glass, in one row."""
    pixels = image[~find_glass(image)]
    if not len(pixels):
        raise StainError("only glass")
    return pixels[None]
