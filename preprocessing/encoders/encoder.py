"""Patch encoders: a backbone and the transform it was trained with turn a tile into a patch feature."""

import logging
import pickle
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Float, Shaped, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from preprocessing.encoders.backbones import State
from preprocessing.encoders.catalogue import EncoderSpec, Pooling
from preprocessing.encoders.config import CPU_TILES, EncoderConfig, encoder_spec
from preprocessing.encoders.fuse_batchnorm import fuse_batch_norm
from preprocessing.encoders.timm_library import load_timm
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import fingerprint, weights_fingerprint
from preprocessing.io.gpu import is_memory_full

log = logging.getLogger(__name__)
CONNECTION_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]  # of all errors of the hub's HTTP client, httpx
# Errors of creating a model and loading its weights: files (including the hub's errors), the connection, weights that do
# not fit or a name that timm refuses, an invalid config.json, an invalid weight file.
LOADING_ERRORS = (
    OSError, CONNECTION_ERROR, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError,
    MemoryError,
)  # fmt: skip


class Encoder:
    """A backbone with its weights and its transform.

    Attributes:
        fingerprint: of the weights and of everything else that determines a tile's feature.
        dim: length of a feature vector.
        transform: input size in pixels, interpolation, mean and standard deviation, as plain JSON values.
    """

    def __init__(self, model: Any, config: EncoderConfig, pooling: Pooling, device: str = "cpu") -> None:
        data = load_timm().data.resolve_model_data_config(model)
        self.config, self.pooling, self.device = config.settled(device), pooling, torch.device(device)
        self.transform: dict[str, Any] = {
            "input_px": int(data["input_size"][-1]),
            "interpolation": "bilinear" if data["interpolation"] == "bilinear" else "bicubic",
            "mean": list(data["mean"]),
            "std": list(data["std"]),
        }
        self.weights = weights_fingerprint(model.state_dict())
        name = (
            config.name.partition(":")[0] if config.name.startswith("local-dir:") else config.name
        )  # without its path
        parts = (name, _structure(model), self.weights, self.transform, pooling, self.config.precision)
        self.fingerprint = fingerprint(*parts)
        self.model = self._fused(model.eval().requires_grad_(False))
        if self._half is not None:
            _cast_weights(self.model, self._half)
        self.model.to(self.device, memory_format=torch.channels_last)
        # Repeated along a row of interleaved pixels, which is long enough for vector instructions.
        mean, std = (
            torch.tensor(data[name], device=device).repeat(self.transform["input_px"]) for name in ("mean", "std")
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self._at_once = sys.maxsize  # tiles, on a GPU
        with torch.inference_mode():
            empty = torch.zeros(1, 32, 32, 3, dtype=torch.uint8, device=device)
            self.feature_shape = tuple(self._features(empty).shape[1:])
        self.dim = self.feature_shape[-1]

    @property
    def _half(self) -> torch.dtype | None:
        """The type of half precision that the backbone computes in; None for float32."""
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.config.precision)

    def _fused(self, model: Any) -> Any:
        side = self.transform["input_px"]
        return fuse_batch_norm(model, torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))

    def describe(self) -> dict[str, Any]:
        """Return the metadata of the encoder that features and models are stored with."""
        return {
            **self.config.model_dump(mode="json"),
            "pooling": self.pooling,
            "weights_fingerprint": self.weights,
            "transform": self.transform,
            "dim": self.dim,
            "trained_at_mpp": list(encoder_spec(self.config.name).mpp),
            "fingerprint": self.fingerprint,
        }

    def embed(self, tiles: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B D"]:
        """Return the patch features, float32, of tiles in memory."""
        return self(torch.from_numpy(tiles).to(self.device)).cpu().numpy()

    @torch.inference_mode()
    def __call__(self, tiles: UInt8[Tensor, "B H W 3"], *, at_once: int | None = None) -> Float[Tensor, "B D"]:
        """Return the patch features, float32. Each tile is resized to the encoder's input; nothing is cropped.

        A tile's feature does not depend on the other tiles: batches have few sizes, on the CPU a single one, and are padded with
        empty tiles. For each size cuDNN prepares the kernels of a network anew, which takes it a second or two.

        Args:
            tiles: RGB, on the encoder's device.
            at_once: most tiles that a GPU computes together; None: all of them. Where its memory is too small, the batch is
                halved from then on.

        Raises:
            torch.OutOfMemoryError: not even one tile fits.
        """
        if self.device.type == "cpu":
            return self._in_batches(tiles, CPU_TILES)
        while True:
            size = min(at_once or len(tiles), self._at_once, 1 << (len(tiles) - 1).bit_length())
            try:
                return self._in_batches(tiles, size)
            except RuntimeError as error:
                if size == 1 or not is_memory_full(error):
                    raise
                self._at_once = size // 2
                log.warning("GPU out of memory: the batch is reduced to %d tiles", self._at_once)
            torch.cuda.empty_cache()  # after the except block: the error keeps its tensors alive

    def _in_batches(self, tiles: UInt8[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B D"]:
        padded = F.pad(tiles, (0, 0, 0, 0, 0, 0, 0, -len(tiles) % size))
        return torch.cat([self._features(part) for part in padded.split(size)])[: len(tiles)]

    def _features(self, tiles: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        side = self.transform["input_px"]
        batch = tiles.permute(0, 3, 1, 2)  # channels last in memory
        batch = resize(batch if self.device.type == "cpu" else batch.float(), side, self.transform["interpolation"])
        rows = batch.permute(0, 2, 3, 1).reshape(len(batch), side, 3 * side).float()
        batch = rows.mul_(self._scale).add_(self._shift).view(len(batch), side, side, 3).permute(0, 3, 1, 2)
        with torch.autocast(self.device.type, self._half or torch.bfloat16, enabled=self._half is not None):
            return self._pool(batch).float()

    def _pool(self, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        if self.pooling == "default":
            return self.model(batch)
        tokens = self.model.forward_features(batch)
        mean = tokens[:, self.model.num_prefix_tokens :].mean(1)
        return {"cls": tokens[:, 0], "mean": mean, "cls+mean": torch.cat([tokens[:, 0], mean], 1)}[self.pooling]


def resize(tiles: Shaped[Tensor, "B 3 H W"], side: int, interpolation: str) -> Shaped[Tensor, "B 3 S S"]:
    """Return tiles with `side` × `side` pixels, in their dtype, with whole values from 0 to 255; antialiased.

    Bytes are resized by row, rounded, and resized by column, as by Pillow, with which most backbones were trained. Floats, since
    CUDA resizes no bytes, would be resized both ways at once: a fifth of all values would differ, some by 7, and features of
    efficientnet-lite0 by 1 %. In the same two steps, halves rounded up, up to 4 % of the values differ, by 1 or 2, and these
    features by 0.2 %.

    Args:
        tiles: uint8 or float32.
        side: of the encoder's input, in pixels.
        interpolation: bilinear or bicubic.
    """
    if tiles.shape[-2:] == (side, side):
        return tiles
    if not tiles.is_floating_point():
        return F.interpolate(tiles, (side, side), mode=interpolation, antialias=True)
    for size in ((tiles.shape[-2], side), (side, side)):
        tiles = F.interpolate(tiles, size, mode=interpolation, antialias=True).add_(0.5).floor_().clamp_(0, 255)
    return tiles


def _cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that autocast would otherwise cast at every step; it leaves all others unchanged, as does this."""
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Conv2d):  # subclasses may use their weights in other ways
            module.to(dtype)


@lru_cache(maxsize=2)
def load_encoder(config: EncoderConfig, device: str = "cpu") -> Encoder:
    """Return the encoder, loaded once per process: from its package, from `config.weights`, or from the model hub.

    Args:
        config: which encoder.
        device: "cpu" or "cuda".

    Raises:
        InputError: unknown name, weights that do not fit or yield features of another length, or a model hub that is
            unreachable or denies access.
    """
    spec = encoder_spec(config.name)
    pooling = config.pooling or spec.pooling
    model = _create(spec, config)
    if pooling != "default" and not hasattr(model, "num_prefix_tokens"):
        raise InputError(f'encoder: {config.name} has no tokens to pool by "{pooling}"; remove encoder.pooling')
    if "cls" in pooling and getattr(model, "cls_token", None) is None:
        raise InputError(f'encoder: {config.name} has no class token to pool by "{pooling}"; set encoder.pooling=mean')
    encoder = Encoder(model, config, pooling, device)
    if encoder.feature_shape != (encoder.dim,):
        raise InputError(
            f"encoder: {config.name} returns shape {encoder.feature_shape} per tile, not a vector; set encoder.pooling to cls, "
            "mean or cls+mean"
        )
    if spec.dim and pooling == spec.pooling and encoder.dim != spec.dim:
        source = config.weights or spec.hub or spec.timm_name
        raise InputError(
            f"encoder: {config.name} has features of length {spec.dim}, but {source} yields length {encoder.dim}"
        )
    return encoder


def backbone(spec: EncoderSpec, source: str | None = None) -> Any:
    """Return the backbone of an entry, without a classifier.

    Args:
        spec: the entry.
        source: name under which timm finds weights that it can load; None: random weights.
    """
    timm = load_timm()
    # Created with its classifier, if any: without it timm would silently accept weights that do not fit.
    model: Any = timm.create_model(source or spec.timm_name, pretrained=source is not None, **spec.options)
    if model.num_classes:
        model.reset_classifier(0)
    model = spec.adapt(model) if spec.adapt else model
    model.pretrained_cfg = {**model.pretrained_cfg, **spec.transform}
    return model


def _create(spec: EncoderSpec, config: EncoderConfig) -> Any:
    """The backbone with all its weights."""
    folder = config.weights if config.weights and config.weights.is_dir() else None
    by_timm = spec.file is None and (bool(folder) or (config.weights is None and spec.packaged_weights is None))
    state = None if by_timm else _weights(spec, config)
    source = f"local-dir:{folder}" if folder else f"hf-hub:{spec.hub}" if spec.hub else spec.timm_name
    try:
        model = backbone(spec, source if by_timm else None)
    except LOADING_ERRORS as error:
        raise InputError(_unavailable(config, spec, error)) from error
    if state is not None:
        _load_strictly(model, state, config, _source(spec, config))
    return model


def _weights(spec: EncoderSpec, config: EncoderConfig) -> State:
    """Weights from a package or a file, under the backbone's names."""
    if config.weights is None and spec.packaged_weights:
        return spec.packaged_weights()
    state = _local_weights(_weight_file(spec, config))
    try:
        return spec.rename(state) if spec.rename else state
    except LOADING_ERRORS as error:
        raise InputError(f"encoder: {_source(spec, config)} do not fit {config.name}: {error}") from error


def _weight_file(spec: EncoderSpec, config: EncoderConfig) -> Path:
    """The weight file: the user's, the one in the user's folder, or the hub's."""
    if config.weights:
        return config.weights / spec.file if spec.file and config.weights.is_dir() else config.weights
    try:
        return Path(huggingface_hub.hf_hub_download(str(spec.hub), str(spec.file)))
    except LOADING_ERRORS as error:
        raise InputError(_unavailable(config, spec, error)) from error


def _source(spec: EncoderSpec, config: EncoderConfig) -> str:
    packaged = "the packaged weights" if spec.packaged_weights else f"the weights of {spec.hub}"
    return str(config.weights or packaged)


def _local_weights(path: Path) -> State:
    if not path.is_file():
        raise InputError(f"encoder: weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"encoder: weights {path} contain more than weights and are not loaded: {reason}") from None
    except LOADING_ERRORS as error:
        raise InputError(f"encoder: weights {path} cannot be read: {error}") from None
    for key in ("state_dict", "model", "teacher"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"encoder: weights {path} are not a state dict (tensors by name)")
    return state


def _load_strictly(model: nn.Module, state: State, config: EncoderConfig, source: str) -> None:
    """Load weights that match the backbone's exactly; only those of a classifier may be left over."""
    expected = model.state_dict()
    head = tuple(f"{name}." for name in ("classifier", "head", "fc"))
    problems = {
        "missing": [name for name in expected if name not in state],
        "unknown": [name for name in state if name not in expected and not name.startswith(head)],
        "of another shape": [name for name in expected if name in state and expected[name].shape != state[name].shape],
    }
    if any(problems.values()):
        listed = (f"{len(names)} weights {what} ({', '.join(names[:3])})" for what, names in problems.items() if names)
        raise InputError(f"encoder: {source} do not fit {config.name}: {', '.join(listed)}")
    model.load_state_dict({name: state[name] for name in expected})


def _unavailable(config: EncoderConfig, spec: EncoderSpec, error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    if "client has been closed" in reason:
        reason = "no connection to the model hub"  # the message of huggingface_hub's second attempt
    if (config.weights and config.weights.is_dir()) or spec.timm_name.startswith("local-dir:"):
        return f"encoder: {config.name} could not be loaded from {config.weights or spec.timm_name}: {reason[:300]}"
    repository = spec.hub or spec.timm_name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    copy = "download its repository (config.json and the weights) elsewhere and set --encoder-weights FOLDER"
    if spec.file:
        copy = f"download its {spec.file} elsewhere and set --encoder-weights FILE"
    return (
        f"encoder: {config.name} could not be loaded ({reason[:300]}). If its weights are gated, request access on the page of "
        f"{repository} at the model hub and log in with `hf auth login`; without a network, {copy}; or use --encoder "
        "efficientnet-lite0, which needs no download"
    )


def _structure(model: nn.Module) -> list[Any]:
    """The architecture of a backbone: each module's type and plain settings (sizes, pooling, epsilons …).

    Read from the model itself, so that it is complete whatever set an option: the table, a config.json, timm.
    """
    passing = ("_", "training", "fused_attn", "grad_checkpointing")  # state of the process, not the arithmetic
    return [
        [
            name,
            type(module).__name__,
            {k: v for k, v in vars(module).items() if not k.startswith(passing) and _is_plain(v)},
        ]
        for name, module in model.named_modules()
    ]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
