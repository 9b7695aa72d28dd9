from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.config.paths import Paths

GIVEN = {"slides": "slides", "genes": "genes.csv", "store": "f.zarr", "out": "o", "tiles.tissue.masks": "masks"}
GIVEN |= {"tiles.stain.target": "target.png", "encoder.name": "local-dir:hub", "encoder.weights": "w.safetensors"}


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").touch()
    (tmp_path / "target.png").touch()
    (tmp_path / "masks").mkdir()
    monkeypatch.chdir(tmp_path)
    return load_config(GIVEN)


def test_absolute_paths_hold_in_another_working_directory(config, tmp_path):
    paths = Paths.from_config(config, absolute=True)
    assert (paths.store, paths.slides, paths.out) == (str(tmp_path / "f.zarr"), tmp_path / "slides", tmp_path / "o")
    tiles, encoder = paths.tiles(config.tiles), paths.encoder(config.encoder)
    assert (tiles.tissue.masks, tiles.stain.target) == (tmp_path / "masks", tmp_path / "target.png")
    assert (encoder.weights, encoder.name) == (tmp_path / "w.safetensors", f"local-dir:{tmp_path / 'hub'}")
    names = ("masks", "target.png", "w.safetensors", "hub")
    assert paths.read_by_workers() == [tmp_path / name for name in names]


def test_workers_read_the_weights_of_the_tissue_detector(tmp_path):
    weights = tmp_path / "tissue.pth"
    weights.touch()
    given = {"tiles.tissue.detector": "grandqc", "tiles.tissue.settings.weights": str(weights)}
    paths = Paths.from_config(load_config({"slides": "slides", "genes": "genes.csv"} | given), absolute=True)
    assert paths.read_by_workers() == [weights]


def test_on_this_machine_they_stay_as_given(config):
    paths = Paths.from_config(config, absolute=False)
    assert (paths.tiles(config.tiles), paths.encoder(config.encoder)) == (config.tiles, config.encoder)
    assert (paths.store, paths.slides, paths.out) == ("f.zarr", Path("slides"), Path("o"))


def test_a_url_of_a_store_and_the_name_of_an_encoder_are_no_paths():
    config = load_config({"slides": "none", "genes": "genes.csv", "store": "s3://b/f.zarr", "encoder.name": "uni"})
    paths = Paths.from_config(config, absolute=True)
    assert paths.store == "s3://b/f.zarr"
    assert paths.encoder(config.encoder).name == "uni"
    assert paths.read_by_workers() == []
