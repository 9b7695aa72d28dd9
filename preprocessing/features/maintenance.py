"""What is in a feature store, whether it is whole, and what of it can go."""

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from preprocessing.features.store import FORMAT, FeatureStore
from preprocessing.io.errors import SlideError

OWN_KINDS = ("tiles", "looks", "features")  # of groups that are published whole
WASTE = ("damaged", "abandoned", "superseded")  # states that no run will ever use
SPOILT = (SlideError, ValueError, RuntimeError, LookupError)  # what a damaged array ends with


@dataclass(frozen=True)
class Entry:
    """A group of the store, a part of a slide, or a draft.

    Attributes:
        kind: tiles, looks, features, parts or drafts.
        key: its name below the kind.
        state: whole; damaged: it lost files, or its arrays are spoilt; unreadable: the place does
            not let it be read at this moment; other format: of another version; busy: a run may
            be writing it, or go on from it; abandoned: its run died; superseded: a part of a slide that is finished.
        size_bytes: of all its files.
        told: what its attributes say.
    """

    kind: str
    key: str
    state: str
    size_bytes: int
    told: dict[str, Any]

    @property
    def name(self) -> str:
        """Where it lies in the store."""
        return f"{self.kind}/{self.key}"

    @property
    def slide_id(self) -> str:
        """The slide's; of a part, what its key makes of it."""
        return str(self.told.get("slide_id") or self.key.split("/")[0].rsplit("-", 1)[0])

    @property
    def encoder(self) -> str:
        """Name of the encoder; empty where there is none."""
        return str(self.told.get("encoder", {}).get("name", ""))

    @property
    def recipe(self) -> str:
        """The tiles, in words, with the stain where it is normalised."""
        recipe = self.told.get("recipe", {})
        if "tile_px" not in recipe:
            return str(recipe.get("name", "")) if isinstance(recipe, dict) else str(recipe)
        stain = self.told.get("stain", {}).get("method")
        return f"{recipe['tile_px']} px at {recipe['mpp']:g} µm" + (f", {stain}" if stain else "")


def entries(store: FeatureStore, *, stale_hours: float, deep: bool = False) -> Iterator[Entry]:
    """Everything in the store.

    Args:
        store: one that exists.
        stale_hours: what could still be being written, and was not touched for so long, is abandoned.
        deep: read every array too.
    """
    for kind in OWN_KINDS:
        for key in store.names(kind):
            yield look_up(store, f"{kind}/{key}", stale_hours=stale_hours, deep=deep)
    for key in store.names("parts"):
        for rows in store.names(f"parts/{key}"):
            yield look_up(store, f"parts/{key}/{rows}", stale_hours=stale_hours)
    for draft in store.names("drafts"):
        yield look_up(store, f"drafts/{draft}", stale_hours=stale_hours)


def look_up(store: FeatureStore, name: str, *, stale_hours: float, deep: bool = False) -> Entry:
    """One entry as it is at this moment; see `entries`."""
    try:
        return _look_up(store, name, stale_hours=stale_hours, deep=deep)
    except OSError:  # its files are listed, and not read
        kind, key = name.split("/", 1)
        return Entry(kind, key, "unreadable", 0, {})


def _look_up(store: FeatureStore, name: str, *, stale_hours: float, deep: bool) -> Entry:
    kind, key = name.split("/", 1)
    size, newest = store.extent(name)
    stale = time.time() - newest > 3600 * stale_hours
    told = store.described(name) or {}
    if kind == "drafts":
        state = "abandoned" if stale or _is_of_dead_process(key) else "busy"
    elif kind == "parts":
        finished = store.has_features(key.split("/")[0])
        state = "superseded" if finished else "abandoned" if stale else "busy"
    elif not store.is_whole(name):
        state = "damaged" if store.can_rename or stale else "busy"  # an object store shows what is being written
    elif told.get("format") != FORMAT:
        state = "other format"
    else:
        state = _state_of_arrays(store, kind, key) if deep else "whole"
    return Entry(kind, key, state, size, told)


def _is_of_dead_process(draft: str) -> bool:
    """Of this machine; of another nobody here can tell."""
    own = re.fullmatch(rf"{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{32}}", draft)
    return own is not None and not psutil.pid_exists(int(own[1]))


def _state_of_arrays(store: FeatureStore, kind: str, key: str) -> str:
    try:
        if kind == "looks":
            store.read_look(key)
        elif kind == "tiles":
            store.read_tiles(key)
        else:
            bag = store.read_features(key)
            return "whole" if len(bag.features) == len(bag.coords) == len(bag.cells) else "damaged"
    except FileNotFoundError:
        return "damaged"
    except OSError:  # the disk or the network does not answer: what lies there may be good
        return "unreadable"
    except SPOILT:
        return "damaged"
    return "whole"
