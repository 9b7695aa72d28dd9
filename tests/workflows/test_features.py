"""Which slides a run makes anew, and which it takes from the store."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import pipeline.cluster.shared_paths
import pipeline.slides.stages
import preprocessing.features.keys
import preprocessing.features.store
from pipeline.cluster.mapping import Outcome
from workflows.features import tile_slides

TILED, MEASURED = {"both", "tiles only"}, {"both", "statistics only"}


@pytest.fixture
def context(monkeypatch):
    store = SimpleNamespace(
        has_tiles=TILED.__contains__, has_slide_stats=MEASURED.__contains__, count_tiles=lambda key: len(key)
    )
    monkeypatch.setattr(preprocessing.features.store, "FeatureStore", lambda place: store)
    monkeypatch.setattr(preprocessing.features.keys, "tile_key", lambda slide, tiles: slide.slide_id)
    monkeypatch.setattr(pipeline.cluster.shared_paths, "require_shared_store", lambda workers, store: None)

    @contextmanager
    def stage(name):
        yield {}

    slides = [SimpleNamespace(slide_id=name) for name in ("both", "tiles only", "statistics only", "neither")]
    return SimpleNamespace(
        recipe=SimpleNamespace(store="store", tiles="config"),
        cohort=SimpleNamespace(slides=slides),
        run=SimpleNamespace(stage=stage),
        workers="workers",
    )


def test_a_slide_without_its_tiles_or_its_statistics_is_tiled(context, monkeypatch):
    def tile_all(workers, slides, *, store, config):
        assert (workers, store, config) == ("workers", "store", "config")
        return [Outcome(slide.slide_id, "done") for slide in slides]

    monkeypatch.setattr(pipeline.slides.stages, "tile_all", tile_all)
    found = tile_slides(context)
    assert {name: outcome.status for name, outcome in found.items()} == {
        "both": "reused",
        "tiles only": "done",
        "statistics only": "done",
        "neither": "done",
    }
    assert (found["both"].n_tiles, found["both"].tiles) == (4, "both")
