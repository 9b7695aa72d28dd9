"""Patch encoders: a backbone turns a tile into a patch feature, with the transform that its weights were trained with."""

import logging
import pickle
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import httpx
import huggingface_hub
import numpy as np
import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from models.registry import nearest
from models.settings import Settings
from preprocessing.features.encoder_table import ENCODERS, EncoderSpec, Pooling, State
from preprocessing.features.fuse_batchnorm import fold_batch_norm
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import fingerprint, weights_fingerprint

log = logging.getLogger(__name__)
CPU_TILES = 16  # computed at once, always: another number can round the same tile otherwise
# What making a model and reading its weights ends with: files (the hub's own errors among them), the connection, weights
# that do not fit or a name that timm refuses, an unsound config.json, an unsound weight file.
LOADING_ERRORS = (
    OSError, httpx.HTTPError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError,
    MemoryError,
)  # fmt: skip


class EncoderConfig(Settings):
    """Which encoder, and how it is used. All of it is part of a feature's recipe.

    `weights` is a file (safetensors or a torch state dict), or a folder that is a copy of a repository of the model hub.
    `precision` is that of the backbone's convolutions and linear layers; auto: bfloat16 where the processor computes in it.
    """

    name: str = "efficientnet-lite0"
    weights: Path | None = None
    pooling: Pooling | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def settled(self, device: str) -> "EncoderConfig":
        """The same with the precision that this machine's device is to use: what features are known by."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": "bfloat16" if _computes_in_bfloat16(device) else "float32"})


def _computes_in_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def encoder_spec(name: str) -> EncoderSpec:
    """A named encoder of this project, or any name that timm knows; raises InputError with the nearest known one."""
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(name.split(".", maxsplit=1)[0]):
        return EncoderSpec(name)
    raise InputError(
        f'encoder: unknown name "{name}": {nearest(name, [*ENCODERS, *timm.list_models(pretrained=True)])[:300]}'
    )


class Encoder:
    """A backbone with its weights and its transform.

    Attributes:
        fingerprint: of the weights and of everything that turns a tile into its feature.
        dim: width of a feature.
        transform: input size in pixels, interpolation, mean and standard deviation, as JSON.
    """

    def __init__(self, model: Any, config: EncoderConfig, pooling: Pooling, device: str = "cpu") -> None:
        data = timm.data.resolve_model_data_config(model)
        self.config, self.pooling, self.device = config.settled(device), pooling, torch.device(device)
        self.transform: dict[str, Any] = {
            "input_px": int(data["input_size"][-1]),
            "interpolation": "bilinear" if data["interpolation"] == "bilinear" else "bicubic",
            "mean": list(data["mean"]),
            "std": list(data["std"]),
        }
        self.weights = weights_fingerprint(model.state_dict())
        name = config.name.partition(":")[0] if config.name.startswith("local-dir:") else config.name  # no path counts
        parts = (name, _structure(model), self.weights, self.transform, pooling, self.config.precision)
        self.fingerprint = fingerprint(*parts)
        self.model = self._folded(model.eval().requires_grad_(False))
        if self.config.precision == "bfloat16":
            _shorten(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        # As rows of pixels, red, green, blue: a row long enough for the processor's vectors.
        mean, std = (
            torch.tensor(data[name], device=device).repeat(self.transform["input_px"]) for name in ("mean", "std")
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self._at_once = sys.maxsize  # tiles, on a GPU
        with torch.inference_mode():
            empty = torch.zeros(1, 32, 32, 3, dtype=torch.uint8, device=device)
            self.feature_shape = tuple(self._features(empty).shape[1:])
        self.dim = self.feature_shape[-1]

    def _folded(self, model: Any) -> Any:
        side = self.transform["input_px"]
        return fold_batch_norm(model, torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))

    def describe(self) -> dict[str, Any]:
        """What a feature's or a model's description says of its encoder."""
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
        """Patch features, float32, of tiles in memory."""
        return self(torch.from_numpy(tiles).to(self.device)).cpu().numpy()

    @torch.inference_mode()
    def __call__(self, tiles: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Patch features, float32. Each tile is resized whole to the encoder's input: nothing is cropped away.

        A tile's feature does not depend on the others: the CPU takes always as many at once, empty ones among them if need
        be. A GPU takes all, or, when its memory is too small, halves, and goes on so.

        Args:
            tiles: on the encoder's device.

        Raises:
            torch.OutOfMemoryError: not even one tile fits.
        """
        if self.device.type == "cpu":
            padded = F.pad(tiles, (0, 0, 0, 0, 0, 0, 0, -len(tiles) % CPU_TILES))
            return torch.cat([self._features(part) for part in padded.split(CPU_TILES)])[: len(tiles)]
        return self._as_memory_allows(tiles)

    def _as_memory_allows(self, tiles: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        while True:
            at_once = min(self._at_once, len(tiles))
            try:
                return torch.cat([self._features(part) for part in tiles.split(at_once)])
            except torch.OutOfMemoryError:
                if at_once == 1:
                    raise
                self._at_once = at_once // 2
                log.warning("the GPU's memory is short: %d tiles at once from now on", self._at_once)
            torch.cuda.empty_cache()  # behind the error, which holds on to what it was computing

    def _features(self, tiles: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        batch = tiles.permute(0, 3, 1, 2)  # channels last in memory
        side = self.transform["input_px"]
        if batch.shape[-2:] != (side, side):
            batch = batch if self.device.type == "cpu" else batch.float()  # CUDA resizes floats only
            batch = F.interpolate(batch, (side, side), mode=self.transform["interpolation"], antialias=True)
            batch = batch.round().clamp(0, 255) if batch.is_floating_point() else batch
        rows = batch.permute(0, 2, 3, 1).reshape(len(batch), side, 3 * side).float()
        batch = rows.mul_(self._scale).add_(self._shift).view(len(batch), side, side, 3).permute(0, 3, 1, 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self._pool(batch).float()

    def _pool(self, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        if self.pooling == "default":
            return self.model(batch)
        tokens = self.model.forward_features(batch)
        mean = tokens[:, self.model.num_prefix_tokens :].mean(1)
        return {"cls": tokens[:, 0], "mean": mean, "cls+mean": torch.cat([tokens[:, 0], mean], 1)}[self.pooling]


def _shorten(model: nn.Module) -> None:
    """Weights that autocast would cast again at every step; it leaves the others as they are, and so does this."""
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Conv2d):  # others may compute with their weights
            module.to(torch.bfloat16)


@lru_cache(maxsize=2)
def load_encoder(config: EncoderConfig, device: str = "cpu") -> Encoder:
    """The encoder, loaded once a process; from its package, from `config.weights`, or from the model hub.

    Args:
        config: which one.
        device: "cpu" or "cuda".

    Raises:
        InputError: unknown name, weights that do not fit or give features of another width, or a hub that is out of reach
            or asks for permission.
    """
    spec = encoder_spec(config.name)
    pooling = config.pooling or spec.pooling
    model = _create(spec, config)
    if pooling != "default" and not hasattr(model, "num_prefix_tokens"):
        raise InputError(f'encoder: {config.name} has no tokens to pool by "{pooling}"; leave pooling out')
    if "cls" in pooling and getattr(model, "cls_token", None) is None:
        raise InputError(f'encoder: {config.name} has no class token to pool by "{pooling}"; give pooling mean')
    encoder = Encoder(model, config, pooling, device)
    if encoder.feature_shape != (encoder.dim,):
        raise InputError(
            f"encoder: {config.name} gives {encoder.feature_shape} numbers a tile, not a vector; give pooling cls, mean or cls+mean"
        )
    if spec.dim and pooling == spec.pooling and encoder.dim != spec.dim:
        source = config.weights or spec.hub or spec.timm_name
        raise InputError(f"encoder: {config.name} gives {spec.dim} numbers a tile, but {source} gives {encoder.dim}")
    return encoder


def backbone(spec: EncoderSpec, source: str | None = None) -> Any:
    """The backbone of an entry, without a classifier.

    Args:
        spec: the entry.
        source: what timm calls the place of weights that it can load; None: random weights.
    """
    # With its classifier, if it has one: else timm would take weights that do not fit without a word.
    model: Any = timm.create_model(source or spec.timm_name, pretrained=source is not None, **spec.options)
    if model.num_classes:
        model.reset_classifier(0)
    model = spec.adapt(model) if spec.adapt else model
    model.pretrained_cfg = {**model.pretrained_cfg, **spec.transform}
    return model


def _create(spec: EncoderSpec, config: EncoderConfig) -> Any:
    """The backbone with its weights, all of them."""
    folder = config.weights if config.weights and config.weights.is_dir() else None
    by_timm = spec.file is None and (bool(folder) or (config.weights is None and spec.packaged_weights is None))
    state = None if by_timm else _weights(spec, config)
    place = f"local-dir:{folder}" if folder else f"hf-hub:{spec.hub}" if spec.hub else spec.timm_name
    try:
        model = backbone(spec, place if by_timm else None)
    except LOADING_ERRORS as error:
        raise InputError(_unavailable(config, spec, error)) from error
    if state is not None:
        _load_strictly(model, state, config, _source(spec, config))
    return model


def _weights(spec: EncoderSpec, config: EncoderConfig) -> State:
    """Weights of a package or of a file, named as the backbone names them."""
    if config.weights is None and spec.packaged_weights:
        return spec.packaged_weights()
    state = _local_weights(_weight_file(spec, config))
    try:
        return spec.rename(state) if spec.rename else state
    except LOADING_ERRORS as error:
        raise InputError(f"encoder: {_source(spec, config)} do not fit {config.name}: {error}") from error


def _weight_file(spec: EncoderSpec, config: EncoderConfig) -> Path:
    """The user's file, that of the user's folder, or that of the hub."""
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
        raise InputError(f"encoder: weights {path} hold more than weights, and are not opened: {reason}") from None
    except LOADING_ERRORS as error:
        raise InputError(f"encoder: weights {path} cannot be read: {error}") from None
    for key in ("state_dict", "model", "teacher"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"encoder: weights {path} are not a table of weights by name (a state dict)")
    return state


def _load_strictly(model: nn.Module, state: State, config: EncoderConfig, source: str) -> None:
    """Every weight of the backbone must be there; only a classifier that the backbone lacks may be left over."""
    own = model.state_dict()
    head = tuple(f"{name}." for name in ("classifier", "head", "fc"))
    problems = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own and not name.startswith(head)],
        "of another shape": [name for name in own if name in state and own[name].shape != state[name].shape],
    }
    if any(problems.values()):
        told = (f"{len(names)} weights {what} ({', '.join(names[:3])})" for what, names in problems.items() if names)
        raise InputError(f"encoder: {source} do not fit {config.name}: {', '.join(told)}")
    model.load_state_dict({name: state[name] for name in own})


def _unavailable(config: EncoderConfig, spec: EncoderSpec, error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    if "client has been closed" in reason:
        reason = "no connection to the model hub"  # so ends huggingface_hub's second attempt
    if (config.weights and config.weights.is_dir()) or spec.timm_name.startswith("local-dir:"):
        return f"encoder: {config.name} could not be loaded from {config.weights or spec.timm_name}: {reason[:300]}"
    repository = spec.hub or spec.timm_name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    copy = "copy its repository (config.json and the weights) from elsewhere and give --encoder-weights FOLDER"
    if spec.file:
        copy = f"copy its {spec.file} from elsewhere and give --encoder-weights FILE"
    return (
        f"encoder: {config.name} could not be loaded ({reason[:300]}). If its weights are gated, ask for access on the page of "
        f"{repository} at the model hub and log in with `hf auth login`; without a network, {copy}; or use --encoder "
        "efficientnet-lite0, which needs no download"
    )


def _structure(model: nn.Module) -> list[Any]:
    """What a backbone computes besides its weights: each module's kind and plain settings (sizes, pooling, epsilons …).

    Read off the model, so that nothing is forgotten, wherever an option came from: the table, a config.json, timm.
    """
    passing = ("_", "training", "fused_attn", "grad_checkpointing")  # of the moment and the machine, not the arithmetic
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
