"""Each entry against published figures; what entries are made of against arithmetic written out."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from preprocessing.encoders.backbones import AttentionPooled, ConvStem, _conch_v1_5_positions
from preprocessing.encoders.catalogue import ENCODERS
from preprocessing.encoders.encoder import EncoderConfig, backbone, encoder_spec, load_encoder
from preprocessing.io.errors import InputError

# Millions of parameters, as the model cards and LazySlide's catalogue have them, or the size of the weight file over four.
# Conch's towers: ViT-B/16 and L/16 (85.80 and 303.35) with 588 more positions, and their poolers, counted by hand.
# ResNet-50: 25.557 of all, less 14.965 of the last stage and 2.049 of the classifier.
# Then the tokens before the patches' (class, registers) and the patches.
PUBLISHED = {
    "efficientnet-lite0": (4.652 - 1.281, 1280, None),
    "resnet50": (8.543, 1024, None),
    "uni": (303.4, 1024, (1, 196)),
    "uni2-h": (681.4, 1536, (9, 256)),
    "conch": (85.80 + 0.452 + 1.317, 512, None),
    "conch-v1.5": (303.35 + 0.602 + 2.758, 768, None),
    "virchow": (631.2, 2560, (1, 256)),
    "virchow2": (631.2, 2560, (5, 256)),
    "gigapath": (1134.954, 1536, (1, 196)),
    "h-optimus-0": (1134.8, 1536, (5, 256)),
    "h-optimus-1": (1134.8, 1536, (5, 256)),
    "h0-mini": (85.7, 768, (5, 256)),
    "phikon": (85.8, 768, (1, 196)),
    "phikon-v2": (303.4, 1024, (1, 196)),
    "hibou-b": (85.7, 768, (5, 256)),
    "hibou-l": (303.7, 1024, (5, 256)),
    "kaiko-s8": (21.7, 384, (1, 784)),
    "kaiko-s16": (21.7, 384, (1, 196)),
    "kaiko-b8": (85.8, 768, (1, 784)),
    "kaiko-b16": (85.8, 768, (1, 196)),
    "kaiko-l14": (304.4, 1024, (5, 256)),
    "ctranspath": (27.5, 768, None),
    "lunit-dino": (21.7, 384, (1, 196)),
    "lunit-dino-s8": (21.7, 384, (1, 784)),
}
TINY_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3}


def shaped(state, seed=1):
    """The same names and shapes, with numbers that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(tensor.shape, generator=generator) * 0.6 + (0.4 if name.endswith("var") else -0.3)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in state.items()
    }


def tiles_of(side, n=2):
    return np.random.default_rng(5).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def as_batch(tiles, mean, std):
    return torch.from_numpy(((tiles / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)


@pytest.fixture
def shrink(monkeypatch):
    """Makes a named encoder small, with all that the table says of it but sizes."""

    def shrunk(name, side, dim, timm_name=None, **options):
        spec = ENCODERS[name]
        transform = spec.transform | {"input_size": (3, side, side)}
        small = replace(
            spec,
            timm_name=timm_name or spec.timm_name,
            options=spec.options | options,
            transform=transform,
            dim=dim,
        )
        monkeypatch.setitem(ENCODERS, name, small)
        return small

    load_encoder.cache_clear()
    yield shrunk
    load_encoder.cache_clear()


class TestPublishedFigures:
    def test_are_there_for_every_entry(self):
        assert PUBLISHED.keys() == ENCODERS.keys()

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_agree_with_the_architecture_at_full_size(self, monkeypatch, name):
        """On the device "meta", where nothing takes memory."""
        monkeypatch.setattr(VisionTransformer, "init_weights", lambda self, *_, **__: None)
        millions, dim, tokens = PUBLISHED[name]
        spec = ENCODERS[name]
        with torch.device("meta"):
            model = backbone(spec).eval()
            data = timm.data.resolve_model_data_config(model)
            batch = torch.zeros(2, *data["input_size"])
            features = model.forward_features(batch) if tokens else model(batch)
        assert data["input_size"][-1] == (448 if name.startswith("conch") else 224)
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.051)
        assert spec.dim == dim
        if tokens:
            assert (model.num_prefix_tokens, features.shape[1] - model.num_prefix_tokens) == tokens
            assert features.shape[2] * (2 if spec.pooling == "cls+mean" else 1) == dim
        else:
            assert features.shape == (2, dim)

    @pytest.mark.parametrize(
        ("name", "mean", "interpolation"),
        [
            ("uni", (0.485, 0.456, 0.406), "bilinear"),
            ("conch", (0.48145466, 0.4578275, 0.40821073), "bicubic"),
            ("h-optimus-1", (0.707223, 0.578729, 0.703617), "bicubic"),
            ("hibou-l", (0.7068, 0.5755, 0.722), "bicubic"),
            ("kaiko-l14", (0.5, 0.5, 0.5), "bilinear"),
            ("lunit-dino-s8", (0.70322989, 0.53606487, 0.66096631), "bicubic"),
            ("resnet50", (0.485, 0.456, 0.406), "bilinear"),
        ],
    )
    def test_transform_is_the_models_own(self, name, mean, interpolation):
        with torch.device("meta"):
            data = timm.data.resolve_model_data_config(backbone(ENCODERS[name]))
        assert (tuple(data["mean"]), data["interpolation"]) == (mean, interpolation)


class TestViTs:
    @pytest.mark.parametrize(
        "name",
        [name for name, spec in ENCODERS.items() if spec.hub and not spec.file],
    )
    def test_a_weight_file_needs_no_hub(self, shrink, tmp_path, name):
        spec = ENCODERS[name]
        patch = {"small_patch8": 8, "base_patch8": 8, "patch14": 14}
        px = spec.options.get("patch_size") or next((p for key, p in patch.items() if key in spec.timm_name), 16)
        side = 3 * px
        dim = 48 if spec.pooling == "cls+mean" else 24
        small = shrink(name, side, dim, **TINY_VIT, img_size=side)
        model = backbone(small).eval()
        state = shaped(model.state_dict())
        model.load_state_dict(state)
        save_file(state, tmp_path / "w.safetensors")
        encoder = load_encoder(EncoderConfig(precision="float32", name=name, weights=tmp_path / "w.safetensors"))
        tiles = tiles_of(side)
        batch = as_batch(tiles, small.transform["mean"], small.transform["std"])
        with torch.inference_mode():
            tokens = model.forward_features(batch)  # class, registers, then nine patches
        registers = {"uni2-h": 8, "virchow2": 4, "kaiko-l14": 4}.get(
            name, 4 if "h0" in name or "optimus" in name else 0
        )
        assert tokens.shape == (2, 1 + registers + 9, 24)
        expected = tokens[:, 0]
        if spec.pooling == "cls+mean":
            expected = torch.cat([expected, tokens[:, -9:].sum(1) / 9], 1)
        np.testing.assert_allclose(encoder.embed(tiles), expected.numpy(), atol=1e-5)


def dinov2_state(*, patch, grid, registers, swiglu, dim=24, layers=2):
    """Random weights under the names that transformers writes."""
    shapes = {
        "embeddings.cls_token": (1, 1, dim),
        "embeddings.mask_token": (1, dim),
        "embeddings.position_embeddings": (1, 1 + grid**2, dim),
        "embeddings.patch_embeddings.projection.weight": (dim, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (dim,),
        "layernorm.weight": (dim,),
        "layernorm.bias": (dim,),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, dim)
    hidden = 64 if swiglu else 96  # two thirds of four times 24
    for layer in range(layers):
        linear = {f"attention.attention.{part}": (dim, dim) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (dim, dim)}
        if swiglu:
            linear |= {"mlp.weights_in": (2 * hidden, dim), "mlp.weights_out": (dim, hidden)}
        else:
            linear |= {"mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
        for name, shape in linear.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"encoder.layer.{layer}.{name}"] = (dim,)
        for name in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
            shapes[f"encoder.layer.{layer}.{name}"] = (dim,)
    return shaped({name: torch.empty(shape) for name, shape in shapes.items()}, seed=7)


def attend(query, key, value, heads):
    """Softmax attention, head by head."""
    width = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        weight = torch.softmax(query[..., at] @ key[..., at].transpose(1, 2) / width**0.5, -1)
        parts.append(weight @ value[..., at])
    return torch.cat(parts, -1)


def dinov2(state, batch, *, heads=3, layers=2):
    """The class token of a DINOv2, from its paper's description, on transformers' names."""
    kernel = state["embeddings.patch_embeddings.projection.weight"]
    cut = F.unfold(batch, kernel.shape[-1], stride=kernel.shape[-1]).transpose(1, 2)
    patches = cut @ kernel.flatten(1).T + state["embeddings.patch_embeddings.projection.bias"]
    tokens = torch.cat([state["embeddings.cls_token"].expand(len(batch), 1, -1), patches], 1)
    tokens = tokens + state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        registers = state["embeddings.register_tokens"].expand(len(batch), -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
    for layer in range(layers):
        w = {n.removeprefix(f"encoder.layer.{layer}."): t for n, t in state.items() if f".layer.{layer}." in n}

        def linear(x, name, w=w):
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        x = F.layer_norm(tokens, tokens.shape[-1:], w["norm1.weight"], w["norm1.bias"], 1e-6)
        x = attend(*(linear(x, f"attention.attention.{part}") for part in ("query", "key", "value")), heads=heads)
        tokens = tokens + w["layer_scale1.lambda1"] * linear(x, "attention.output.dense")
        x = F.layer_norm(tokens, tokens.shape[-1:], w["norm2.weight"], w["norm2.bias"], 1e-6)
        if "mlp.weights_in.weight" in w:
            gate, content = linear(x, "mlp.weights_in").chunk(2, -1)
            x = linear(gate * torch.sigmoid(gate) * content, "mlp.weights_out")
        else:
            x = linear(x, "mlp.fc1")
            x = linear(x * 0.5 * (1 + torch.erf(x / 2**0.5)), "mlp.fc2")
        tokens = tokens + w["layer_scale2.lambda1"] * x
    return F.layer_norm(tokens, tokens.shape[-1:], state["layernorm.weight"], state["layernorm.bias"], 1e-6)[:, 0]


@pytest.fixture(params=["phikon-v2", "hibou-b", "hibou-l"])
def small_dinov2(request, shrink):
    name = request.param
    hibou = name.startswith("hibou")
    patch = 14 if hibou else 16
    ratio = {"mlp_ratio": 128 / 24 + 1e-5} if hibou else {}
    spec = shrink(name, 3 * patch, 24, **TINY_VIT, img_size=3 * patch, **ratio)
    return name, spec, dinov2_state(patch=patch, grid=3, registers=4 if hibou else 0, swiglu=hibou)


class TestDinov2OfTransformers:
    def test_gives_what_the_reference_arithmetic_gives(self, small_dinov2, tmp_path):
        name, spec, state = small_dinov2
        save_file(state, tmp_path / "w.safetensors")
        tiles = tiles_of(spec.transform["input_size"][-1])
        expected = dinov2(state, as_batch(tiles, spec.transform["mean"], spec.transform["std"]))
        encoder = load_encoder(EncoderConfig(precision="float32", name=name, weights=tmp_path / "w.safetensors"))
        np.testing.assert_allclose(encoder.embed(tiles), expected.numpy(), rtol=1e-3, atol=1e-5)

    def test_comes_from_the_hub_a_file_or_a_folder_alike(self, small_dinov2, tmp_path, monkeypatch):
        name, spec, state = small_dinov2
        file = tmp_path / "model.safetensors"
        save_file(state, file)
        requested = []

        def download(repository, filename):
            requested.append((repository, filename))
            return str(file)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        prints = {
            load_encoder(EncoderConfig(precision="float32", name=name, weights=w)).fingerprint
            for w in (None, file, tmp_path)
        }
        assert len(prints) == 1
        assert requested == [(spec.hub, "model.safetensors")]

    def test_that_lacks_weights_is_refused_with_their_names(self, small_dinov2, tmp_path):
        name, _, state = small_dinov2
        del state["encoder.layer.1.attention.attention.key.weight"]
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(
            InputError, match=rf"do not fit {name}: 1 weights missing \(blocks\.1\.attn\.qkv\.weight\), 2"
        ):
            load_encoder(EncoderConfig(precision="float32", name=name, weights=tmp_path / "w.safetensors"))

    def test_with_positions_of_another_width_is_refused(self, small_dinov2, tmp_path):
        name, _, state = small_dinov2
        state["embeddings.position_embeddings"] = torch.zeros(1, 10, 25)
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=rf"w\.safetensors do not fit {name}: "):
            load_encoder(EncoderConfig(precision="float32", name=name, weights=tmp_path / "w.safetensors"))


def query_attention(query, tokens, state, heads, pool="visual.attn_pool_contrast."):
    """One query's look at the tokens, by torch's names for attention over another width."""
    w = {name.removeprefix(pool): tensor for name, tensor in state.items() if name.startswith(pool)}
    tokens = F.layer_norm(tokens, tokens.shape[-1:], w["ln_k.weight"], w["ln_k.bias"], 1e-5)
    query = F.layer_norm(query, query.shape[-1:], w["ln_q.weight"], w["ln_q.bias"], 1e-5)
    biases = w["attn.in_proj_bias"].chunk(3)
    q, k, v = (
        x @ w[f"attn.{part}_proj_weight"].T + bias
        for part, x, bias in zip("qkv", (query.expand(len(tokens), 1, -1), tokens, tokens), biases, strict=True)
    )
    return attend(q, k, v, heads)[:, 0] @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]


class TestConch:
    @pytest.fixture
    def small(self, shrink, tmp_path):
        """The checkpoint as CONCH's authors write it: a vision tower among other things."""
        spec = shrink("conch", 48, 512, **TINY_VIT, img_size=48)
        trunk = timm.create_model(spec.timm_name, num_classes=0, **spec.options).eval()
        pool = {
            "query": (1, 512), "ln_q.weight": (512,), "ln_q.bias": (512,), "ln_k.weight": (24,), "ln_k.bias": (24,),
            "attn.q_proj_weight": (512, 512), "attn.k_proj_weight": (512, 24), "attn.v_proj_weight": (512, 24),
            "attn.in_proj_bias": (1536,), "attn.out_proj.weight": (512, 512), "attn.out_proj.bias": (512,),
        }  # fmt: skip
        state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
        state |= {f"visual.attn_pool_contrast.{name}": torch.empty(shape) for name, shape in pool.items()}
        state |= {f"visual.ln_contrast.{name}": torch.empty(512) for name in ("weight", "bias")}
        state |= {"visual.proj_contrast": torch.empty(512, 512), "visual.ln_caption.weight": torch.empty(768)}
        state |= {"visual.attn_pool_caption.query": torch.empty(256, 768), "logit_scale": torch.empty(())}
        state = shaped(state | {"text.cls_emb": torch.empty(768)})
        trunk.load_state_dict({n[13:]: t for n, t in state.items() if n.startswith("visual.trunk.")})
        torch.save(state, tmp_path / "pytorch_model.bin")
        return spec, state, trunk, tmp_path / "pytorch_model.bin"

    def test_pools_by_attention_as_written_out(self, small):
        spec, state, trunk, file = small
        encoder = load_encoder(EncoderConfig(precision="float32", name="conch", weights=file))
        tiles = tiles_of(48)
        with torch.inference_mode():
            tokens = trunk.forward_features(as_batch(tiles, spec.transform["mean"], spec.transform["std"]))
        assert tokens.shape == (2, 10, 24)
        pooled = query_attention(state["visual.attn_pool_contrast.query"], tokens, state, heads=8)
        norm = (state["visual.ln_contrast.weight"], state["visual.ln_contrast.bias"])
        expected = F.layer_norm(pooled, (512,), *norm, 1e-5)
        assert expected.std() > 0.05
        np.testing.assert_allclose(encoder.embed(tiles), expected.numpy(), rtol=1e-3, atol=1e-4)

    def test_comes_from_the_hub_as_from_the_file(self, small, monkeypatch):
        file = small[3]
        requested = []
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *where: requested.append(where) or str(file))
        hub = load_encoder(EncoderConfig(precision="float32", name="conch"))
        assert requested == [("MahmoodLab/CONCH", "pytorch_model.bin")]
        tiles = tiles_of(48)
        np.testing.assert_array_equal(
            hub.embed(tiles),
            load_encoder(EncoderConfig(precision="float32", name="conch", weights=file.parent)).embed(tiles),
        )

    def test_a_tower_with_more_in_it_is_refused(self, small):
        state, file = small[1], small[3]
        torch.save(state | {"visual.trunk.blocks.2.norm1.weight": torch.ones(24)}, file)
        with pytest.raises(InputError, match=r"fit conch: 1 weights unknown \(trunk\.blocks\.2\.norm1\.weight\)"):
            load_encoder(EncoderConfig(precision="float32", name="conch", weights=file))

    def test_has_no_tokens_to_pool_otherwise(self, small):
        with pytest.raises(InputError, match='conch has no tokens to pool by "mean"'):
            load_encoder(EncoderConfig(precision="float32", name="conch", weights=small[3], pooling="mean"))


def cubic_weights(before, after, factor):
    """(after, before) weights of cubic convolution with a = −0.75, its border repeated: Keys 1981."""
    weights = np.zeros((after, before))
    for i in range(after):
        at = (i + 0.5) / factor - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            x = abs(at - j)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, min(max(j, 0), before - 1)] += near if x <= 1 else far
    return weights


class TestConchV15:
    def test_positions_are_stretched_by_a_little_more_than_two(self):
        positions = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 197, 3))).float()
        grid = positions[0, 1:].reshape(14, 14, 3).numpy()
        along = cubic_weights(14, 28, 28.1 / 14)
        expected = np.einsum("ia,jb,abc->ijc", along, along, grid).reshape(784, 3)
        found = _conch_v1_5_positions(positions)[0].numpy()
        np.testing.assert_array_equal(found[0], positions[0, 0].numpy())
        np.testing.assert_allclose(found[1:], expected, atol=1e-5)

    def test_positions_of_a_larger_grid_are_halved_first(self):
        grid = torch.from_numpy(np.random.default_rng(3).normal(size=(28, 28, 3))).float()
        halved = grid.reshape(14, 2, 14, 2, 3).mean((1, 3)).reshape(1, 196, 3)
        cls = torch.ones(1, 1, 3)
        found = _conch_v1_5_positions(torch.cat([cls, grid.reshape(1, 784, 3)], 1))
        expected = _conch_v1_5_positions(torch.cat([cls, halved], 1))
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)

    def test_pools_by_attention_without_biases(self, shrink, tmp_path):
        spec = shrink("conch-v1.5", 448, 768, **TINY_VIT)
        trunk = timm.create_model(spec.timm_name, num_classes=0, **spec.options | {"img_size": 224}).eval()
        pool = {
            "query": (1, 768), "ln_q.weight": (768,), "ln_q.bias": (768,), "ln_k.weight": (24,), "ln_k.bias": (24,),
            "to_q.weight": (768, 768), "to_kv.weight": (1536, 24), "to_out.weight": (768, 768),
        }  # fmt: skip
        state = {f"trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
        state |= {f"attn_pool_contrast.{name}": torch.empty(shape) for name, shape in pool.items()}
        state = shaped(state | {f"ln_contrast.{name}": torch.empty(768) for name in ("weight", "bias")})
        torch.save(state, tmp_path / "w.bin")
        encoder = load_encoder(EncoderConfig(precision="float32", name="conch-v1.5", weights=tmp_path / "w.bin"))
        large = timm.create_model(spec.timm_name, num_classes=0, **spec.options).eval()
        stretched = _conch_v1_5_positions(state["trunk.pos_embed"])
        large.load_state_dict({n[6:]: t for n, t in state.items() if n.startswith("trunk.")} | {"pos_embed": stretched})
        tiles = tiles_of(448, n=1)
        with torch.inference_mode():
            tokens = large.forward_features(as_batch(tiles, spec.transform["mean"], spec.transform["std"]))
        names = {"to_q.weight": "attn.q_proj_weight", "to_out.weight": "attn.out_proj.weight"}
        plain = {f"p.{names.get(n, n)}": state[f"attn_pool_contrast.{n}"] for n in pool}
        plain["p.attn.k_proj_weight"], plain["p.attn.v_proj_weight"] = plain["p.to_kv.weight"].split(768)
        plain |= {"p.attn.in_proj_bias": torch.zeros(2304), "p.attn.out_proj.bias": torch.zeros(768)}
        pooled = query_attention(plain["p.query"], tokens, plain, heads=8, pool="p.")
        expected = F.layer_norm(pooled, (768,), state["ln_contrast.weight"], state["ln_contrast.bias"], 1e-5)
        np.testing.assert_allclose(encoder.embed(tiles), expected.numpy(), rtol=1e-3, atol=1e-4)

    def test_positions_of_no_square_grid_are_refused(self, shrink, tmp_path):
        shrink("conch-v1.5", 448, 768, **TINY_VIT)
        torch.save({"trunk.pos_embed": torch.zeros(1, 100, 24)}, tmp_path / "w.bin")
        with pytest.raises(InputError, match=r"w\.bin do not fit conch-v1\.5: "):
            load_encoder(EncoderConfig(precision="float32", name="conch-v1.5", weights=tmp_path / "w.bin"))


def convolved(batch, kernel, norm):
    """A 3 × 3 convolution of stride 2, batch normalisation and a rectifier, as sums over patches."""
    side = (batch.shape[-1] + 1) // 2
    x = kernel.flatten(1) @ F.unfold(batch, 3, padding=1, stride=2)
    mean, var, weight, bias = (norm[k][:, None] for k in ("running_mean", "running_var", "weight", "bias"))
    x = (x - mean) / torch.sqrt(var + 1e-5) * weight + bias
    return x.clamp(min=0).unflatten(2, (side, side))


class TestCTransPath:
    def test_stem_is_three_convolutions(self):
        stem = ConvStem(img_size=(12, 12), patch_size=4, in_chans=3, embed_dim=16, norm_layer=torch.nn.LayerNorm).eval()
        state = shaped(stem.state_dict())
        stem.load_state_dict(state)
        batch = torch.rand(2, 3, 12, 12)
        norms = [{k: state[f"proj.{i}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")} for i in (1, 4)]
        x = convolved(convolved(batch, state["proj.0.weight"], norms[0]), state["proj.3.weight"], norms[1])
        x = x.permute(0, 2, 3, 1) @ state["proj.6.weight"][:, :, 0, 0].T + state["proj.6.bias"]
        expected = F.layer_norm(x, (16,), state["norm.weight"], state["norm.bias"], 1e-5)
        assert stem.grid_size == (3, 3)
        with torch.inference_mode():
            np.testing.assert_allclose(stem(batch).numpy(), expected.numpy(), atol=1e-4)

    @pytest.mark.parametrize("naming", ["the authors'", "timm's"])
    def test_reads_both_namings_of_the_stages(self, shrink, tmp_path, naming):
        spec = shrink("ctranspath", 56, 32, img_size=56, embed_dim=16, depths=(2, 2), num_heads=(1, 2))
        model = backbone(spec).eval()
        state = shaped(model.state_dict())
        model.load_state_dict(state)
        if (
            naming == "the authors'"
        ):  # a stage ends with its downsampling; constants and an unused classifier are saved too
            state = {name.replace("layers.1.downsample", "layers.0.downsample"): t for name, t in state.items()}
            state |= {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49), "head.weight": torch.zeros(5, 32)}
            state |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
        torch.save({"model": state}, tmp_path / "ctranspath.pth")
        encoder = load_encoder(
            EncoderConfig(precision="float32", name="ctranspath", weights=tmp_path / "ctranspath.pth")
        )
        tiles = tiles_of(56)
        with torch.inference_mode():
            expected = model.forward_features(as_batch(tiles, spec.transform["mean"], spec.transform["std"])).mean(
                (1, 2)
            )
        np.testing.assert_allclose(encoder.embed(tiles), expected.numpy(), atol=1e-5)


class TestResNet:
    def test_is_cut_off_after_the_third_stage(self, shrink, tmp_path):
        spec = shrink("resnet50", 64, 192, timm_name="test_resnet")
        whole = timm.create_model("test_resnet").eval()  # with its last stage and its classifier
        state = shaped(whole.state_dict())
        whole.load_state_dict(state)
        save_file(state, tmp_path / "w.safetensors")
        encoder = load_encoder(EncoderConfig(precision="float32", name="resnet50", weights=tmp_path / "w.safetensors"))
        tiles = tiles_of(64)
        x = as_batch(tiles, encoder.transform["mean"], encoder.transform["std"])
        with torch.inference_mode():
            for stage in (whole.conv1, whole.bn1, whole.act1, whole.maxpool, whole.layer1, whole.layer2, whole.layer3):
                x = stage(x)
        assert spec.dim == x.shape[1]
        np.testing.assert_allclose(encoder.embed(tiles), x.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-5)
        assert not any(name.startswith("layer4") for name in encoder.model.state_dict())


class TestAttentionPooled:
    def test_each_tile_is_pooled_by_itself(self):
        trunk = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, **TINY_VIT).eval()
        model = AttentionPooled(trunk, 16).eval()
        model.load_state_dict(shaped(model.state_dict()))
        batch = torch.rand(3, 3, 32, 32)
        with torch.inference_mode():
            apart = torch.cat([model(batch[i : i + 1]) for i in range(3)])
            np.testing.assert_allclose(model(batch).numpy(), apart.numpy(), atol=1e-5)
        assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 224, 224)


def test_the_resolution_of_the_training_tiles_is_described(tmp_path, shrink):
    small = shrink("virchow2", 28, 48, **TINY_VIT, img_size=28)
    save_file(shaped(backbone(small).state_dict()), tmp_path / "w.safetensors")
    encoder = load_encoder(EncoderConfig(precision="float32", name="virchow2", weights=tmp_path / "w.safetensors"))
    assert encoder.describe()["trained_at_mpp"] == [0.25, 0.5, 1.0, 2.0]
    assert encoder_spec("resnet18").mpp == ()
