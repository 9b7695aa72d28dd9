"""The stages over slides: a worker reads a slide, writes to the store and returns an outcome."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
from jaxtyping import Float

from pipeline.cluster.arithmetic import settle_arithmetic
from pipeline.cluster.gpus import GPU_WORKERS
from pipeline.cluster.mapping import Outcome, free_slot, map_slides
from pipeline.cluster.workers import Workers
from pipeline.slides.feature_recipe import FeatureRecipe
from preprocessing.encoders.config import CPU_TILES
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.errors import SlideError
from preprocessing.io.fingerprints import slide_fingerprint
from preprocessing.slides.slide import Slide
from preprocessing.tiling.masks import mask_origin
from preprocessing.tiling.slide_stats import measure_slide
from preprocessing.tiling.slide_tiles import SlideTiles
from preprocessing.tiling.stain import stain_recipe
from preprocessing.tiling.tiles import TileConfig, TileGrid, slide_normaliser, tile_slide

if TYPE_CHECKING:
    from preprocessing.encoders.encoder import Encoder

PACKAGES = (
    "openslide-python",
    "simplejpeg",
    "pillow",
    "torch",
    "timm",
)  # their arithmetic decides features
PART_TILES = 16 * CPU_TILES  # fixed, so that finished parts fit a resumed run with another number of workers
MAX_READERS = 16  # reading processes per GPU


@dataclass(frozen=True)
class SlidePart:
    """Some or all tiles of a slide.

    Attributes:
        slide: the slide.
        rows: indices of the tiles in its grid.
        n_tiles: number of tiles of the slide.
    """

    slide: Slide
    rows: range
    n_tiles: int

    @property
    def slide_id(self) -> str:
        """Id of the slide."""
        return self.slide.slide_id

    @property
    def is_whole(self) -> bool:
        """Whether the part has all tiles of the slide."""
        return len(self.rows) == self.n_tiles


def tile(slide: Slide, *, store: str, config: TileConfig) -> Outcome:
    """Lay the tile grid over a slide's tissue and store it, with the slide's statistics; damaged tiles are recomputed."""
    _require_unchanged(slide)
    place, key, made_with = FeatureStore(store), tile_key(slide, config), provenance(slide, config)
    known = place.find_tiles(key)
    tiled = known or tile_slide(slide, config)
    stats = measure_slide(slide, tiled)
    if tile_key(slide, config) != key:
        raise SlideError("the tissue mask was changed during tiling; run again")
    _require_unchanged(slide)
    if known is None:
        place.write_tiles(key, tiled, made_with)
    place.write_slide_stats(key, stats, made_with)
    return Outcome(slide.slide_id, "done", n_tiles=len(tiled.grid), tiles=key)


def tile_all(workers: Workers, slides: Sequence[Slide], *, store: str, config: TileConfig) -> list[Outcome]:
    """Call `tile` for each slide.

    Args:
        workers: on whose CPUs the slides are tiled.
        slides: all that are not tiled yet.
        store: folder or URL of the feature store.
        config: of the tiles.

    Returns:
        An outcome for each slide; one that failed has the status `failed` and a reason.
    """
    with workers.for_cpu() as cpu_workers:
        return map_slides(cpu_workers, tile, slides, stage="tiling", size=_area_px, store=store, config=config)


def _area_px(slide: Slide) -> int:
    return slide.size_px[0] * slide.size_px[1]


def divide(slides: Sequence[Slide], n_tiles: Mapping[str, int], concurrency: int) -> list[SlidePart]:
    """Divide slides that would keep one worker busy while the others are idle into parts; the others stay whole.

    Args:
        slides: slides to embed.
        n_tiles: number of tiles by slide id.
        concurrency: number of tasks that run at the same time.

    Returns:
        One or more parts of each slide.
    """
    fair = sum(n_tiles[slide.slide_id] for slide in slides) / concurrency
    parts = []
    for slide in slides:
        n = n_tiles[slide.slide_id]
        size = n if concurrency == 1 or n <= fair / 2 else PART_TILES
        borders = [*range(0, n, size), n]
        parts += [SlidePart(slide, range(start, stop), n) for start, stop in pairwise(borders)]
    return parts


def embed(part: SlidePart, *, recipe: FeatureRecipe, all_read: Callable[[], None] | None = None) -> Outcome:
    """Embed tiles of a slide and store their features; those of a part are kept in the store until all parts are done.

    Args:
        part: which tiles.
        recipe: of the features, with the store.
        all_read: on a GPU, called when the last tile is read.
    """
    from preprocessing.encoders.embedding import embed_tiles

    settle_arithmetic(recipe.device)
    slide, store = part.slide, FeatureStore(recipe.store)
    _require_unchanged(slide)
    backbone = _encoder(recipe)
    key = feature_key(slide, recipe.tiles, backbone.fingerprint)
    done = Outcome(slide.slide_id, "done", n_tiles=len(part.rows))
    if store.has_features(key) or (not part.is_whole and store.has_part(key, part.rows)):
        return done  # by another run, or before a resumed run was stopped
    grid = _grid(slide, recipe)
    readers = _readers(recipe.device)
    normalise, doubt = slide_normaliser(slide.path, grid, recipe.tiles.stain)
    start = time.perf_counter()
    tiles = SlideTiles(slide.path, grid, normalise)
    features = embed_tiles(tiles, backbone, part.rows, gpu_tiles=recipe.gpu_tiles, readers=readers, all_read=all_read)
    _require_unchanged(slide)
    if part.is_whole:
        seconds = round(time.perf_counter() - start, 3)
        timed = {"tiles": len(part.rows), "seconds": seconds, "device": recipe.device}
        _store(part, features, grid, recipe, doubt, timed=timed)
    else:
        store.write_part(key, part.rows, features)
    return replace(done, reason=doubt)


def _encoder(recipe: FeatureRecipe) -> "Encoder":
    """The encoder, once per process; only workers import torch for it."""
    from preprocessing.encoders.encoder import load_encoder

    return load_encoder(recipe.encoder, recipe.device)


def _grid(slide: Slide, recipe: FeatureRecipe) -> TileGrid:
    """A slide's tiles; where those in the store are damaged, it is tiled again."""
    store, key = FeatureStore(recipe.store), tile_key(slide, recipe.tiles)
    tiled = store.find_tiles(key)
    if tiled is None:
        tile(slide, store=recipe.store, config=recipe.tiles)
        tiled = store.read_tiles(key)
    return tiled.grid


def join(whole: SlidePart, *, recipe: FeatureRecipe, parts: Mapping[str, Sequence[range]]) -> Outcome:
    """Join the features of all parts of a slide; `parts` has the rows of each part in order, by slide id."""
    store = FeatureStore(recipe.store)
    key = feature_key(whole.slide, recipe.tiles, _encoder(recipe).fingerprint)
    doubt = ""
    if not store.has_features(key):
        grid = _grid(whole.slide, recipe)
        _, doubt = slide_normaliser(whole.slide.path, grid, recipe.tiles.stain)
        _require_unchanged(whole.slide)
        _store(whole, store.read_parts(key, parts[whole.slide_id]), grid, recipe, doubt)
    return Outcome(whole.slide_id, "done", reason=doubt, n_tiles=whole.n_tiles)


def _store(
    whole: SlidePart,
    features: Float[np.ndarray, "N D"],
    grid: TileGrid,
    recipe: FeatureRecipe,
    stain_doubt: str,
    *,
    timed: Mapping[str, Any] | None = None,
) -> None:
    store, encoder = FeatureStore(recipe.store), _encoder(recipe)
    key = feature_key(whole.slide, recipe.tiles, encoder.fingerprint)
    made_with = provenance(whole.slide, recipe.tiles) | {"encoder": encoder.describe()}
    if stain := stain_recipe(recipe.tiles.stain):
        made_with["stain"] = stain | {"doubt": stain_doubt}
    if timed:
        made_with["embedding"] = dict(timed)  # a dry run forecasts by it
    store.write_features(key, Bag(features, grid.coords, grid.cells), made_with)
    store.drop_parts(key)


def embed_all(
    workers: Workers, slides: Sequence[Slide], n_tiles: Mapping[str, int], *, recipe: FeatureRecipe
) -> list[Outcome]:
    """Call `embed` for each slide, very large ones in parts.

    On a GPU the reading of a slide begins when all tiles of the slide before are read: the last batches of that are computed, and
    its features stored, meanwhile.

    Args:
        workers: that embed.
        slides: tiled slides.
        n_tiles: number of tiles by slide id.
        recipe: of the features, with the store.

    Returns:
        An outcome for each slide; one that failed has the status `failed` and a reason.
    """
    if not slides:
        return []
    work = divide(slides, n_tiles, workers.concurrency())
    by_slide: dict[str, Outcome] = {}
    for outcome in map_slides(
        workers,
        embed,
        work,
        stage="embedding",
        size=lambda part: len(part.rows),
        unit="tiles",
        recipe=recipe,
        all_read=free_slot,
    ):
        by_slide[outcome.slide_id] = outcome.combined(by_slide.get(outcome.slide_id))
    shared = {
        part.slide_id: SlidePart(part.slide, range(part.n_tiles), part.n_tiles) for part in work if not part.is_whole
    }
    ready = [whole for name, whole in shared.items() if by_slide[name].status == "done"]
    parts = {name: [part.rows for part in work if part.slide_id == name] for name in shared}
    joined = map_slides(
        workers, join, ready, stage="joining", size=lambda whole: whole.n_tiles, recipe=recipe, parts=parts
    )
    return list((by_slide | {one.slide_id: one.after(by_slide[one.slide_id]) for one in joined}).values())


def _readers(device: str) -> int:
    """Number of reading processes for a GPU: its share of the cores but one, which launches its kernels; 0 on a CPU."""
    if device != "cuda":
        return 0
    import torch
    from dask.system import CPU_COUNT

    sharing = int(os.environ.get(GPU_WORKERS) or torch.cuda.device_count())
    return max(1, min(MAX_READERS, CPU_COUNT // sharing - 1))


def _require_unchanged(slide: Slide) -> None:
    """Raise SlideError where the file is no longer the one with the fingerprint of the slide."""
    try:
        found = slide_fingerprint(slide.path, slide.hashed)
    except FileNotFoundError:
        raise SlideError(f"{slide.path} was removed during the run; restore it and run again") from None
    if found != slide.fingerprint:
        raise SlideError(f"{slide.path.name} was replaced during the run; run again")


@cache
def _versions() -> Mapping[str, str]:
    """Versions of libraries; cached, since looking them up takes as long as storing a small slide."""
    return {"openslide": openslide.__library_version__} | {name: version(name) for name in PACKAGES}


def provenance(slide: Slide, config: TileConfig) -> dict[str, Any]:
    """Return the attributes of a group in the store that describe its origin."""
    return {
        "slide_id": slide.slide_id,
        "case_id": slide.case_id,
        "slide_file": slide.path.name,
        "slide_fingerprint": slide.fingerprint,
        "slide_hash": slide.hashed,
        "slide_mpp_xy": slide.mpp_xy,
        "slide_mpp_source": slide.mpp_source,
        "slide_size_px": slide.size_px,
        "tissue_mask": mask_origin(slide, config.tissue.masks),
        "recipe": config.model_dump(mode="json"),
        "versions": dict(_versions()),
    }
