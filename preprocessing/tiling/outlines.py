"""Outlines of tissue and of artefacts in GeoJSON files, as QuPath exports them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from preprocessing.io.errors import InputError
from preprocessing.io.files import read_bytes

# Classes of regions that are no tissue to be used: in general, and as GrandQC and HistoQC name kinds of artefacts.
CUT_OUT = frozenset(
    {"ignore", "exclude", "excluded", "artefact", "artefacts", "artifact", "artifacts", "background", "fold", "folds"}
    | {
        "tissue fold",
        "blur",
        "blurred",
        "blurry",
        "out of focus",
        "oof",
        "pen",
        "pen marking",
        "pen markings",
        "penmarking",
    }
    | {"pen mark", "ink", "marker", "bubble", "bubbles", "air bubble", "air bubbles", "edge & air bubble", "dust"}
    | {"darkspot", "dark spot", "darkspot & foreign object", "foreign object", "coverslip edge", "crack", "scratch"}
)
LARGEST = 1e9  # level-0 pixels: a hundred times the longest side of any slide
REMEDY = "export the outlines again as GeoJSON, in level-0 pixels"
_RING = "a polygon's ring is not a list of three or more points [x, y]"


class MaskError(ValueError):
    """A mask cannot be used, for the reason that the message gives."""


@dataclass(frozen=True)
class Outline:
    """A polygon.

    Attributes:
        rings: vertices (x, y); the first ring is the boundary, the others are holes.
        cut: whether it marks an artefact or another region to be ignored, rather than tissue.
        name: its class, or "".
    """

    rings: list[Float[np.ndarray, "n 2"]]
    cut: bool
    name: str = ""


def read_outlines(path: Path) -> list[Outline]:
    """Return the polygons of a GeoJSON file: a collection, a list of features or geometries, or a single one.

    The file may be compressed. Geometries that are null or empty outline nothing (RFC 7946, section 3.1). Where QuPath exports
    its hierarchy, objects within an annotation are its children; they count like all others. Objects of the type `tile`, which
    `run_pipeline export geojson` writes beside the tissue, are not outlines and are skipped.

    Raises:
        MaskError: not GeoJSON, a geometry other than polygons, or coordinates that are no pixels of a slide.
    """
    try:
        data = read_bytes(path)
    except InputError as error:
        raise MaskError(str(error).removeprefix(f"{path}: ")) from None
    if data.lstrip().startswith(b"<"):
        raise MaskError(f"it is XML or HTML (ImageScope and ASAP write annotations as XML), not GeoJSON; {REMEDY}")
    try:
        # Integers are read as floats: one of hundreds of digits is infinite then, and refused with its ring.
        content = json.loads(data, parse_int=float)
    except RecursionError:
        raise MaskError(f"it is nested too deeply; {REMEDY}") from None
    except ValueError as error:
        raise MaskError(f"it is no GeoJSON: {error}; {REMEDY}") from None
    return list(_outlines(content if isinstance(content, list) else [content], ""))


def _outlines(members: Iterable[Any], name: str) -> Iterator[Outline]:
    for member in members:
        kind = member.get("type") if isinstance(member, dict) else None
        if kind == "FeatureCollection":
            yield from _outlines(_members(member, "features"), "")
        elif kind == "Feature":
            yield from _of_feature(member)
        elif kind == "GeometryCollection":
            yield from _outlines(_members(member, "geometries"), name)
        elif kind == "Polygon":
            if polygon := _members(member, "coordinates"):
                yield Outline(_rings(polygon), _is_cut(name), name)
        elif kind == "MultiPolygon":
            for polygon in _members(member, "coordinates"):
                yield Outline(_rings(polygon), _is_cut(name), name)
        else:
            raise MaskError(
                f"a geometry of type {kind}; only Polygon and MultiPolygon outline tissue, remove the others"
            )


def _of_feature(feature: dict[str, Any]) -> Iterator[Outline]:
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise MaskError(f"the properties of a feature are {type(properties).__name__}, not an object; {REMEDY}")
    if properties.get("objectType") == "tile":
        return
    if feature.get("geometry") is not None:
        yield from _outlines([feature["geometry"]], _class_name(properties.get("classification")))
    yield from _outlines(_members(properties, "childObjects"), "")


def _members(parent: dict[str, Any], key: str) -> list[Any]:
    found = parent.get(key) or []
    if not isinstance(found, list):
        raise MaskError(f"{key} of a {parent.get('type', 'feature')} is {type(found).__name__}, not a list; {REMEDY}")
    return found


def _class_name(classification: Any) -> str:
    if isinstance(classification, Mapping):
        names = classification.get("names")
        classification = classification.get("name") or (names[0] if isinstance(names, list) and names else "")
    return str(classification or "")


def _is_cut(name: str) -> bool:
    """Whether a class marks a region to be ignored. QuPath's built-in class is `Ignore*`; a subclass follows a colon."""
    return name.split(":", maxsplit=1)[0].strip(" *").lower().replace("_", " ") in CUT_OUT


def _rings(coordinates: Any) -> list[Float[np.ndarray, "n 2"]]:
    if not isinstance(coordinates, list) or not coordinates:
        raise MaskError(f"a polygon without coordinates; {REMEDY}")
    return [_ring(ring) for ring in coordinates]


def _ring(points: Any) -> Float[np.ndarray, "n 2"]:
    """The vertices (x, y); further coordinates of a point are ignored."""
    if not isinstance(points, list) or len(points) < 3:
        raise MaskError(f"{_RING}, but {_shortened(points)}; {REMEDY}")
    for point in points:
        if not isinstance(point, list) or len(point) < 2 or not all(type(value) is float for value in point[:2]):
            raise MaskError(f"{_RING}: {_shortened(point)} is no point; {REMEDY}")
    ring = np.array([point[:2] for point in points], dtype=float)
    if not (absurd := np.abs(ring)).max() <= LARGEST:  # NaN compares false
        x, y = ring[int(np.nanargmax(np.where(np.isnan(absurd), np.inf, absurd).max(1)))]
        raise MaskError(f"a vertex at x {x:g}, y {y:g}, which is no pixel of a slide; {REMEDY}")
    return ring


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
