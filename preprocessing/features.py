"""The feature store: tiles and patch features of every slide and recipe, in Zarr, in a folder or at a URL such as s3://….

    STORE/tiles/SLIDE-KEY          coords (N, 2), cells (N, 2), mask (h, w)
    STORE/features/SLIDE-KEY       features (N, D), coords (N, 2), cells (N, 2)
    STORE/parts/SLIDE-KEY/FROM-TO  features (n, D) of some tiles of a slide that several workers share, until all are there

The key is the fingerprint of all that the content depends on: the slide's bytes and resolution and the whole recipe. The
attributes say the same in words. Several processes may write different slides at once.

A group counts only when it is whole. Its description is written behind its arrays, and says how many files they have and
how many bytes; a group that later loses a part no longer fits that, and is made anew. In a folder, a group is moreover
written as a draft, STORE/drafts/HOST-PROCESS-…, and renamed, so that even two writers of one slide don't meet; an object
store can't rename, but replaces each object in one piece.
"""

import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import zarr
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Float, Int32
from zarr.codecs import ZstdCodec

from preprocessing.errors import InputError, SlideError
from preprocessing.fingerprints import fingerprint
from preprocessing.masks import mask_origin
from preprocessing.slides import Slide
from preprocessing.tiles import TileConfig, TiledSlide, TileGrid

FORMAT = 2  # of tiles and features; raise it whenever the same recipe would give other numbers
CHUNK_ROWS = 512  # of features and masks
COORDS_CHUNK_ROWS = 1 << 17  # 1 MiB
LOOKED_AT = 1000  # groups of features, to learn how fast an encoder is
KINDS = ("tiles", "features", "parts", "drafts")
CONTENT = "tiles and patch features of whole-slide images"


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


@dataclass(frozen=True)
class Measured:
    """What the store says of how a slide was embedded.

    Attributes:
        fingerprint: of the encoder.
        dim: width of a feature.
        tiles: of the slide, where it was timed; else 0.
        seconds: that one worker took for them; 0: not timed.
        device: where.
    """

    fingerprint: str
    dim: int
    tiles: int
    seconds: float
    device: str


def tile_key(slide: Slide, config: TileConfig) -> str:
    """Names the tiles of a slide under a recipe. A mask of the user's counts by its bytes, not by where it lies."""
    recipe = config.model_dump(mode="json", exclude={"tissue": {"masks"}})
    origin = mask_origin(slide, config.tissue.masks)
    masks = None if origin is None else sorted(origin.values())  # a missing mask, [], is not the detector, None
    return _group_name(slide, fingerprint(FORMAT, slide.fingerprint, slide.mpp_xy, recipe, masks))


def feature_key(slide: Slide, config: TileConfig, encoder_fingerprint: str) -> str:
    """Names the features of a slide under a recipe."""
    return _group_name(slide, fingerprint(tile_key(slide, config), encoder_fingerprint))


def imported_key(slide_id: str, *origin: Any) -> str:
    """Names features that another tool made; `origin` is all that they are known by: file, tiles, encoder."""
    return _named(slide_id, fingerprint(FORMAT, "imported", *origin))


def _group_name(slide: Slide, key: str) -> str:
    return _named(slide.slide_id, key)


def _named(slide_id: str, key: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', slide_id)[:100]}-{key}"


class FeatureStore:
    """A place for Zarr groups, shared by runs, recipes and cohorts.

    Args:
        place: a folder, or a URL that fsspec opens; the credentials of an object store come from the environment, as its
            fsspec package expects them.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place).rstrip("/")
        self._files, self._root = fsspec.core.url_to_fs(self.place)
        self._can_rename = isinstance(self._files, LocalFileSystem)
        if self._can_rename:
            self.place = self._root  # without ~ or file://, which Zarr reads otherwise

    def check(self) -> None:
        """Raises InputError where the place holds something else; a store that does not exist yet is none."""
        if self._files.isfile(self._root):
            raise InputError(f"--store {self.place} is a file; name a folder")
        found = self._found()
        if "zarr.json" in found:
            told = json.loads(self._files.cat_file(f"{self._root}/zarr.json")).get("attributes", {})
            if told.get("holds") != CONTENT:
                raise InputError(f"--store {self.place} is a Zarr group of something else; name another folder")
            if told["format"] > FORMAT:
                raise InputError(
                    f"--store {self.place} has format {told['format']}, and this version writes {FORMAT}; "
                    "name another folder, or use the version that made it"
                )
        elif others := found - set(KINDS):
            raise InputError(f"--store {self.place} holds something else ({min(others)}); name another folder")

    def exists(self) -> bool:
        """Whether there is a store at the place."""
        return "zarr.json" in self._found()

    def prepare(self) -> None:
        """Makes the store where there is none, and tidies up after processes that died."""
        if "zarr.json" not in self._found():
            with suppress(zarr.errors.ContainsGroupError):  # another run was a moment faster
                zarr.create_group(self.place, attributes={"holds": CONTENT, "format": FORMAT})
        self._sweep()

    def _found(self) -> set[str]:
        self._files.invalidate_cache(self._root)
        try:
            return {name.rstrip("/").rsplit("/", 1)[-1] for name in self._files.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    def _sweep(self) -> None:
        """Removes what processes of this machine had begun and died over."""
        own = re.compile(rf"{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{32}}")
        for draft in Path(self._root, "drafts").glob("*") if self._can_rename else ():
            process = own.fullmatch(draft.name)
            if process and not psutil.pid_exists(int(process[1])):
                shutil.rmtree(draft, ignore_errors=True)

    def has_tiles(self, key: str) -> bool:
        """Whether that slide is tiled."""
        return self._is_whole(f"tiles/{key}")

    def has_features(self, key: str) -> bool:
        """Whether that slide is embedded."""
        return self._is_whole(f"features/{key}")

    def has_part(self, key: str, rows: range) -> bool:
        """Whether those tiles of a slide are embedded."""
        return self._is_whole(_part(key, rows))

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
        self._write(f"tiles/{key}", arrays, attributes | dict(provenance))

    def read_tiles(self, key: str) -> TiledSlide:
        """A slide's tiles and tissue mask."""
        group = self._open(f"tiles/{key}")
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

    def count_tiles(self, key: str) -> int | None:
        """How many tiles a slide has; None where it is not tiled."""
        described = self._described(f"tiles/{key}")
        return None if described is None else int(described["n_tiles"])

    def write_features(self, key: str, bag: Bag, provenance: Mapping[str, Any], *, exactly: bool = False) -> None:
        """Store a slide's patch features, as float16 where that holds them; raises SlideError if any is not finite.

        Args:
            key: of the slide and the recipe.
            bag: its tiles.
            provenance: what the attributes say.
            exactly: as float16 only where that loses nothing, not even precision.
        """
        _require_finite(bag.features)
        small = np.abs(bag.features).max(initial=0) <= np.finfo(np.float16).max
        if small and exactly:
            small = np.array_equal(bag.features.astype(np.float16), bag.features)
        features = bag.features.astype(np.float16 if small else np.float32)
        arrays = {"features": features, "coords": bag.coords, "cells": bag.cells}
        self._write(f"features/{key}", arrays, provenance)

    def read_features(self, key: str) -> Bag:
        """A slide's patch features."""
        group = self._open(f"features/{key}")
        return Bag(_array(group, "features"), _array(group, "coords"), _array(group, "cells"))

    def count_tiles_of_features(self, key: str) -> int | None:
        """How many tiles a slide's features have; None where they are not there."""
        if not self.has_features(key):
            return None
        return int(zarr.open_array(f"{self.place}/features/{key}/coords", mode="r", zarr_format=3).shape[0])

    def measure(self, encoder: str, precision: str) -> list[Measured]:
        """How slides were embedded with that encoder, as far as the store says; at most `LOOKED_AT` of its groups are read."""
        try:
            groups = sorted(self._files.ls(f"{self._root}/features", detail=False))
        except FileNotFoundError:
            return []
        found = []
        for group in groups[:LOOKED_AT]:
            told = self._described(f"features/{group.rstrip('/').rsplit('/', 1)[-1]}") or {}
            by, timed = told.get("encoder", {}), told.get("embedding", {})
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
        """What a slide's features are made of, as they were stored; None where they are not there or not whole."""
        return self._described(f"features/{key}") if self.has_features(key) else None

    def write_part(self, key: str, rows: range, features: Float[np.ndarray, "n D"]) -> None:
        """Store the features of some of a slide's tiles, as they are."""
        _require_finite(features)
        self._write(_part(key, rows), {"features": features}, {})

    def read_parts(self, key: str, parts: Iterable[range]) -> Float[np.ndarray, "N D"]:
        """The features of all parts, one behind the other."""
        return np.concatenate([_array(self._open(_part(key, rows)), "features") for rows in parts])

    def drop_parts(self, key: str) -> None:
        """Forget the parts of a slide, those of an earlier run with other borders among them."""
        with suppress(FileNotFoundError):  # another run was a moment faster
            self._files.rm(f"{self._root}/parts/{key}", recursive=True)

    def _open(self, name: str) -> zarr.Group:
        if not self._is_whole(name):
            raise SlideError(f"store {self.place}: {name} is not whole; run again, and it is made anew")
        group = zarr.open_group(f"{self.place}/{name}", mode="r", zarr_format=3)
        if group.attrs.get("format") != FORMAT:
            raise SlideError(f"store {self.place}: {name} has format {group.attrs.get('format')}, not {FORMAT}")
        return group

    def _write(self, name: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
        written = f"drafts/{_own_drafts()}-{uuid.uuid4().hex}" if self._can_rename else name
        try:
            if not self._can_rename:
                with suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{name}/zarr.json")  # from now on it is not there
            files = sum(self._write_array(f"{written}/{part}", array) for part, array in arrays.items())
            content = self._content(written)
            if content["files"] != files:
                raise SlideError(f"store {self.place}: another run writes {name} at this moment; run again")
            described = {"format": FORMAT, "content": content, **attributes}
            zarr.create_group(f"{self.place}/{written}", zarr_format=3, attributes=described)
            if self._can_rename:
                self._publish(written, name)
        finally:
            if self._can_rename:
                with suppress(FileNotFoundError):
                    self._files.rm(f"{self._root}/{written}", recursive=True)

    def _write_array(self, name: str, array: np.ndarray) -> int:
        """Returns the number of files."""
        rows = COORDS_CHUNK_ROWS if array.dtype == np.int32 else CHUNK_ROWS
        chunks = (min(rows, max(1, len(array))), *array.shape[1:])
        stored = zarr.create_array(
            f"{self.place}/{name}",
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunks,
            compressors=ZstdCodec(level=3),
            config={"write_empty_chunks": True},
            overwrite=True,
            zarr_format=3,
        )
        stored[...] = array
        return stored.nchunks + 1

    def _publish(self, written: str, name: str) -> None:
        final = Path(self._root, name)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_dir() and not self._is_whole(name):
            shutil.rmtree(final)
        try:
            os.rename(Path(self._root, written), final)
        except OSError:
            if not self._is_whole(name):  # else another process finished the same slide first: its work is as good
                raise

    def _is_whole(self, name: str) -> bool:
        """Whether every file is there that was written, in its full length: Zarr reads a lost chunk as zeros, without a word."""
        described = self._described(name)
        return described is not None and described.get("content") == self._content(name)

    def _described(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._files.cat_file(f"{self._root}/{name}/zarr.json")).get("attributes", {}))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None

    def _content(self, name: str) -> dict[str, int]:
        """How many files the arrays of a group have, and how many bytes."""
        self._files.invalidate_cache(f"{self._root}/{name}")
        found = self._files.find(f"{self._root}/{name}", detail=True)
        sizes = [entry["size"] for path, entry in found.items() if not path.endswith(f"{name}/zarr.json")]
        return {"files": len(sizes), "bytes": sum(sizes)}


def _own_drafts() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _part(key: str, rows: range) -> str:
    return f"parts/{key}/{rows.start}-{rows.stop}"


def _require_finite(features: Float[np.ndarray, "n D"]) -> None:
    if not np.isfinite(features).all():
        raise SlideError("the encoder gave features that are not finite")


def _array(group: zarr.Group, name: str) -> np.ndarray:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise SlideError(f"store: {group.store_path}/{name} is not an array; remove the group, and it is made anew")
    return np.asarray(array[...])
