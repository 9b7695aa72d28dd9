"""A slide's tissue and tiles as QuPath reads them: annotations and tiles in level-0 pixels.

QuPath's origin is the corner of the scanned region, where a file declares one. Tiles are objects of the type `tile`, which
`preprocessing.tiling.masks` skips: the file can be used as a tissue mask and then yields the mask it was made from.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Shaped

from preprocessing.formats.colours import prototype_colour, rgb
from preprocessing.io.extras import extra

TISSUE_COLOUR = (150, 150, 150)
TILE_COLOUR = (90, 130, 180)
NAMES = uuid.UUID("0a0b2f9e-4f0e-5c39-9d0e-2d8a0c6a7d11")  # namespace of ids made from names: files are reproducible


@dataclass(frozen=True)
class TileObjects:
    """The tiles of a slide as objects for QuPath.

    Attributes:
        coords: their upper left corners, level-0 pixels (x, y).
        span_px: width and height of a tile in level-0 pixels.
        values: values per tile by name; `prototype` becomes the tile's class, the others its measurements.
        colours: colours of prototypes, as #rrggbb.
    """

    coords: Int32[np.ndarray, "N 2"]
    span_px: tuple[float, float]
    values: Mapping[str, Shaped[np.ndarray, " N"]] = field(default_factory=dict)
    colours: Mapping[int, str] = field(default_factory=dict)


def to_geojson(
    slide_id: str,
    tiles: TileObjects,
    *,
    mask: Bool[np.ndarray, "h w"] | None,
    size_px: tuple[int, int],
    corner_px: tuple[int, int],
) -> str:
    """Return a feature collection for QuPath, as JSON.

    Args:
        slide_id: the slide.
        tiles: its tiles.
        mask: tissue over the whole slide; None where it is unknown.
        size_px: width and height of level 0.
        corner_px: origin of the file's coordinates, level-0 pixels (x, y) of the slide.
    """
    features = [] if mask is None else list(_tissue(slide_id, mask, size_px, corner_px))
    features += _tiles(slide_id, tiles, corner_px)
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)


def _tissue(
    slide_id: str, mask: Bool[np.ndarray, "h w"], size_px: tuple[int, int], corner_px: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """An annotation for each piece of tissue, along the edges of the mask's pixels."""
    scale = np.array([size_px[0] / mask.shape[1], size_px[1] / mask.shape[0]])
    for number, piece in enumerate(outline(mask)):
        rings = [np.asarray(ring.coords) * scale - corner_px for ring in (piece.exterior, *piece.interiors)]
        geometry = {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]}
        yield _feature(f"{slide_id} tissue {number}", geometry, "annotation", "Tissue", TISSUE_COLOUR)


def outline(mask: Bool[np.ndarray, "h w"]) -> list[Any]:
    """Return the shapely polygons, with holes, that cover the mask's pixels exactly, in mask pixels, from left to right."""
    with extra("exchange", "the export of outlines"):
        import shapely

    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(padded, axis=1) == 1)
    _, ends = np.nonzero(np.diff(padded, axis=1) == -1)  # as many, row by row in the same order
    area = shapely.union_all(shapely.box(starts, rows, ends, rows + 1))
    pieces = [shapely.geometry.polygon.orient(piece) for piece in shapely.get_parts(area)]  # as RFC 7946 requires
    return sorted(pieces, key=lambda piece: piece.bounds)


def _tiles(slide_id: str, tiles: TileObjects, corner_px: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for i, (x, y) in enumerate((tiles.coords - np.array(corner_px)).tolist()):
        right, lower = x + tiles.span_px[0], y + tiles.span_px[1]
        geometry = {"type": "Polygon", "coordinates": [[[x, y], [right, y], [right, lower], [x, lower], [x, y]]]}
        name, colour = "Tile", TILE_COLOUR
        if "prototype" in tiles.values:
            prototype = int(tiles.values["prototype"][i])
            name, colour = f"prototype {prototype}", rgb(colour_of(prototype, tiles.colours))
        measured = {what: float(array[i]) for what, array in tiles.values.items() if np.isfinite(array[i])}
        yield _feature(f"{slide_id} tile {i}", geometry, "tile", name, colour, measured)


def _feature(
    name: str,
    geometry: Mapping[str, Any],
    kind: str,
    classified: str,
    colour: tuple[int, int, int],
    measured: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    properties = {"objectType": kind, "classification": {"name": classified, "color": list(colour)}}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMES, name)),
        "geometry": geometry,
        "properties": properties | ({"measurements": dict(measured)} if measured else {}),
    }


def colour_of(prototype: int, colours: Mapping[int, str]) -> str:
    """Return the colour of a prototype, counted from 1: from `colours`, or else from the palette."""
    return colours.get(prototype, prototype_colour(prototype))
