"""The patch encoders of the field, one entry each: source of the weights, architecture, transform, licence, paper.

The table's transform overrides the one in a model's config.json on the hub, since several of those describe the
architecture's ImageNet weights. Facts come from the model cards and papers; what they leave open is None: unknown.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from models.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from preprocessing.encoders.backbones import State

Pooling = Literal["default", "cls", "mean", "cls+mean"]


@dataclass(frozen=True)
class EncoderSpec:
    """How a named encoder is built, where its weights come from, and what it was trained on.

    Attributes:
        timm_name: a timm architecture, or `hf-hub:…`, `local-dir:…`.
        options: arguments of `timm.create_model` besides the name.
        pooling: how tokens become one vector ("default": as the model does).
        hub: repository of the model hub with the weights; None: those that timm has for the name.
        file: weight file of that repository, where it is not in timm's format.
        rename: converts the names in such a file, or in a file of the user, to the backbone's.
        adapt: modifies the backbone so that it returns the features that the authors use.
        transform: input size, mean, standard deviation and interpolation, under timm's names.
        dim: length of a feature vector; None: known only once the model is built.
        mpp: resolutions of the training tiles, µm/px; empty: unknown, or none in particular.
        tile_px: side of the training tiles in pixels at `mpp`; None: unknown.
        licence: of the weights, as their card names it; None: unknown.
        paper: where the encoder is described, as a DOI, an arXiv number or a reference; None: unknown.
        aliases: other names that people and tools use; see `find_encoder`.
        packaged_weights: loads weights from a Python package instead of downloading them.
    """

    timm_name: str
    options: dict[str, Any] = field(default_factory=dict)
    pooling: Pooling = "default"
    hub: str | None = None
    file: str | None = None
    rename: Callable[["State"], "State"] | None = None
    adapt: Callable[[Any], "nn.Module"] | None = None
    transform: dict[str, Any] = field(default_factory=dict)
    dim: int | None = None
    mpp: tuple[float, ...] = ()
    tile_px: int | None = None
    licence: str | None = None
    paper: str | None = None
    aliases: tuple[str, ...] = ()
    packaged_weights: Callable[[], "State"] | None = None


def _transform(side: int, interpolation: str, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    return {"input_size": (3, side, side), "interpolation": interpolation, "mean": mean, "std": std}


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_20X: tuple[float, ...] = (0.5,)
_5X_TO_40X = (0.25, 0.5, 1.0, 2.0)


def _backbone_part(name: str) -> Callable[..., Any]:
    """Return the function or class of `preprocessing.encoders.backbones`, which is imported when it is first called.

    So the table is read without torch, which takes seconds to import; as without timm in `_swiglu`.
    """

    def call(*arguments: Any, **options: Any) -> Any:
        from preprocessing.encoders import backbones

        return getattr(backbones, name)(*arguments, **options)

    return call


def _swiglu(*arguments: Any, **options: Any) -> "nn.Module":
    """timm's packed SwiGLU."""
    from timm.layers import SwiGLUPacked

    return SwiGLUPacked(*arguments, **options)


_SWIGLU = {"mlp_layer": _swiglu, "act_layer": "silu"}
_UNI2_H = _SWIGLU | dict(
    img_size=224, patch_size=14, depth=24, num_heads=24, init_values=1e-5, embed_dim=1536, mlp_ratio=2.66667 * 2,
    num_classes=0, no_embed_class=True, reg_tokens=8, dynamic_img_size=True,
)  # fmt: skip
_VIRCHOW = _SWIGLU | dict(img_size=224, init_values=1e-5, mlp_ratio=5.3375, global_pool="", dynamic_img_size=True)
_H_OPTIMUS = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}


def _kaiko(name_of_size: str, size: str, dim: int, name: str = "", **options: Any) -> EncoderSpec:
    """Card of each repository: 224 px, bilinear, mean and deviation 0.5; its config.json has ImageNet's (and 518 px for L/14)."""
    return EncoderSpec(
        name or f"vit_{size}_224",
        options,
        hub=f"1aurent/vit_{size}_224.kaiko_ai_towards_large_pathology_fms",
        transform=_transform(224, "bilinear", *_HALF),
        dim=dim,
        mpp=_5X_TO_40X,
        licence="kaiko non-commercial",
        paper="arXiv:2404.15217",
        aliases=(f"kaiko-vit{name_of_size}",),
    )


def _lunit(size: str, *aliases: str) -> EncoderSpec:
    """Kang et al., CVPR 2023 (20x and 40x). Mean and deviation: its repository benchmark-ssl-pathology, not config.json."""
    return EncoderSpec(
        f"vit_small_{size}_224",
        hub=f"1aurent/vit_small_{size}_224.lunit_dino",
        transform=_transform(224, "bicubic", *_LUNIT),
        dim=384,
        mpp=(0.25, 0.5),
        licence="Lunit non-commercial",
        paper="arXiv:2212.04690",
        aliases=aliases,
    )


def _hibou(name: str, hub: str, dim: int, mlp_ratio: float, *aliases: str) -> EncoderSpec:
    """config.json and preprocessor_config.json of each repository; SwiGLU of 2/3 the usual width, in steps of 8."""
    return EncoderSpec(
        name,
        _SWIGLU | {"img_size": 224, "mlp_ratio": mlp_ratio},
        hub=hub,
        file="model.safetensors",
        rename=_backbone_part("rename_dinov2"),
        transform=_transform(224, "bicubic", *_HIBOU),
        dim=dim,
        licence="Apache-2.0",
        paper="arXiv:2406.05074",
        aliases=aliases,
    )


ENCODERS = Registry(
    "encoder",
    {
        "efficientnet-lite0": EncoderSpec(
            "tf_efficientnet_lite0",
            dim=1280,
            licence="Apache-2.0",
            paper="Tan & Le, ICML 2019, arXiv:1905.11946",
            packaged_weights=_backbone_part("lite0_weights"),
        ),
        # CLAM (Lu et al., Nature Biomedical Engineering 2021): ImageNet, cut off after the third stage.
        "resnet50": EncoderSpec(
            "resnet50.tv_in1k",
            rename=_backbone_part("drop_last_stage"),
            adapt=_backbone_part("without_last_stage"),
            dim=1024,
            licence="BSD-3-Clause",
            paper="He et al., CVPR 2016, arXiv:1512.03385",
            aliases=("resnet50-trunc", "resnet50-imagenet"),
        ),
        # Card of MahmoodLab/UNI.
        "uni": EncoderSpec(
            "vit_large_patch16_224",
            {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
            hub="MahmoodLab/UNI",
            transform=_transform(224, "bilinear", *_IMAGENET),
            dim=1024,
            mpp=_20X,
            tile_px=256,
            licence="CC-BY-NC-ND-4.0",
            paper="doi:10.1038/s41591-024-02857-3",
            aliases=("uni-v1", "uni1", "mahmood-uni"),
        ),
        # Card of MahmoodLab/UNI2-h.
        "uni2-h": EncoderSpec(
            "vit_giant_patch14_224",
            _UNI2_H,
            hub="MahmoodLab/UNI2-h",
            transform=_transform(224, "bilinear", *_IMAGENET),
            dim=1536,
            mpp=_20X,
            licence="CC-BY-NC-ND-4.0",
            paper="Chen et al., UNI 2, card of MahmoodLab/UNI2-h; doi:10.1038/s41591-024-02857-3",
            aliases=("uni2", "uni-v2", "uni2h", "mahmood-uni2"),
        ),
        # github.com/mahmoodlab/CONCH, open_clip_custom. Trained on figures of articles too, without a common resolution.
        "conch": EncoderSpec(
            "vit_base_patch16_224",
            {"img_size": 448},
            hub="MahmoodLab/CONCH",
            file="pytorch_model.bin",
            rename=_backbone_part("rename_conch"),
            adapt=_backbone_part("pool_as_conch"),
            transform=_transform(448, "bicubic", *_CLIP),
            dim=512,
            licence="CC-BY-NC-ND-4.0",
            paper="doi:10.1038/s41591-024-02856-4",
            aliases=("conch-v1", "conch1", "conch-v1.0", "mahmood-conch"),
        ),
        # MahmoodLab/TITAN and TRIDENT, conchv1_5.py: tiles of 512 px at 20x, resized to 448 px.
        "conch-v1.5": EncoderSpec(
            "vit_large_patch16_224",
            {"img_size": 448, "init_values": 1.0},
            hub="MahmoodLab/conchv1_5",
            file="pytorch_model_vision.bin",
            rename=_backbone_part("rename_conch_v1_5"),
            adapt=_backbone_part("pool_as_conch_v1_5"),
            transform=_transform(448, "bilinear", *_IMAGENET),
            dim=768,
            mpp=_20X,
            tile_px=512,
            licence="CC-BY-NC-ND-4.0",
            paper="Ding et al., TITAN, arXiv:2411.19666",
            aliases=("conch1.5", "conch-v15", "mahmood-conch1.5"),
        ),
        # Cards of paige-ai/Virchow and Virchow2: class token and mean of the patch tokens, without Virchow2's registers.
        "virchow": EncoderSpec(
            "vit_huge_patch14_224",
            _VIRCHOW,
            "cls+mean",
            hub="paige-ai/Virchow",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=2560,
            mpp=_20X,
            tile_px=224,
            licence="Apache-2.0",
            paper="doi:10.1038/s41591-024-03141-0",
            aliases=("virchow1", "virchow-v1"),
        ),
        "virchow2": EncoderSpec(
            "vit_huge_patch14_224",
            _VIRCHOW | {"reg_tokens": 4},
            "cls+mean",
            hub="paige-ai/Virchow2",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=2560,
            mpp=_5X_TO_40X,
            licence="CC-BY-NC-ND-4.0",
            paper="arXiv:2408.00738",
            aliases=("virchow-v2",),
        ),
        # Card and config.json of prov-gigapath/prov-gigapath.
        "gigapath": EncoderSpec(
            "vit_giant_patch14_dinov2",
            {"img_size": 224, "patch_size": 16},
            hub="prov-gigapath/prov-gigapath",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=1536,
            mpp=_20X,
            tile_px=256,
            licence="Apache-2.0",
            paper="doi:10.1038/s41586-024-07441-w",
            aliases=("prov-gigapath",),
        ),
        # Cards and config.json of bioptimus/H-optimus-0, H-optimus-1 and H0-mini.
        "h-optimus-0": EncoderSpec(
            "vit_giant_patch14_reg4_dinov2",
            _H_OPTIMUS,
            hub="bioptimus/H-optimus-0",
            transform=_transform(224, "bicubic", *_BIOPTIMUS),
            dim=1536,
            mpp=_20X,
            tile_px=224,
            licence="Apache-2.0",
            paper="Saillard et al. 2024, github.com/bioptimus/releases",
            aliases=("optimus-0", "bioptimus-0"),
        ),
        "h-optimus-1": EncoderSpec(
            "vit_giant_patch14_reg4_dinov2",
            _H_OPTIMUS,
            hub="bioptimus/H-optimus-1",
            transform=_transform(224, "bicubic", *_BIOPTIMUS),
            dim=1536,
            mpp=_20X,
            tile_px=224,
            licence="CC-BY-NC-ND-4.0",
            paper="Bioptimus 2025, card of bioptimus/H-optimus-1",
            aliases=("optimus-1", "bioptimus-1"),
        ),
        "h0-mini": EncoderSpec(
            "vit_base_patch14_reg4_dinov2",
            _SWIGLU | dict(img_size=224, mlp_ratio=5.33334, global_pool="", dynamic_img_size=True),
            "cls",
            hub="bioptimus/H0-mini",
            transform=_transform(224, "bicubic", *_BIOPTIMUS),
            dim=768,
            mpp=_20X,
            tile_px=224,
            licence="CC-BY-NC-ND-4.0",
            paper="arXiv:2501.16239",
            aliases=("h-optimus-0-mini", "h-optimus-mini"),
        ),
        # config.json of the repository, which is owkin/phikon in timm's format.
        "phikon": EncoderSpec(
            "vit_base_patch16_224",
            hub="1aurent/vit_base_patch16_224.owkin_pancancer",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=768,
            mpp=_20X,
            tile_px=224,
            licence="Owkin non-commercial",
            paper="doi:10.1101/2023.07.21.23292757",
            aliases=("phikon-v1", "owkin/phikon", "owkin-phikon"),
        ),
        # Card and preprocessor_config.json of owkin/phikon-v2; a DINOv2 with patches of 16 px and no registers.
        "phikon-v2": EncoderSpec(
            "vit_large_patch16_224",
            {"img_size": 224, "init_values": 1.0},
            hub="owkin/phikon-v2",
            file="model.safetensors",
            rename=_backbone_part("rename_dinov2"),
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=1024,
            mpp=_20X,
            tile_px=224,
            licence="Owkin non-commercial",
            paper="arXiv:2409.09173",
            aliases=("phikon2",),
        ),
        "hibou-b": _hibou("vit_base_patch14_reg4_dinov2", "histai/hibou-b", 768, 4096 / 768 + 1e-5, "hibou-base"),
        "hibou-l": _hibou("vit_large_patch14_reg4_dinov2", "histai/hibou-L", 1024, 5472 / 1024, "hibou-large"),
        "kaiko-s8": _kaiko("s8", "small_patch8", 384),
        "kaiko-s16": _kaiko("s16", "small_patch16", 384),
        "kaiko-b8": _kaiko("b8", "base_patch8", 768),
        "kaiko-b16": _kaiko("b16", "base_patch16", 768),
        "kaiko-l14": _kaiko(
            "l14", "large_patch14_reg4", 1024, "vit_large_patch14_reg4_dinov2", img_size=518, dynamic_img_size=True
        ),
        # github.com/Xiyue-Wang/TransPath; the repository is its ctranspath.pth.
        "ctranspath": EncoderSpec(
            "swin_tiny_patch4_window7_224",
            {"embed_layer": _backbone_part("ConvStem")},
            hub="1aurent/swin_tiny_patch4_window7_224.CTransPath",
            file="model.safetensors",
            rename=_backbone_part("rename_swin"),
            transform=_transform(224, "bilinear", *_IMAGENET),
            dim=768,
            licence="GPL-3.0",
            paper="doi:10.1016/j.media.2022.102559",
            aliases=("ctp",),
        ),
        "lunit-dino": _lunit("patch16", "lunit-vits16", "lunit-dino-s16"),
        "lunit-dino-s8": _lunit("patch8", "lunit-vits8", "lunit-dino-vits8"),
    },
)


def find_encoder(name: str) -> str | None:
    """Return the name in the table of an encoder in another spelling ("UNI", "MahmoodLab/UNI2-h"); else None."""
    is_source = ":" in name  # hf-hub:…, local-dir:… name a repository or folder that is used as it is
    return name if name in ENCODERS else None if is_source else _SPELLINGS.get(_spelling(name))


def similar_encoder(name: str) -> str | None:
    """Return the table's name that a misspelt one probably means; None rather than another model.

    Versions are part of a name: one with other digits is never suggested.
    """
    spelt = _spelling(name)
    names = {_spelling(known): known for known in ENCODERS}
    alike = [known for known in names if re.findall(r"\d", known) == re.findall(r"\d", spelt)]
    close = difflib.get_close_matches(spelt, alike, n=2, cutoff=0.8)
    found = close or [known for known in names if known.startswith(spelt)]
    return names[found[0]] if len(spelt) > 3 and len(found) == 1 else None


def _spelling(name: str) -> str:
    """Letters and digits only, of a repository its name: "MahmoodLab/UNI2-h" and "uni2_h" are one."""
    return re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower())


_SPELLINGS = {
    _spelling(known): name
    for name, spec in reversed(ENCODERS.items())
    for known in (*([spec.hub] if spec.hub else []), *spec.aliases, name)
}
