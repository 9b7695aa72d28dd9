"""The network has random weights, but for a head that was made to see brightness: a stand-in for the real ones."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from preprocessing.io.errors import InputError
from preprocessing.tiling import grandqc
from preprocessing.tiling.grandqc import GrandqcConfig, detect_by_grandqc, grandqc_recipe
from preprocessing.tiling.tiles import TileConfig, tile_recipe
from preprocessing.tiling.tissue import TissueConfig, detect_tissue


class StandIn(torch.nn.Module):
    """Tissue is what is darker than 128; with the names that the real network's weights have is dispensed."""

    def __init__(self, num_output_channels: int = 2) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.5))

    @staticmethod
    def preproc(image):
        return image / 255.0

    def forward(self, pixels):
        darker = self.level - pixels.mean(1, keepdim=True)
        return 100 * torch.cat([darker, -darker], 1)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of weights, read by the stand-in."""
    import sys
    import types

    module = types.ModuleType("tiatoolbox.models.architecture.grandqc")
    vars(module)["GrandQCModel"] = StandIn
    for name in ("tiatoolbox", "tiatoolbox.models", "tiatoolbox.models.architecture"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "tiatoolbox.models.architecture.grandqc", module)
    grandqc._load_network.cache_clear()
    path = tmp_path / "weights.pth"
    torch.save(StandIn().state_dict(), path)
    yield path
    grandqc._load_network.cache_clear()


def config(weights: Path) -> TissueConfig:
    return TissueConfig(detector="grandqc", settings={"weights": str(weights)})


@pytest.mark.parametrize(("mpp", "seen"), [(5.0, (30, 50)), (10.0, (60, 100)), (20.0, (120, 200))])
def test_the_network_sees_ten_microns_per_pixel(weights, monkeypatch, mpp, seen):
    shapes = []

    def probability(image, _):
        shapes.append(image.shape[:2])
        return np.zeros(image.shape[:2], np.float32)

    monkeypatch.setattr(grandqc, "_tissue_probability", probability)
    detect_by_grandqc(np.zeros((60, 100, 3), np.uint8), mpp, GrandqcConfig(weights=weights))
    assert shapes == [seen]


@pytest.mark.parametrize(("shape", "mpp"), [((40, 50), 8.0), ((900, 1300), 8.0), ((700, 640), 10.0), ((30, 30), 32.0)])
def test_a_mask_of_the_thumbnails_size_is_where_the_network_sees_tissue(weights, shape, mpp):
    thumbnail = np.full((*shape, 3), 240, np.uint8)
    thumbnail[: shape[0] // 2, shape[1] // 2 :] = 60
    mask = detect_by_grandqc(thumbnail, mpp, GrandqcConfig(weights=weights))
    assert mask.shape == shape
    expected = thumbnail[..., 0] == 60
    assert (mask == expected).mean() > 0.93
    assert (detect_tissue(thumbnail, mpp, config(weights)) == mask).all()


def test_overlapping_patches_cover_everything():
    for length in (1, 511, 512, 513, 768, 769, 1300):
        starts = grandqc._starts(length)
        assert starts[0] == 0
        assert starts[-1] + grandqc.PATCH_PX >= length
        assert all(b - a == grandqc.STRIDE_PX for a, b in itertools.pairwise(starts))


def test_the_weights_bytes_are_part_of_the_recipe_of_tiles(weights, tmp_path):
    def recipe(path):
        return tile_recipe(TileConfig(tissue=config(path)))

    copy, other = tmp_path / "copy.pth", tmp_path / "other.pth"
    copy.write_bytes(weights.read_bytes())
    other.write_bytes(weights.read_bytes() + b" ")
    assert recipe(weights) == recipe(copy) != recipe(other)
    before = recipe(weights)
    weights.write_bytes(b"others")
    assert recipe(weights) != before
    assert recipe(copy) != tile_recipe(TileConfig())


def test_every_setting_is_part_of_the_recipe(weights, tmp_path):
    other = tmp_path / "other.pth"
    other.write_bytes(weights.read_bytes() + b" ")
    before = GrandqcConfig(weights=weights)
    changed = {"weights": other, "threshold": 0.7}
    assert changed.keys() == GrandqcConfig.model_fields.keys()
    for name, value in changed.items():
        assert grandqc.grandqc_recipe(before.model_copy(update={name: value})) != grandqc.grandqc_recipe(before), name


def test_without_weights_the_way_to_them_is_named(tmp_path):
    with pytest.raises(
        ValidationError, match=r"grandqc: no weights; give the file .*tiles\.tissue\.settings\.weights=FILE"
    ):
        TissueConfig(detector="grandqc")
    gone = GrandqcConfig(weights=tmp_path / "gone.pth")
    for use in (grandqc_recipe, lambda settings: detect_by_grandqc(np.zeros((9, 9, 3), np.uint8), 8.0, settings)):
        with pytest.raises(InputError, match=r"gone\.pth: the path does not exist"):
            use(gone)


@pytest.mark.parametrize("content", [b"no weights", None])
def test_weights_that_do_not_fit_are_refused(weights, content):
    if content is None:
        torch.save({"other": torch.zeros(3)}, weights)
    else:
        weights.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth cannot be used: "):
        detect_by_grandqc(np.zeros((9, 9, 3), np.uint8), 8.0, GrandqcConfig(weights=weights))


def test_a_file_of_something_else_than_a_table_of_weights_is_refused(weights):
    torch.save([torch.zeros(3)], weights)
    with pytest.raises(InputError, match=r"weights\.pth: no table of weights"):
        detect_by_grandqc(np.zeros((9, 9, 3), np.uint8), 8.0, GrandqcConfig(weights=weights))


def test_an_error_of_the_program_is_not_taken_for_one_of_the_weights(weights, monkeypatch):
    monkeypatch.setattr(StandIn, "load_state_dict", lambda self, state: state.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        detect_by_grandqc(np.zeros((9, 9, 3), np.uint8), 8.0, GrandqcConfig(weights=weights))


@pytest.mark.slow  # TIAToolbox takes half a minute to import
def test_the_real_network_takes_weights_of_its_own_architecture(tmp_path):
    from tiatoolbox.models.architecture.grandqc import GrandQCModel

    torch.manual_seed(0)
    torch.save(GrandQCModel(2).state_dict(), tmp_path / "w.pth")
    thumbnail = np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    mask = detect_by_grandqc(thumbnail, 8.0, GrandqcConfig(weights=tmp_path / "w.pth"))
    assert (mask.shape, mask.dtype) == ((70, 90), bool)
