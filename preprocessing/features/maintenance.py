"""What is in a feature store, whether it is whole, and what of it can be removed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from preprocessing.features.group_attributes import CHECKED, READABLE
from preprocessing.features.groups import OLD_TEMPORARY, TEMPORARY
from preprocessing.features.store import ARRAYS, FEATURES, PARTS, SLIDE_STATS, TILES, FeatureStore
from preprocessing.io.atomic import is_abandoned
from preprocessing.io.errors import SlideError

GROUPS = (TILES, SLIDE_STATS, "looks", FEATURES)  # kinds that are published whole; looks: slide statistics of format 2
TEMPORARIES = (TEMPORARY, OLD_TEMPORARY)
WASTE = ("damaged", "abandoned", "superseded")  # states that no run will ever use
SPOILT = (
    SlideError,
    ValueError,
    TypeError,
    RuntimeError,
    LookupError,
)  # what reading damaged arrays or attributes ends with


@dataclass(frozen=True)
class Entry:
    """A group of the store, a part of a slide, or a temporary folder.

    Attributes:
        kind: tiles, slide_stats, features, parts or temporary.
        key: its name below the kind.
        state: whole; damaged: it lost files, or it is not what was written; unreadable: the disk or the network does not let it
            be read at this moment; other format: of another version; busy: a run may be writing it, or continue from it;
            abandoned: its run died; superseded: a part of a slide that is finished.
        size_bytes: of all its files.
        attributes: of the group; empty where there are none.
        has_checksums: whether its content can be checked; groups of format 2 have no checksums.
    """

    kind: str
    key: str
    state: str
    size_bytes: int
    attributes: dict[str, Any]
    has_checksums: bool = True

    @property
    def name(self) -> str:
        """Path of the entry in the store."""
        return f"{self.kind}/{self.key}"

    @property
    def is_temporary(self) -> bool:
        """Whether a process is writing it, or crashed while writing it."""
        return self.kind in TEMPORARIES

    @property
    def slide_id(self) -> str:
        """The slide; of a part, as its key spells it."""
        return str(self.attributes.get("slide_id") or self.key.split("/")[0].rsplit("-", 1)[0])

    @property
    def encoder(self) -> str:
        """Name of the encoder; empty where there is none."""
        return str(self.attributes.get("encoder", {}).get("name", ""))

    @property
    def recipe(self) -> str:
        """The tiles in words, with the stain where it is normalised."""
        recipe = self.attributes.get("recipe", {})
        if "tile_px" not in recipe:
            return str(recipe.get("name", "")) if isinstance(recipe, dict) else str(recipe)
        stain = self.attributes.get("stain", {}).get("method")
        return f"{recipe['tile_px']} px at {recipe['mpp']:g} µm" + (f", {stain}" if stain else "")


def entries(store: FeatureStore, *, stale_hours: float, deep: bool = False) -> Iterator[Entry]:
    """Everything in the store.

    Args:
        store: one that exists.
        stale_hours: what could still be being written, and was not touched for so long, is abandoned.
        deep: read every array too, and compare it with its checksum.
    """
    for kind in GROUPS:
        for key in store.names(kind):
            yield inspect_entry(store, f"{kind}/{key}", stale_hours=stale_hours, deep=deep)
    for key in store.names(PARTS):
        for rows in store.names(f"{PARTS}/{key}"):
            yield inspect_entry(store, f"{PARTS}/{key}/{rows}", stale_hours=stale_hours)
    for kind in TEMPORARIES:
        for name in store.names(kind):
            yield inspect_entry(store, f"{kind}/{name}", stale_hours=stale_hours)


def inspect_entry(store: FeatureStore, name: str, *, stale_hours: float, deep: bool = False) -> Entry:
    """One entry as it is at this moment; see `entries`.

    Args:
        store: the store.
        name: path of the entry in the store, as `features/KEY`.
        stale_hours: age from which a temporary file or part counts as abandoned.
        deep: whether checksums of the content are compared, which reads all of it.
    """
    try:
        return _inspect(store, name, stale_hours=stale_hours, deep=deep)
    except OSError:  # its files are listed, and not read
        kind, key = name.split("/", 1)
        return Entry(kind, key, "unreadable", 0, {})


def _inspect(store: FeatureStore, name: str, *, stale_hours: float, deep: bool) -> Entry:
    kind, key = name.split("/", 1)
    size, newest = store.extent(name)
    stale = time.time() - newest > 3600 * stale_hours
    attributes = store.attributes(name) or {}
    has_checksums = attributes.get("format") in CHECKED
    if kind in TEMPORARIES:
        state = "abandoned" if stale or is_abandoned(key) else "busy"
    elif kind == PARTS:
        finished = store.has_features(key.split("/")[0])
        state = "superseded" if finished else "abandoned" if stale else "busy"
    elif store.problem(name):
        state = "damaged" if store.can_rename or stale else "busy"  # an object store shows what is being written
    elif attributes.get("format") not in READABLE:
        state = "other format"
    else:
        state = _state_of_arrays(store, kind, key) if deep else "whole"
    return Entry(kind, key, state, size, attributes, has_checksums)


def _state_of_arrays(store: FeatureStore, kind: str, key: str) -> str:
    try:
        if kind == TILES:
            store.read_tiles(key)
        elif kind == FEATURES:
            store.read_features(key)
        else:
            store.read_slide_stats(key)
    except FileNotFoundError:
        return "damaged"
    except OSError:  # the disk or the network does not answer: what lies there may be good
        return "unreadable"
    except SPOILT:
        return "damaged"
    return "whole"


def upgrade(store: FeatureStore, entry: Entry) -> bool:
    """Write a whole group of an older version again as this version does, under the same key.

    Returns:
        Whether that was necessary.

    Raises:
        SlideError: its arrays cannot be read.
        RunError: it cannot be written.
    """
    arrays = ARRAYS.get(entry.kind, ())
    if entry.kind not in GROUPS or entry.state != "whole" or store.is_current(entry.name, arrays):
        return False
    store.rewrite(entry.name, arrays)
    return True


def add_checksums(store: FeatureStore, entry: Entry) -> None:
    """Note the checksums of a whole group of an older format, so that its content can be checked from now on.

    Raises:
        SlideError: its arrays cannot be read.
        RunError: it cannot be written.
    """
    store.add_checksums(entry.name, ARRAYS.get(entry.kind, ()))
