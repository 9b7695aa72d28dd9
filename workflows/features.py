"""From slides to features: what of a cohort is in the store is taken from there, the rest is tiled and embedded."""

from collections.abc import Mapping
from itertools import compress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.cluster.mapping import Outcome
    from pipeline.cluster.workers import Workers
    from pipeline.config.schema import Config
    from pipeline.run.folder import Run
    from preprocessing.cohort import Cohort
    from preprocessing.features.store import FeatureStore


def make_features(
    config: "Config", cohort: "Cohort", run: "Run", workers: "Workers"
) -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """The outcome of every slide, and the feature group of each good one."""
    if cohort.precomputed:
        return take_features(config, cohort, run)
    outcomes, features = tile_slides(config, cohort, run, workers), dict[str, str]()
    if config.until != "tile":
        outcomes, features = embed_slides(config, cohort, run, workers, outcomes)
    draw_slides(config, cohort, run, workers, outcomes)
    return outcomes, features


def tile_slides(config: "Config", cohort: "Cohort", run: "Run", workers: "Workers") -> dict[str, "Outcome"]:
    """Tile each slide whose tiles, or whose look, are not in the store yet; outcomes by slide id."""
    from pipeline.cluster.shared_paths import require_shared_store
    from pipeline.slides.stages import tile_all
    from preprocessing.features.keys import tile_key
    from preprocessing.features.store import FeatureStore, query_all

    store = FeatureStore(config.store)
    with run.stage("tiling") as done_now:
        known = {slide.slide_id: tile_key(slide, config.tiles) for slide in cohort.slides}
        there = query_all(lambda key: store.has_tiles(key) and store.has_slide_stats(key), known.values())
        done = dict(compress(known.items(), there))
        todo = [slide for slide in cohort.slides if slide.slide_id not in done]
        if todo:
            require_shared_store(workers, store)
        made = tile_all(workers, todo, store=config.store, config=config.tiles)
        done_now.update(slides=len(made))
    return {outcome.slide_id: outcome for outcome in (*_reused(done, store), *made)}


def embed_slides(
    config: "Config",
    cohort: "Cohort",
    run: "Run",
    workers: "Workers",
    tiled: Mapping[str, "Outcome"],
) -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Embed each tiled slide whose features are not in the store yet; outcomes, and the feature group of each good slide."""
    from pipeline.cluster.shared_paths import require_shared_store
    from pipeline.slides.stages import Recipe, embed_all
    from preprocessing.features.encoders import load_encoder
    from preprocessing.features.keys import feature_key
    from preprocessing.features.store import FeatureStore, query_all

    store = FeatureStore(config.store)
    if not cohort.slides:
        return {}, {}
    with run.stage("embedding") as done_now:
        encoder = load_encoder(config.encoder)
        run.facts["encoder"] = encoder.describe()
        good = [slide for slide in cohort.slides if tiled[slide.slide_id].status != "failed"]
        keys = {slide.slide_id: feature_key(slide, config.tiles, encoder.fingerprint) for slide in good}
        there = query_all(store.has_features, keys.values())
        todo = [slide for slide, is_there in zip(good, there, strict=True) if not is_there]
        if todo:
            require_shared_store(workers, store)
        made = embed_all(
            workers,
            todo,
            {name: outcome.n_tiles for name, outcome in tiled.items()},
            recipe=Recipe(config.store, config.tiles, config.encoder, workers.device, config.gpu_tiles),
        )
        done_now.update(slides=len(made), tiles=sum(outcome.n_tiles for outcome in made))
    outcomes = dict(tiled)
    for outcome in made:
        outcomes[outcome.slide_id] = outcome.after(tiled[outcome.slide_id])
    return outcomes, {name: key for name, key in keys.items() if outcomes[name].status != "failed"}


def draw_slides(
    config: "Config", cohort: "Cohort", run: "Run", workers: "Workers", outcomes: Mapping[str, "Outcome"]
) -> None:
    """Draw each slide for the report; one that cannot be drawn is named there, and is used all the same."""
    from pipeline.slides.thumbnails import make_thumbnails

    if not cohort.slides:
        return
    tiles = {name: outcome.tiles for name, outcome in outcomes.items()}
    with run.stage("thumbnails"):
        run.facts["thumbnails_failed"] = make_thumbnails(
            workers, cohort.slides, tiles, store=config.store, folder=run.folder / "thumbnails"
        )


def take_features(config: "Config", cohort: "Cohort", run: "Run") -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Outcomes and feature groups of a cohort whose features are in the store, and its slides perhaps nowhere."""
    from pipeline.cluster.mapping import Outcome
    from preprocessing.features.store import FeatureStore, query_all

    store = FeatureStore(config.store)
    run.facts["encoder"] = dict(cohort.precomputed.encoder) if cohort.precomputed else None
    features = {slide.slide_id: slide.features for slide in cohort.slides}
    counts = zip(features, query_all(store.count_tiles_of_features, features.values()), strict=True)
    return {name: Outcome(name, "reused", n_tiles=n or 0) for name, n in counts}, features


def _reused(keys: Mapping[str, str], store: "FeatureStore") -> list["Outcome"]:
    from pipeline.cluster.mapping import Outcome
    from preprocessing.features.store import query_all

    counts = query_all(store.count_tiles, keys.values())
    return [
        Outcome(name, "reused", n_tiles=n or 0, tiles=key) for (name, key), n in zip(keys.items(), counts, strict=True)
    ]
