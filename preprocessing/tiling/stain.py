"""Stain normalisation: the colours of a slide's tiles become those of a target image, before they are embedded.

The stains of a slide are estimated once, on a sample of its tiles, and all its tiles are changed alike. Estimated for each
tile, as is common, a tile without nuclei would have its eosin made haematoxylin; and a blank tile would have no stains.

Macenko's and Reinhard's methods are TIAToolbox's; Reinhard's is told of stained pixels alone, and leaves bare glass as it is,
which would become green. TIAToolbox's Vahadane is not usable with the scikit-learn of today, as it says
itself (of its own target image it gives a stain of negative density); here the same sparse, non-negative factors are found
by scikit-learn's dictionary learning over the pixels.
"""

import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import Field

from models.settings import Settings
from preprocessing.io.fingerprints import file_fingerprint
from preprocessing.tiling.quality import find_glass

TileImage: TypeAlias = UInt8[np.ndarray, "h w 3"]
Normaliser: TypeAlias = Callable[[TileImage], TileImage]
SPARSITY = 0.1  # of Vahadane's factors, as the authors set it
DICTIONARY_PIXELS = 20_000  # a stain has three numbers: more pixels change nothing
PIXEL_STEP = 4  # every fourth pixel, either way, is looked at


class StainConfig(Settings):
    """Whether and how the stain is normalised."""

    method: Literal["none", "macenko", "vahadane", "reinhard"] = Field("none", description="none: colours as scanned")
    target: Path | None = Field(
        None, description="image of stained tissue whose colours all slides get; default: TIAToolbox's target image"
    )


def stain_recipe(config: StainConfig) -> dict[str, Any] | None:
    """What the features depend on, the target by its bytes; None where colours stay as scanned."""
    if config.method == "none":
        return None
    target = None if config.target is None else file_fingerprint(config.target)
    return {"method": config.method, "target": target, "tiatoolbox": version("tiatoolbox")}


def fit_normaliser(config: StainConfig, tiles: UInt8[np.ndarray, "n h w 3"]) -> tuple[Normaliser | None, str]:
    """What changes the tiles of one slide, and, where its stains cannot be told apart, None and why: its colours then stay.

    Args:
        config: a method other than none.
        tiles: a sample of the slide's.
    """
    image = tiles[:, ::PIXEL_STEP, ::PIXEL_STEP].reshape(1, -1, 3)
    try:
        if config.method == "reinhard":
            return _reinhard(_target(config), image), ""
        return _by_stains(config, image), ""
    except (ValueError, np.linalg.LinAlgError) as error:
        return None, f"stain not normalised: {config.method} finds no two stains ({error})"


def _target(config: StainConfig) -> TileImage:
    if config.target is not None:
        return np.asarray(Image.open(config.target).convert("RGB"))
    from tiatoolbox.data import stain_norm_target

    return stain_norm_target()


def _by_stains(config: StainConfig, image: TileImage) -> Normaliser:
    """Amounts of the slide's two stains, in the target's colours, and as much of each as in the target at most."""
    target = _target(config)[::PIXEL_STEP, ::PIXEL_STEP]
    stains = {"macenko": _macenko, "vahadane": _vahadane}[config.method]
    own, wanted = stains(image), stains(target)
    to_amounts = np.linalg.pinv(own)  # (3, 2)
    most = np.percentile(_density(image) @ to_amounts, 99, axis=0)
    most_wanted = np.percentile(_density(target) @ np.linalg.pinv(wanted), 99, axis=0)
    if not (most > 0).all():
        raise ValueError(f"the largest amounts are {most[0]:.3g} and {most[1]:.3g}")
    change = (to_amounts * (most_wanted / most) @ wanted).astype(np.float32)  # (3, 3), from density to density

    def normalise(tile: TileImage) -> TileImage:
        density = _density(tile) @ change
        return (255 * np.exp(-density)).clip(0, 255).astype(np.uint8).reshape(tile.shape)

    return normalise


def _density(image: TileImage) -> Float[np.ndarray, "n 3"]:
    """Natural optical density of each pixel."""
    return -np.log(np.maximum(image.reshape(-1, 3), 1).astype(np.float32) / 255)


def _macenko(image: TileImage) -> Float[np.ndarray, "2 3"]:
    from tiatoolbox.tools.stainextract import MacenkoExtractor

    return _require_stains(MacenkoExtractor().get_stain_matrix(image))


def _vahadane(image: TileImage) -> Float[np.ndarray, "2 3"]:
    """Vahadane et al., "Structure-preserving color normalization", IEEE Trans. Med. Imaging 35 (2016) 1962."""
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning
    from tiatoolbox.utils.misc import get_luminosity_tissue_mask

    density = _density(image)[get_luminosity_tissue_mask(image, threshold=0.8).reshape(-1)]
    density = density[np.linspace(0, len(density) - 1, min(len(density), DICTIONARY_PIXELS)).astype(int)]
    learner = MiniBatchDictionaryLearning(
        n_components=2, alpha=SPARSITY, fit_algorithm="cd", positive_code=True, positive_dict=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of single pixels' amounts, at the seventh digit
        stains = learner.fit(density).components_
    return _require_stains(stains[np.argsort(-stains[:, 0])])  # haematoxylin, which takes more of the red, first


def _require_stains(stains: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    lengths = np.linalg.norm(stains, axis=1, keepdims=True)
    if not np.isfinite(stains).all() or (lengths <= 0).any():
        raise ValueError("a stain without a colour")
    unit = stains / lengths
    if abs(unit[0] @ unit[1]) > 0.9999:
        raise ValueError("both have one colour")
    return unit


def _reinhard(target: TileImage, image: TileImage) -> Normaliser:
    from tiatoolbox.tools.stainnorm import ReinhardNormalizer

    toolbox = ReinhardNormalizer()
    means, deviations = toolbox.get_mean_std(_stained(image))
    wanted_means, wanted_deviations = toolbox.get_mean_std(_stained(target))
    if min(deviations) <= 0:
        raise ValueError("all pixels have one colour")

    def normalise(tile: TileImage) -> TileImage:
        channels = zip(toolbox.lab_split(tile), means, deviations, wanted_means, wanted_deviations, strict=True)
        changed = toolbox.merge_back(
            *((there - mean) * (want / has) + middle for there, mean, has, middle, want in channels)
        )
        return np.where(find_glass(tile)[..., None], tile, changed)

    return normalise


def _stained(image: TileImage) -> TileImage:
    """The pixels that are not bare glass, in one row."""
    pixels = image[~find_glass(image)]
    if not len(pixels):
        raise ValueError("nothing but glass")
    return pixels[None]
