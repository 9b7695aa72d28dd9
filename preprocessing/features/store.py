"""The feature store: tiles and patch features of every slide and recipe, in Zarr, in a folder or at a URL such as s3://….

    STORE/tiles/SLIDE-KEY          coords (N, 2), cells (N, 2), mask (h, w)
    STORE/looks/SLIDE-KEY          how the tiled slide looks: numbers alone, in the attributes; the key is that of its tiles
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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
import zarr
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Float, Int32
from zarr.codecs import ZstdCodec

from preprocessing.features.chunks import read_array
from preprocessing.io.atomic import REMEDY, draft_name, sweep, writing
from preprocessing.io.errors import InputError, SlideError
from preprocessing.io.files import file_above
from preprocessing.io.fingerprints import fingerprint
from preprocessing.slides.slide import Slide
from preprocessing.tiling.masks import mask_origin
from preprocessing.tiling.slide_stats import STATS_FORMAT, SlideStats
from preprocessing.tiling.stain import stain_recipe
from preprocessing.tiling.tiles import TileConfig, TiledSlide, TileGrid, tile_recipe

FORMAT = 2  # of tiles and features; raise it whenever the same recipe would give other numbers
CHUNK_ROWS = 512  # of features and masks
COORDS_CHUNK_ROWS = 1 << 17  # 1 MiB
ASKED_AT_ONCE = 8  # a disk across a network, or an object store, answers each question late
LOOKED_AT = 1000  # groups of features, to learn how fast an encoder is
KINDS = ("tiles", "looks", "features", "parts", "drafts")
CONTENT = "tiles and patch features of whole-slide images"
MAX_DESCRIPTION_BYTES = 1 << 20  # of JSON; what is written has some KB
R = TypeVar("R")


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


def ask_many(question: Callable[[str], R], keys: Iterable[str]) -> list[R]:
    """What a store answers for each of the keys, in their order; it is asked several at a time."""
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(question, keys))


def tile_key(slide: Slide, config: TileConfig) -> str:
    """Names the tiles of a slide under a recipe. A mask of the user's counts by its bytes, not by where it lies."""
    recipe = tile_recipe(config)
    origin = mask_origin(slide, config.tissue.masks)
    masks = None if origin is None else sorted(origin.values())  # a missing mask, [], is not the detector, None
    return _named(slide.slide_id, fingerprint(FORMAT, slide.fingerprint, slide.mpp_xy, recipe, masks))


def feature_key(slide: Slide, config: TileConfig, encoder_fingerprint: str) -> str:
    """Names the features of a slide under a recipe. A normalised stain changes them, not where the tiles lie."""
    stain = stain_recipe(config.stain)
    made_of = (tile_key(slide, config), encoder_fingerprint)
    return _named(slide.slide_id, fingerprint(*made_of) if stain is None else fingerprint(*made_of, stain))


def imported_key(slide_id: str, *origin: Any) -> str:
    """Names features that another tool made; `origin` is all that they are known by: file, tiles, encoder."""
    return _named(slide_id, fingerprint(FORMAT, "imported", *origin))


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
        self.can_rename = isinstance(self._files, LocalFileSystem)
        if self.can_rename:
            self.place = self._root  # without ~ or file://, which Zarr reads otherwise

    def check(self) -> None:
        """Raises InputError where the place holds something else; a store that does not exist yet is none."""
        if self._files.isfile(self._root):
            raise InputError(f"--store {self.place} is a file; name a folder")
        if self.can_rename and (file := file_above(Path(self._root))):
            raise InputError(f"--store {self.place} cannot be made: {file} is a file; name another folder")
        found = self._found()
        if "zarr.json" in found:
            told = self._attributes(f"{self._root}/zarr.json") or {}
            if told.get("holds") != CONTENT or not isinstance(told.get("format"), int):
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

    def require(self) -> None:
        """Raises InputError where there is no store, or something else."""
        if not self._found() & {"zarr.json", *KINDS}:
            raise InputError(
                f"{self.place} is no feature store; name the folder or URL that a run was given by --store"
            )
        self.check()

    def names(self, folder: str) -> list[str]:
        """What lies directly in a folder of the store, sorted."""
        return sorted(_listed(self._files, f"{self._root}/{folder}"))

    def extent(self, name: str) -> tuple[int, float]:
        """Bytes of all files of a group, and when the last of them was written, in seconds since 1970; of none, 0 and now."""
        self._files.invalidate_cache(f"{self._root}/{name}")
        found = self._files.find(f"{self._root}/{name}", detail=True).values()
        return sum(entry["size"] for entry in found), max(map(_written, found), default=time.time())

    def remove(self, name: str) -> None:
        """Removes a group: at once for whoever looks for it, as far as the place can."""
        gone = f"drafts/{draft_name()}" if self.can_rename else name
        with suppress(FileNotFoundError):  # another run was a moment faster
            if self.can_rename:
                Path(self._root, "drafts").mkdir(exist_ok=True)
                os.rename(Path(self._root, name), Path(self._root, gone))
            else:
                self._files.rm_file(f"{self._root}/{name}/zarr.json")
        with suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{gone}", recursive=True)

    def prepare(self) -> None:
        """Makes the store where there is none, and tidies up after processes that died; InputError where it cannot be made."""
        if "zarr.json" not in self._found():
            try:
                with suppress(zarr.errors.ContainsGroupError):  # another run was a moment faster
                    zarr.create_group(self.place, attributes={"holds": CONTENT, "format": FORMAT})
            except OSError as error:
                raise InputError(f"--store {self.place} cannot be made ({error.strerror or error}); {REMEDY}") from None
        self.sweep()

    def sweep(self) -> None:
        """Removes what processes of this machine had begun and died over."""
        if self.can_rename:
            sweep(Path(self._root, "drafts").glob("*"))

    def require_writable(self) -> None:
        """Raises InputError where nothing can be stored."""
        probe = f"{self._root}/drafts/{draft_name()}"
        try:
            self._files.makedirs(f"{self._root}/drafts", exist_ok=True)
            self._files.pipe_file(probe, b"?")
            self._files.rm_file(probe)
        except OSError as error:
            raise InputError(f"--store {self.place} cannot be written ({error.strerror or error}); {REMEDY}") from None

    def _found(self) -> set[str]:
        return _listed(self._files, self._root)

    def has_tiles(self, key: str) -> bool:
        """Whether that slide is tiled."""
        return self.is_whole(f"tiles/{key}")

    def has_features(self, key: str) -> bool:
        """Whether that slide is embedded."""
        return self.is_whole(f"features/{key}")

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
        described = self.described(f"tiles/{key}")
        return None if described is None else int(described["n_tiles"])

    def has_look(self, key: str) -> bool:
        """Whether it is known how that slide looks."""
        return self.read_look(key) is not None

    def write_look(self, key: str, look: SlideStats, provenance: Mapping[str, Any]) -> None:
        """Store how a slide looks, under the key of its tiles."""
        self._write(f"looks/{key}", {}, {"look_format": STATS_FORMAT, "look": asdict(look)} | dict(provenance))

    def read_look(self, key: str) -> SlideStats | None:
        """How a slide looks; None where nobody has measured it, or an earlier version did."""
        described = self.described(f"looks/{key}")
        if described is None or described.get("look_format") != STATS_FORMAT:
            return None
        return SlideStats(**described["look"])

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
            told = self.described(f"features/{group.rstrip('/').rsplit('/', 1)[-1]}") or {}
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
        return self.described(f"features/{key}") if self.has_features(key) else None

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
        if not self.is_whole(name):
            raise SlideError(f"store {self.place}: {name} is not whole; run again, and it is made anew")
        group = zarr.open_group(f"{self.place}/{name}", mode="r", zarr_format=3, use_consolidated=False)
        if group.attrs.get("format") != FORMAT:
            raise SlideError(f"store {self.place}: {name} has format {group.attrs.get('format')}, not {FORMAT}")
        return group

    def _write(self, name: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
        written = f"drafts/{draft_name()}" if self.can_rename else name
        with writing(f"store {self.place}: {name}"), self._removed_if_left(written):
            if not self.can_rename:
                with suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{name}/zarr.json")  # from now on it is not there
            files = sum(self._write_array(f"{written}/{part}", array) for part, array in arrays.items())
            content = self._content(written)
            if content is None or content["files"] != files:
                raise SlideError(f"store {self.place}: another run writes {name} at this moment; run again")
            described = {"format": FORMAT, "content": content, **attributes}
            zarr.create_group(f"{self.place}/{written}", zarr_format=3, attributes=described)
            if self.can_rename:
                self._publish(written, name)

    @contextmanager
    def _removed_if_left(self, written: str) -> Iterator[None]:
        try:
            yield
        finally:
            if self.can_rename:
                shutil.rmtree(Path(self._root, written), ignore_errors=True)

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
        if final.is_dir() and not self.is_whole(name):
            shutil.rmtree(final)
        try:
            os.rename(Path(self._root, written), final)
        except OSError:
            if not self.is_whole(name):  # else another process finished the same slide first: its work is as good
                raise

    def is_whole(self, name: str) -> bool:
        """Whether every file is there that was written, in its full length: Zarr reads a lost chunk as zeros, without a word."""
        described, content = self.described(name), self._content(name)
        return described is not None and content is not None and described.get("content") == content

    def described(self, name: str) -> dict[str, Any] | None:
        """The attributes of a group, by its place in the store; None where it has none yet, or they cannot be read."""
        return self._attributes(f"{self._root}/{name}/zarr.json")

    def _attributes(self, path: str) -> dict[str, Any] | None:
        try:
            text = self._files.cat_file(path, start=0, end=MAX_DESCRIPTION_BYTES + 1)
            return dict(json.loads(text)["attributes"]) if len(text) <= MAX_DESCRIPTION_BYTES else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, LookupError, TypeError, RecursionError):  # no JSON, or none of ours
            return None

    def _content(self, name: str) -> dict[str, int] | None:
        """How many files the arrays of a group have, and how many bytes; None where a description is longer than any is."""
        self._files.invalidate_cache(f"{self._root}/{name}")
        found = self._files.find(f"{self._root}/{name}", detail=True)
        if any(path.endswith("/zarr.json") and entry["size"] > MAX_DESCRIPTION_BYTES for path, entry in found.items()):
            return None
        sizes = [entry["size"] for path, entry in found.items() if not path.endswith(f"{name}/zarr.json")]
        return {"files": len(sizes), "bytes": sum(sizes)}


def _listed(files: fsspec.AbstractFileSystem, folder: str) -> set[str]:
    files.invalidate_cache(folder)
    try:
        return {name.rstrip("/").rsplit("/", 1)[-1] for name in files.ls(folder, detail=False)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _written(entry: Mapping[str, Any]) -> float:
    """When a file was written, as the different places say it; where they don't, now."""
    told = next((entry[key] for key in ("mtime", "LastModified", "created") if entry.get(key) is not None), None)
    if told is None:
        return time.time()
    return float(told) if isinstance(told, int | float) else told.timestamp()


def _part(key: str, rows: range) -> str:
    return f"parts/{key}/{rows.start}-{rows.stop}"


def _require_finite(features: Float[np.ndarray, "n D"]) -> None:
    if not np.isfinite(features).all():
        raise SlideError("the encoder gave features that are not finite")


def _array(group: zarr.Group, name: str) -> np.ndarray:
    content: Any = group.attrs["content"]
    return read_array(group, name, files=content["files"], size_bytes=content["bytes"])
