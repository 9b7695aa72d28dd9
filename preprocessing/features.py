"""The feature store: tiles and patch features of every slide and recipe, in Zarr.

    STORE/tiles/SLIDE-KEY      coords (N, 2), cells (N, 2), mask (h, w)
    STORE/features/SLIDE-KEY   features (N, D), coords (N, 2), cells (N, 2)

The key is the fingerprint of all that the content depends on: the slide's bytes and resolution and the whole recipe. The
attributes say the same in words. A group is written under a temporary name and renamed when it is whole; its attribute
`content` says how much there is of it, so that one which later loses a part is made anew. Several processes may write
different slides at once.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Int32
from zarr.codecs import ZstdCodec

from preprocessing.errors import SlideError
from preprocessing.fingerprints import fingerprint
from preprocessing.masks import mask_origin
from preprocessing.slides import Slide
from preprocessing.tiles import TileConfig, TiledSlide, TileGrid

FORMAT = 1  # of tiles and features; raise it whenever the same recipe would give other numbers
CHUNK_ROWS = 512


@dataclass(frozen=True)
class Bag:
    """The patch features of one slide.

    Attributes:
        features: as stored, float16 or float32.
        coords: upper left corners, level-0 pixels (x, y).
        cells: column and row on the slide's tile grid.
    """

    features: Float[np.ndarray, "N D"]
    coords: Int32[np.ndarray, "N 2"]
    cells: Int32[np.ndarray, "N 2"]


def tile_key(slide: Slide, config: TileConfig) -> str:
    """Names the tiles of a slide under a recipe. A mask of the user's counts by its bytes, not by where it lies."""
    recipe = config.model_dump(mode="json", exclude={"tissue": {"masks"}})
    origin = mask_origin(slide, config.tissue.masks)
    masks = None if origin is None else sorted(origin.values())  # a missing mask, [], is not the detector, None
    return _group_name(slide, fingerprint(FORMAT, slide.fingerprint, slide.mpp_xy, recipe, masks))


def feature_key(slide: Slide, config: TileConfig, encoder_fingerprint: str) -> str:
    """Names the features of a slide under a recipe."""
    return _group_name(slide, fingerprint(tile_key(slide, config), encoder_fingerprint))


def _group_name(slide: Slide, key: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', slide.slide_id)[:100]}-{key}"


class FeatureStore:
    """A folder of Zarr groups, shared by runs, recipes and cohorts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has_tiles(self, key: str) -> bool:
        """Whether that slide is tiled."""
        return _is_whole(self.path / "tiles" / key)

    def has_features(self, key: str) -> bool:
        """Whether that slide is embedded."""
        return _is_whole(self.path / "features" / key)

    def write_tiles(self, key: str, tiled: TiledSlide, provenance: Mapping[str, Any]) -> None:
        """Store a slide's tiles and tissue mask."""
        grid = tiled.grid
        attributes = {
            "level": grid.level,
            "span_px": grid.span_px,
            "level_span_px": grid.level_span_px,
            "tile_px": grid.tile_px,
            "mpp": grid.mpp,
            "mask_downsample": tiled.mask_downsample,
            "dropped": dict(tiled.dropped),
        }
        arrays = {"coords": grid.coords, "cells": grid.cells, "mask": tiled.mask}
        self._write("tiles", key, arrays, attributes | dict(provenance))

    def read_tiles(self, key: str) -> TiledSlide:
        """A slide's tiles and tissue mask."""
        group = self._open("tiles", key)
        attributes: dict[str, Any] = dict(group.attrs)
        grid = TileGrid(
            coords=_array(group, "coords"),
            cells=_array(group, "cells"),
            level=int(attributes["level"]),
            span_px=tuple(attributes["span_px"]),
            level_span_px=tuple(attributes["level_span_px"]),
            tile_px=int(attributes["tile_px"]),
            mpp=float(attributes["mpp"]),
        )
        return TiledSlide(
            grid, _array(group, "mask"), float(attributes["mask_downsample"]), dict(attributes["dropped"])
        )

    def count_tiles(self, key: str) -> int:
        """How many tiles a slide has."""
        return len(_array(self._open("tiles", key), "coords"))

    def write_features(self, key: str, bag: Bag, provenance: Mapping[str, Any]) -> None:
        """Store a slide's patch features, as float16 where that holds them; raises SlideError if any is not finite."""
        if not np.isfinite(bag.features).all():
            raise SlideError("the encoder gave features that are not finite")
        small = np.abs(bag.features).max(initial=0) <= np.finfo(np.float16).max
        features = bag.features.astype(np.float16 if small else np.float32)
        self._write("features", key, {"features": features, "coords": bag.coords, "cells": bag.cells}, provenance)

    def read_features(self, key: str) -> Bag:
        """A slide's patch features."""
        group = self._open("features", key)
        return Bag(_array(group, "features"), _array(group, "coords"), _array(group, "cells"))

    def _open(self, kind: str, key: str) -> zarr.Group:
        if not _is_whole(self.path / kind / key):
            raise SlideError(f"store {self.path}: {kind}/{key} is not whole; run again, and it is made anew")
        group = zarr.open_group(self.path / kind / key, mode="r", zarr_format=3)
        if group.attrs.get("format") != FORMAT:
            raise SlideError(f"store {self.path}: {kind}/{key} has format {group.attrs.get('format')}, not {FORMAT}")
        return group

    def _write(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
        folder = self.path / kind
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{key}.{uuid.uuid4().hex}"
        try:
            group = zarr.open_group(draft, mode="w-", zarr_format=3, attributes={"format": FORMAT, **attributes})
            for name, array in arrays.items():
                chunks = (min(CHUNK_ROWS, max(1, len(array))), *array.shape[1:])
                stored = group.create_array(
                    name, shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=ZstdCodec(level=3)
                )
                stored[...] = array
            group.attrs["content"] = _content(draft)
            self._publish(draft, folder / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @staticmethod
    def _publish(draft: Path, final: Path) -> None:
        if final.is_dir() and not _is_whole(final):
            shutil.rmtree(final)
        try:
            os.rename(draft, final)
        except OSError:
            if not _is_whole(final):  # else another process finished the same slide first: its work is as good
                raise


def _is_whole(folder: Path) -> bool:
    """Whether every file is there that was written, in its full length: Zarr reads a lost chunk as zeros, without a word."""
    try:
        described = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return described.get("attributes", {}).get("content") == _content(folder)


def _content(folder: Path) -> dict[str, int]:
    """How many files the arrays of a group have, and how many bytes."""
    sizes = [path.stat().st_size for path in folder.glob("*/**/*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _array(group: zarr.Group, name: str) -> np.ndarray:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise SlideError(f"store: {group.store_path}/{name} is not an array; remove the group, and it is made anew")
    return np.asarray(array[...])
