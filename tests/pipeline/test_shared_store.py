"""One store, several processes: two embed the same slides at once, a third dies while it writes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.slides.feature_recipe import FeatureRecipe
from pipeline.slides.stages import SlidePart, embed, tile
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.features.keys import feature_key
from preprocessing.features.store import FeatureStore
from preprocessing.tiling.tiles import TileConfig
from workflows.commands.store import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TileConfig(tile_px=64)
WORK = """
import sys
from pathlib import Path
from pipeline.slides.feature_recipe import FeatureRecipe
from pipeline.slides.stages import SlidePart, embed, tile
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.features.store import FeatureStore
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.tiles import TileConfig

store, vit, dies, *paths = sys.argv[1:]
config, encoder = TileConfig(tile_px=64), EncoderConfig(name=f"local-dir:{vit}", precision="float32")
load_encoder(encoder)
if dies == "dies":
    publish = FeatureStore._publish

    def never(self, written, name):
        if name.startswith("features/"):
            print("drafted", flush=True)
            sys.stdin.read()
        publish(self, written, name)

    FeatureStore._publish = never
print("ready", flush=True)
sys.stdin.readline()
FeatureStore(store).prepare()
for path in map(Path, paths):
    slide = probe_slide(SlideFile(path.stem, path.stem, path), default_mpp=None)
    n = tile(slide, store=store, config=config).n_tiles
    embed(SlidePart(slide, range(n), n), recipe=FeatureRecipe(store, config, encoder, "cpu", 8))
print("done", flush=True)
"""


def start(store, vit, dies, slides):
    command = [sys.executable, "-c", WORK, str(store), str(vit), dies, *(str(slide.path) for slide in slides)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow  # three processes import torch: 15 s on an idle machine of two cores
def test_two_runs_at_once_and_one_that_is_killed_leave_a_store_that_checks_out(tmp_path, scan, paint, tiny_vit, capsys):
    slides = [scan(paint(700, 500, (60, 60, 640, 440), seed=i), slide_id=f"S{i}") for i in range(3)]
    place = tmp_path / "store.zarr"
    runs = [start(place, tiny_vit, dies, slides) for dies in ("dies", "lives", "lives")]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    killed, *others = runs
    killed.stdin.write("\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "drafted\n"
    for run in others:
        run.stdin.write("\n")
        run.stdin.flush()
    killed.kill()
    killed.wait()
    for run in others:
        assert run.communicate()[0] == "done\n"
        assert run.returncode == 0
    store = FeatureStore(place)
    assert main(["prune", str(place), "--yes"]) == 0
    capsys.readouterr()
    assert main(["check", str(place), "--deep"]) == 0
    assert "9 groups whole, 0 damaged, 0 left behind" in capsys.readouterr().out
    assert store.names("temporary") == []
    encoder = EncoderConfig(name=f"local-dir:{tiny_vit}", precision="float32")
    for slide in slides:
        key = feature_key(slide, CONFIG, load_encoder(encoder).fingerprint)
        alone = tmp_path / "alone.zarr"
        n = tile(slide, store=str(alone), config=CONFIG).n_tiles
        embed(SlidePart(slide, range(n), n), recipe=FeatureRecipe(str(alone), CONFIG, encoder, "cpu", 8))
        ours, theirs = (one.read_features(key).features.astype(float) for one in (store, FeatureStore(alone)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3 * np.abs(theirs).max())  # as float16 holds them
