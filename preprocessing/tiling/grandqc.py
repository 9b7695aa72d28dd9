"""The tissue detector GrandQC: a trained segmentation network, with weights that the user provides.

Weng et al., "GrandQC: A comprehensive solution to quality control problem in digital pathology", Nature Communications 15
(2024), doi:10.1038/s41467-024-54769-y. A UNet++ with an EfficientNet-B0 encoder separates tissue from background at 10 µm per
pixel. The architecture is TIAToolbox's. The authors license their weights for non-commercial use (CC BY-NC-SA 4.0), so that
nothing is downloaded here: the file is named by `tiles.tissue.settings.weights`.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from pydantic import Field, field_validator

from models.settings import Settings
from preprocessing.io.errors import InputError
from preprocessing.io.extras import extra, extra_version
from preprocessing.io.files import user_path, why_no_file
from preprocessing.io.fingerprints import file_fingerprint

Thumbnail: TypeAlias = UInt8[np.ndarray, "H W 3"]
Mask: TypeAlias = Bool[np.ndarray, "H W"]
MPP = 10.0  # resolution of the training images
PATCH_PX, STRIDE_PX = 512, 256  # as TIAToolbox runs it; the probabilities of overlapping patches are averaged
WHITE = 255  # fills up the last patches
TISSUE = 0  # channel of the network's output
REMEDY = (
    "give the file of GrandQC's tissue weights (Tissue_Detection_MPP10.pth, see github.com/cpath-ukk/grandqc for its licence) with "
    "--set tiles.tissue.settings.weights=FILE"
)


class GrandqcConfig(Settings):
    """Settings of the detector `grandqc`."""

    weights: Path | None = Field(None, validate_default=True, description="file of GrandQC's tissue detection weights")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which on a pixel is tissue")

    @field_validator("weights")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path:
        if value is None:
            raise InputError(f"tissue detector grandqc: no weights; {REMEDY}")
        return user_path(value).absolute()


def grandqc_recipe(config: GrandqcConfig) -> dict[str, Any]:
    """Return what decides a mask by GrandQC: the weights by their bytes, the threshold, and the version of TIAToolbox."""
    weights = _require_weights(config)
    known_by = (weights, weights.stat().st_mtime_ns, weights.stat().st_size)
    return {
        "detector": "grandqc",
        "weights": _fingerprint(*known_by),
        "threshold": config.threshold,
        "version": extra_version("tiatoolbox", "stain", "the tissue detector grandqc"),
    }


def detect_by_grandqc(thumbnail: Thumbnail, mpp: float, config: GrandqcConfig) -> Mask:
    """Find tissue with the network, at 10 µm per pixel, and return it at the thumbnail's size.

    Raises:
        InputError: weights that do not exist, cannot be read, or do not fit the network.
    """
    height, width = thumbnail.shape[:2]
    size = (max(1, round(width * mpp / MPP)), max(1, round(height * mpp / MPP)))
    image = np.asarray(
        Image.fromarray(thumbnail).resize(size, Image.Resampling.BOX if mpp < MPP else Image.Resampling.BILINEAR)
    )
    probability = Image.fromarray(_tissue_probability(image, _require_weights(config)))
    return np.asarray(probability.resize((width, height), Image.Resampling.BILINEAR)) >= config.threshold


def _require_weights(config: GrandqcConfig) -> Path:
    if config.weights is None or (problem := why_no_file(config.weights)):
        raise InputError(f"tissue detector grandqc: weights {config.weights}: the path {problem}; {REMEDY}")
    return config.weights


@lru_cache(maxsize=8)
def _fingerprint(path: Path, _modified_ns: int, _bytes: int) -> str:
    """Fingerprint of the file, which is read again only after a change, since every slide needs the recipe."""
    return file_fingerprint(path)


def _tissue_probability(image: Thumbnail, weights: Path) -> Float[np.ndarray, "H W"]:
    """The probability of tissue for each pixel of an image at 10 µm per pixel, float32, mean over overlapping patches."""
    import torch

    network = _load_network(weights, weights.stat().st_mtime_ns)
    height, width = image.shape[:2]
    rows, columns = _starts(height), _starts(width)
    filled = np.full((rows[-1] + PATCH_PX, columns[-1] + PATCH_PX, 3), WHITE, np.uint8)
    filled[:height, :width] = image
    total, count = (np.zeros(filled.shape[:2], np.float32) for _ in range(2))
    for top in rows:
        for left in columns:
            part = (slice(top, top + PATCH_PX), slice(left, left + PATCH_PX))
            pixels = torch.from_numpy(network.preproc(filled[part])).permute(2, 0, 1)[None].float()
            with torch.inference_mode():
                total[part] += network(pixels).softmax(1)[0, TISSUE].numpy()
            count[part] += 1
    return (total / count)[:height, :width]


def _starts(length: int) -> list[int]:
    """Where patches start so that they cover the length with half a patch of overlap."""
    return list(range(0, max(1, length - PATCH_PX + STRIDE_PX), STRIDE_PX))


@lru_cache(maxsize=1)
def _load_network(weights: Path, _modified_ns: int) -> Any:
    """The network with the user's weights, of which every one must fit."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with extra("stain", "the tissue detector grandqc"):
        from tiatoolbox.models.architecture.grandqc import GrandQCModel

    network = GrandQCModel(num_output_channels=2)
    try:
        is_safetensors = weights.suffix == ".safetensors"
        state = load_file(weights) if is_safetensors else torch.load(weights, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict", "model"):
            state = state[key] if isinstance(state, Mapping) and key in state else state
        if not isinstance(state, Mapping):
            raise InputError(f"tissue detector grandqc: weights {weights}: no table of weights; {REMEDY}")
        network.load_state_dict(state)
    except (OSError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:300]
        raise InputError(f"tissue detector grandqc: weights {weights} cannot be used: {reason}; {REMEDY}") from None
    return network.eval().requires_grad_(False)
