"""The feature store: tiles and patch features of every slide and recipe, in Zarr, in a folder or at a URL such as s3://….

    STORE/tiles/SLIDE-KEY          coords (N, 2), cells (N, 2), mask (h, w)
    STORE/slide_stats/SLIDE-KEY    statistics of the tiled slide, in the attributes; the key is that of its tiles
    STORE/features/SLIDE-KEY       features (N, D), coords (N, 2), cells (N, 2)
    STORE/parts/SLIDE-KEY/FROM-TO  features (n, D) of some tiles of a slide that several workers share, until all are there

The key is the fingerprint of all that the content depends on: the slide's bytes and resolution and the whole recipe. The
attributes describe the same in words. Several processes may write different slides at once. What makes a group count is
described in `preprocessing.features.groups`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int32

from preprocessing.features.arrays import DamagedError
from preprocessing.features.groups import GroupStore
from preprocessing.io.errors import SlideError
from preprocessing.tiling.slide_stats import STATS_FORMAT, SlideStats
from preprocessing.tiling.tiles import TiledSlide, TileGrid

log = logging.getLogger(__name__)
TILES, SLIDE_STATS, FEATURES, PARTS = KINDS = ("tiles", "slide_stats", "features", "parts")
# Names of the arrays of each kind of group, in the order in which they are read.
ARRAYS = {
    TILES: ("coords", "cells", "mask"),
    SLIDE_STATS: (),
    FEATURES: ("features", "coords", "cells"),
    PARTS: ("features",),
}
QUERIES_AT_ONCE = 8  # a disk across a network, or an object store, answers each query late
MAX_MEASURED = 1000  # groups of features that are read to learn how fast an encoder is
R = TypeVar("R")


@dataclass(frozen=True)
class Bag:
    """The patch features of one slide.

    Attributes:
        features: float16 or float32, as in the store.
        coords: upper left corners of the tiles, level-0 pixels (x, y).
        cells: column and row on the slide's tile grid.
    """

    features: Float[np.ndarray, "N D"]
    coords: Int32[np.ndarray, "N 2"]
    cells: Int32[np.ndarray, "N 2"]


@dataclass(frozen=True)
class Measured:
    """How a slide was embedded, from the store's attributes.

    Attributes:
        fingerprint: of the encoder.
        dim: width of a feature.
        tiles: number of tiles where the slide was timed; else 0.
        seconds: that one worker took for them; 0: not timed.
        device: "cpu" or "cuda"; empty where it was not timed.
    """

    fingerprint: str
    dim: int
    tiles: int
    seconds: float
    device: str


def query_all(query: Callable[[str], R], keys: Iterable[str]) -> list[R]:
    """The results of a query of the store for each key, in their order; several run at a time."""
    with ThreadPoolExecutor(QUERIES_AT_ONCE) as pool:
        return list(pool.map(query, keys))


class FeatureStore(GroupStore):
    """Tiles, slide statistics and patch features by key.

    Args:
        place: a folder, or a URL that fsspec opens.
    """

    def __init__(self, place: str | Path) -> None:
        super().__init__(place, (*KINDS, "looks"))  # looks: slide statistics of format 2

    def has_tiles(self, key: str) -> bool:
        """Whether the slide is tiled."""
        return self.is_whole(f"{TILES}/{key}")

    def has_features(self, key: str) -> bool:
        """Whether the slide is embedded."""
        return self.is_whole(f"{FEATURES}/{key}")

    def has_part(self, key: str, rows: range) -> bool:
        """Whether those tiles of a slide are embedded."""
        return self.is_whole(_part(key, rows))

    def write_tiles(self, key: str, tiled: TiledSlide, provenance: Mapping[str, Any]) -> None:
        """Store a slide's tiles and tissue mask."""
        grid = tiled.grid
        attributes = {
            "n_tiles": len(grid),
            "level": grid.level,
            "span_px": grid.span_px,
            "level_span_px": grid.level_span_px,
            "tile_px": grid.tile_px,
            "mpp": grid.mpp,
            "mask_downsample": tiled.mask_downsample,
            "dropped": dict(tiled.dropped),
        }
        arrays = {"coords": grid.coords, "cells": grid.cells, "mask": tiled.mask}
        self.write(f"{TILES}/{key}", arrays, attributes | dict(provenance))

    def read_tiles(self, key: str) -> TiledSlide:
        """A slide's tiles and tissue mask.

        Raises:
            DamagedError: they are not there, or not what was written.
        """
        attributes, (coords, cells, mask) = self.read(f"{TILES}/{key}", ARRAYS[TILES])
        grid = TileGrid(
            coords=coords,
            cells=cells,
            level=int(attributes["level"]),
            span_px=tuple(attributes["span_px"]),
            level_span_px=tuple(attributes["level_span_px"]),
            tile_px=int(attributes["tile_px"]),
            mpp=float(attributes["mpp"]),
        )
        return TiledSlide(grid, mask, float(attributes["mask_downsample"]), dict(attributes["dropped"]))

    def find_tiles(self, key: str) -> TiledSlide | None:
        """A slide's tiles and tissue mask; None where they are not there, or damaged, which is logged."""
        if not self.has_tiles(key):
            return None
        try:
            return self.read_tiles(key)
        except DamagedError as error:
            log.warning("%s", error)
            return None

    def count_tiles(self, key: str) -> int | None:
        """How many tiles a slide has; None where it is not tiled."""
        attributes = self.attributes(f"{TILES}/{key}")
        return None if attributes is None else int(attributes["n_tiles"])

    def has_slide_stats(self, key: str) -> bool:
        """Whether the slide's statistics are measured."""
        return self.read_slide_stats(key) is not None

    def write_slide_stats(self, key: str, stats: SlideStats, provenance: Mapping[str, Any]) -> None:
        """Store a slide's statistics, under the key of its tiles."""
        self.write(
            f"{SLIDE_STATS}/{key}", {}, {"stats_format": STATS_FORMAT, "slide_stats": asdict(stats)} | dict(provenance)
        )

    def read_slide_stats(self, key: str) -> SlideStats | None:
        """A slide's statistics; None where they are not measured, or an earlier version measured them."""
        for kind, version, content in ((SLIDE_STATS, "stats_format", "slide_stats"), ("looks", "look_format", "look")):
            attributes = self.attributes(f"{kind}/{key}")
            if attributes and attributes.get(version) == STATS_FORMAT:
                return SlideStats(**attributes[content])
        return None

    def write_features(self, key: str, bag: Bag, provenance: Mapping[str, Any], *, lossless: bool = False) -> None:
        """Store a slide's patch features, as float16 where its range holds them.

        Args:
            key: of the slide and the recipe.
            bag: its tiles.
            provenance: attributes of the group.
            lossless: use float16 only where it loses no precision either.

        Raises:
            SlideError: a feature is not finite.
        """
        _require_finite(bag.features)
        small = np.abs(bag.features).max(initial=0) <= np.finfo(np.float16).max
        if small and lossless:
            small = np.array_equal(bag.features.astype(np.float16), bag.features)
        features = bag.features.astype(np.float16 if small else np.float32)
        arrays = {"features": features, "coords": bag.coords, "cells": bag.cells}
        self.write(f"{FEATURES}/{key}", arrays, provenance)

    def read_features(self, key: str) -> Bag:
        """A slide's patch features.

        Raises:
            DamagedError: they are not there, or not what was written.
        """
        _, (features, coords, cells) = self.read(f"{FEATURES}/{key}", ARRAYS[FEATURES])
        if not len(features) == len(coords) == len(cells):
            raise DamagedError(
                f"store {self.place}: {FEATURES}/{key} has {len(features)} features of {len(coords)} tiles in {len(cells)} "
                "cells; remove it and run again"
            )
        return Bag(features, coords, cells)

    def count_tiles_of_features(self, key: str) -> int | None:
        """How many tiles a slide's features have; None where they are not there."""
        if not self.has_features(key):
            return None
        return len(self.read(f"{FEATURES}/{key}", ("coords",))[1][0])

    def measure(self, encoder: str, precision: str) -> list[Measured]:
        """How slides were embedded with that encoder, from the attributes of at most `MAX_MEASURED` groups."""
        found = []
        for key in self.names(FEATURES)[:MAX_MEASURED]:
            attributes = self.attributes(f"{FEATURES}/{key}") or {}
            by, timed = attributes.get("encoder", {}), attributes.get("embedding", {})
            if (by.get("name"), by.get("precision")) == (encoder, precision):
                found.append(
                    Measured(
                        by["fingerprint"],
                        int(by["dim"]),
                        int(timed.get("tiles", 0)),
                        float(timed.get("seconds", 0)),
                        str(timed.get("device", "")),
                    )
                )
        return found

    def describe_features(self, key: str) -> dict[str, Any] | None:
        """The attributes of a slide's features; None where they are not there or not whole."""
        return self.attributes(f"{FEATURES}/{key}") if self.has_features(key) else None

    def write_part(self, key: str, rows: range, features: Float[np.ndarray, "n D"]) -> None:
        """Store the features of some of a slide's tiles, float32."""
        _require_finite(features)
        self.write(_part(key, rows), {"features": features}, {})

    def read_parts(self, key: str, parts: Iterable[range]) -> Float[np.ndarray, "N D"]:
        """The features of all parts, one behind the other."""
        return np.concatenate([self.read(_part(key, rows), ARRAYS[PARTS])[1][0] for rows in parts])

    def drop_parts(self, key: str) -> None:
        """Remove the parts of a slide, those of an earlier run with other borders among them."""
        with suppress(FileNotFoundError):  # another run was a moment faster
            self._files.rm(f"{self._root}/{PARTS}/{key}", recursive=True)


def _part(key: str, rows: range) -> str:
    return f"{PARTS}/{key}/{rows.start}-{rows.stop}"


def _require_finite(features: Float[np.ndarray, "n D"]) -> None:
    if not np.isfinite(features).all():
        raise SlideError("the encoder gave features that are not finite")
