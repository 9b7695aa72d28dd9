"""From slides to features: those in the store are reused, the others are tiled and embedded."""

from collections.abc import Mapping
from itertools import compress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.cluster.mapping import Outcome
    from pipeline.run.context import RunContext
    from preprocessing.features.store import FeatureStore


def make_features(context: "RunContext") -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Make the features of all slides, and their thumbnails.

    Returns:
        The outcome of each slide, and the key of the features of each slide that has them, by slide id.
    """
    if context.cohort.precomputed:
        return take_features(context)
    outcomes, features = tile_slides(context), dict[str, str]()
    if context.config.until != "tile":
        outcomes, features = embed_slides(context, outcomes)
    draw_thumbnails(context, outcomes)
    return outcomes, features


def tile_slides(context: "RunContext") -> dict[str, "Outcome"]:
    """Tile each slide whose tiles or slide statistics are not in the store yet; outcomes by slide id."""
    from pipeline.cluster.shared_paths import require_shared_store
    from pipeline.slides.stages import tile_all
    from preprocessing.features.keys import tile_key
    from preprocessing.features.store import FeatureStore, query_all

    recipe, slides = context.recipe, context.cohort.slides
    if not slides:
        return {}
    store = FeatureStore(recipe.store)
    with context.run.stage("tiling") as done_now:
        keys = {slide.slide_id: tile_key(slide, recipe.tiles) for slide in slides}
        found = query_all(lambda key: store.has_tiles(key) and store.has_slide_stats(key), keys.values())
        reused = dict(compress(keys.items(), found))
        missing = [slide for slide in slides if slide.slide_id not in reused]
        if missing:
            require_shared_store(context.workers, store)
        made = tile_all(context.workers, missing, store=recipe.store, config=recipe.tiles)
        done_now.update(slides=len(made))
    return {outcome.slide_id: outcome for outcome in (*_reused(reused, store), *made)}


def embed_slides(context: "RunContext", tiled: Mapping[str, "Outcome"]) -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Embed each tiled slide whose features are not in the store yet.

    Args:
        context: the run.
        tiled: outcomes of tiling, by slide id.

    Returns:
        Outcomes of both stages, and the key of the features of each slide that has them, by slide id.
    """
    from pipeline.cluster.shared_paths import require_shared_store
    from pipeline.slides.stages import embed_all
    from preprocessing.features.keys import feature_key
    from preprocessing.features.store import FeatureStore, query_all

    if not context.cohort.slides:
        return {}, {}
    recipe, run = context.recipe, context.run
    store, mark = FeatureStore(recipe.store), run.record["encoder"]["fingerprint"]
    with run.stage("embedding") as done_now:
        usable = [slide for slide in context.cohort.slides if tiled[slide.slide_id].status != "failed"]
        keys = {slide.slide_id: feature_key(slide, recipe.tiles, mark) for slide in usable}
        found = query_all(store.has_features, keys.values())
        missing = [slide for slide, there in zip(usable, found, strict=True) if not there]
        if missing:
            require_shared_store(context.workers, store)
        n_tiles = {name: outcome.n_tiles for name, outcome in tiled.items()}
        made = embed_all(context.workers, missing, n_tiles, recipe=recipe)
        done_now.update(slides=len(made), tiles=sum(outcome.n_tiles for outcome in made))
    outcomes = dict(tiled)
    for outcome in made:
        outcomes[outcome.slide_id] = outcome.after(tiled[outcome.slide_id])
    return outcomes, {name: key for name, key in keys.items() if outcomes[name].status != "failed"}


def draw_thumbnails(context: "RunContext", outcomes: Mapping[str, "Outcome"]) -> None:
    """Draw a thumbnail of each slide for the report; a slide without one is used all the same."""
    from pipeline.slides.thumbnails import make_thumbnails

    if not context.cohort.slides:
        return
    run, slides = context.run, context.cohort.slides
    tiles = {name: outcome.tiles for name, outcome in outcomes.items()}
    with run.stage("thumbnails"):
        run.record["thumbnails_failed"] = make_thumbnails(
            context.workers, slides, tiles, store=context.recipe.store, folder=run.folder / "thumbnails"
        )


def take_features(context: "RunContext") -> tuple[dict[str, "Outcome"], dict[str, str]]:
    """Take precomputed features from the store: outcomes and feature keys by slide id."""
    from pipeline.cluster.mapping import Outcome
    from preprocessing.features.store import FeatureStore, query_all

    cohort, store = context.cohort, FeatureStore(context.recipe.store)
    context.run.record["encoder"] = dict(cohort.precomputed.encoder) if cohort.precomputed else None
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
