"""What is done with one slide, as a worker does it: it reads the slide, writes the store, and returns an outcome."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.compute import Outcome, one_thread
from preprocessing.encoders import Encoder, EncoderConfig, load_encoder
from preprocessing.errors import SlideError
from preprocessing.features import Bag, FeatureStore, feature_key, tile_key
from preprocessing.fingerprints import slide_fingerprint
from preprocessing.masks import mask_origin
from preprocessing.reader import SlideReader
from preprocessing.slides import Slide
from preprocessing.tiles import TileConfig, TileGrid, read_tile, tile_slide


def tile(slide: Slide, *, store: Path, config: TileConfig) -> Outcome:
    """Lay the tile grid over a slide's tissue and store it."""
    _require_unchanged(slide)
    key, made_with = tile_key(slide, config), provenance(slide, config)  # before the mask is read, which may be changed
    tiled = tile_slide(slide, config)
    FeatureStore(store).write_tiles(key, tiled, made_with)
    return Outcome(slide.slide_id, "done", n_tiles=len(tiled.grid))


def embed(
    slide: Slide, *, store: Path, config: TileConfig, encoder: EncoderConfig, device: str, batch_tiles: int
) -> Outcome:
    """Send a slide's tiles through the encoder and store the features."""
    if device == "cpu":
        one_thread()
    _require_unchanged(slide)
    backbone = load_encoder(encoder).to(device)
    features_store = FeatureStore(store)
    grid = features_store.read_tiles(tile_key(slide, config)).grid
    with SlideReader(slide.path) as reader:
        features = embed_tiles(reader, grid, backbone, batch_tiles=batch_tiles)
    made_with = provenance(slide, config) | {"encoder": backbone.describe()}
    key = feature_key(slide, config, backbone.fingerprint)
    features_store.write_features(key, Bag(features, grid.coords, grid.cells), made_with)
    return Outcome(slide.slide_id, "done", n_tiles=len(grid))


def _require_unchanged(slide: Slide) -> None:
    """What is stored under a slide's fingerprint must come from that very slide."""
    if slide_fingerprint(slide.path) != slide.fingerprint:
        raise SlideError(f"{slide.path.name} was replaced while the run was on; run again")


def embed_tiles(reader: SlideReader, grid: TileGrid, encoder: Encoder, *, batch_tiles: int) -> np.ndarray:
    """Patch features (N, D) float32 of all tiles, in their order."""
    features = np.empty((len(grid), encoder.dim), np.float32)
    tiles = np.empty((batch_tiles, grid.tile_px, grid.tile_px, 3), np.uint8)
    for start in range(0, len(grid), batch_tiles):
        n = min(batch_tiles, len(grid) - start)
        for i in range(n):
            tiles[i] = read_tile(reader, grid, start + i)
        features[start : start + n] = encoder.embed(tiles[:n])
    return features


def provenance(slide: Slide, config: TileConfig) -> dict[str, Any]:
    """What the attributes of a stored group say about its origin."""
    return {
        "slide_id": slide.slide_id,
        "case_id": slide.case_id,
        "slide_file": slide.path.name,
        "slide_fingerprint": slide.fingerprint,
        "slide_mpp_xy": slide.mpp_xy,
        "slide_mpp_source": slide.mpp_source,
        "slide_size_px": slide.size_px,
        "tissue_mask": mask_origin(slide, config.tissue.masks),
        "recipe": config.model_dump(mode="json"),
    }
