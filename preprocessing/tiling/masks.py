"""A user's own tissue masks in the place of the detector: a folder with a file for each slide.

    SLIDE.geojson          outlines, as QuPath exports them: polygons in level-0 pixels, with holes
    SLIDE.png, SLIDE.tif   a picture of the whole slide in any size: what is not zero is tissue

SLIDE is the slide's id or, where no file has that name, the stem of the slide's file.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from preprocessing.io.errors import SlideError
from preprocessing.io.fingerprints import file_fingerprint
from preprocessing.slides.slide import Slide

SUFFIXES = (".geojson", ".png", ".tif", ".tiff")
CUT_OUT = frozenset({"ignore", "exclude", "excluded", "artefact", "artefacts", "artifact", "artifacts"})
ASPECT_TOLERANCE = 0.02  # a picture of another shape is of another slide, or of a part of it
MAX_PICTURE_PIXELS = 1 << 26  # 8192 × 8192: pixels of 3 µm on the largest of slides
EDGES_AT_ONCE = 1024  # of an outline: bounds the memory, even where each of them crosses every row


@dataclass(frozen=True)
class Outline:
    """A polygon.

    Attributes:
        rings: vertices (x, y); the first ring is the outside, the others are its holes.
        cut: what lies in it is no tissue.
    """

    rings: list[Float[np.ndarray, "n 2"]]
    cut: bool


def mask_files(slide: Slide, folder: Path) -> list[Path]:
    """The files that could be the slide's mask, of its id if there are any, else of its file's stem; there should be one."""
    for name in (slide.slide_id, slide.path.stem):
        if name != Path(name).name:  # an id such as ../../x, which would lead out of the folder
            continue
        paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        found = [path for path in paths if os.path.isfile(path) and path.resolve() != slide.path.resolve()]
        if found:
            return found
    return []


def mask_origin(slide: Slide, folder: Path | None) -> dict[str, str] | None:
    """Where a slide's tissue is from: the fingerprint of its mask by file name, or None where the detector looks for it."""
    return None if folder is None else {path.name: file_fingerprint(path) for path in mask_files(slide, folder)}


def read_mask(
    slide: Slide, folder: Path, shape: tuple[int, int], *, corner_px: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The tissue of the whole slide, as the user's file has it.

    Args:
        slide: the slide.
        folder: holds the masks.
        shape: height and width of the mask that is wanted. A pixel is tissue if its centre is.
        corner_px: the point (x, y) of the slide from which outlines are measured, in level-0 pixels.

    Raises:
        SlideError: no mask for this slide, more than one, one that cannot be read, of another slide, or without tissue.
    """
    path = _only_file(slide, folder)
    try:
        if path.suffix == ".geojson":
            mask = _rasterise(read_outlines(path), slide.size_px, shape, corner_px)
        else:
            mask = _sample(_read_picture(path, shape), slide.size_px, shape)
    # Of json, numpy, Pillow, tifffile.
    except (ValueError, TypeError, OSError, SyntaxError, AttributeError, LookupError, RecursionError) as error:
        raise SlideError(f"tissue mask {path}: {error}") from None
    if not mask.any():
        raise SlideError(f"tissue mask {path}: nothing in it is tissue")
    return mask


def _only_file(slide: Slide, folder: Path) -> Path:
    found = mask_files(slide, folder)
    if not found:
        names = " or ".join(dict.fromkeys((slide.slide_id, slide.path.stem)))
        raise SlideError(f"no tissue mask in {folder}: looked for {names} with {', '.join(SUFFIXES)}")
    if len(found) > 1:
        raise SlideError(f"more than one tissue mask: {', '.join(map(str, found))}; leave one")
    return found[0]


def read_outlines(path: Path) -> list[Outline]:
    """The polygons of a GeoJSON file: a collection, a list of features or geometries, or a single one.

    QuPath writes what lies within an annotation as its children where it exports the hierarchy; they count as the others.
    Its tiles, which `python -m workflows.export geojson` writes beside the tissue, are no outlines.

    Raises:
        ValueError: not JSON, or a geometry that is no polygon.
    """
    content = json.loads(path.read_bytes())
    return list(_outlines(content if isinstance(content, list) else [content], cut=False))


def _outlines(members: Iterable[Any], *, cut: bool) -> Iterator[Outline]:
    for member in members:
        kind = member.get("type") if isinstance(member, dict) else None
        if kind == "FeatureCollection":
            yield from _outlines(member.get("features") or (), cut=False)
        elif kind == "Feature":
            properties = member.get("properties") or {}
            if properties.get("objectType") == "tile":
                continue
            yield from _outlines([member.get("geometry")], cut=_is_cut(properties.get("classification")))
            yield from _outlines(properties.get("childObjects") or (), cut=False)
        elif kind == "Polygon":
            yield Outline(_rings(member.get("coordinates")), cut)
        elif kind == "MultiPolygon":
            yield from (Outline(_rings(polygon), cut) for polygon in member.get("coordinates") or ())
        else:
            raise ValueError(
                f"a geometry of type {kind}; only Polygon and MultiPolygon outline tissue, remove the others"
            )


def _is_cut(classification: Any) -> bool:
    """Whether a class says that this is no tissue; QuPath's own one is `Ignore*`, and a subclass follows a colon."""
    if isinstance(classification, Mapping):
        classification = classification.get("name") or next(iter(classification.get("names") or ()), "")
    return str(classification or "").split(":")[0].strip(" *").lower() in CUT_OUT


def _rings(coordinates: Any) -> list[Float[np.ndarray, "n 2"]]:
    rings = [np.asarray(ring, dtype=float) for ring in coordinates or ()]
    if not rings:
        raise ValueError("a polygon without coordinates")
    for ring in rings:
        if ring.ndim != 2 or len(ring) < 3 or ring.shape[1] < 2 or not np.isfinite(ring).all():
            raise ValueError("a polygon's ring is not a list of three or more points [x, y]")
    return [ring[:, :2] for ring in rings]


def _rasterise(
    outlines: list[Outline], size_px: tuple[int, int], shape: tuple[int, int], corner_px: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """What lies in an outline of tissue and in none that is cut out."""
    if all(outline.cut for outline in outlines):
        raise ValueError(f"{len(outlines)} outlines, none of which is tissue")
    _require_inside(outlines, size_px, corner_px)
    scale = np.array([shape[1] / size_px[0], shape[0] / size_px[1]])
    mask = np.zeros(shape, bool)
    for outline in sorted(outlines, key=lambda outline: outline.cut):  # cuts come last: they win
        first, *holes = ((ring + corner_px) * scale for ring in outline.rings)
        rows, columns, inside = _fill(first, shape)
        for hole in holes:
            hole_rows, hole_columns, hollow = _fill(hole - (columns.start, rows.start), inside.shape)
            inside[hole_rows, hole_columns] &= ~hollow
        mask[rows, columns][inside] = not outline.cut
    return mask


def _require_inside(outlines: list[Outline], size_px: tuple[int, int], corner_px: tuple[int, int]) -> None:
    boxes = np.array([[ring.min(0), ring.max(0)] for ring in (outline.rings[0] for outline in outlines)]) + corner_px
    outside = ((boxes[:, 1] <= 0) | (boxes[:, 0] >= size_px)).any(1)
    if outside.any():
        (left, top), (right, bottom) = boxes[outside][0]
        raise ValueError(
            f"{outside.sum()} of {len(outlines)} outlines lie wholly outside the slide of {size_px[0]} × {size_px[1]} "
            f"pixels (x {left:.0f} … {right:.0f}, y {top:.0f} … {bottom:.0f}): "
            "is it another slide's mask, or not in level-0 pixels?"
        )


def _fill(ring: Float[np.ndarray, "n 2"], shape: tuple[int, ...]) -> tuple[slice, slice, Bool[np.ndarray, "h w"]]:
    """Which pixels' centres lie in a ring, by the even-odd rule: the rows and columns that it spans, and there the answer.

    Each edge flips all pixels to the right of it, in the rows whose centre line it crosses.
    """
    limits = np.array([shape[1], shape[0]])
    left, top = np.clip(np.ceil(ring.min(0) - 0.5), 0, limits).astype(int).tolist()
    right, bottom = np.clip(np.ceil(ring.max(0) - 0.5), (left, top), limits).astype(int).tolist()
    flips = np.zeros((bottom - top, right - left + 1), np.uint8)  # modulo 256: only odd or even matters
    edges = np.hstack([ring, np.roll(ring, -1, axis=0)])  # x, y of both ends
    for start in range(0, len(edges), EDGES_AT_ONCE):
        rows, x = _crossings(edges[start : start + EDGES_AT_ONCE], top, bottom)
        columns = np.clip(np.ceil(x - 0.5), left, right).astype(int)
        np.add.at(flips, (rows - top, columns - left), 1)
    inside = np.add.accumulate(flips, axis=1, dtype=np.uint8)[:, :-1] % 2 == 1
    return slice(top, bottom), slice(left, right), inside


def _crossings(edges: Float[np.ndarray, "n 4"], top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """Where edges cross the centre lines of the rows from `top` to `bottom`: row and x of each crossing."""
    x, y, x_end, y_end = edges.T
    first = np.clip(np.ceil(np.minimum(y, y_end) - 0.5), top, bottom).astype(int)
    counts = np.clip(np.ceil(np.maximum(y, y_end) - 0.5), top, bottom).astype(int) - first
    edge = np.repeat(np.arange(len(edges)), counts)
    rows = first[edge] + np.arange(len(edge)) - np.repeat(counts.cumsum() - counts, counts)
    part = (rows + 0.5 - y[edge]) / (y_end - y)[edge]
    return rows, x[edge] + part * (x_end - x)[edge]


def _read_picture(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of a PNG or TIFF; of a pyramid, the smallest level that has all the detail that is wanted."""
    if path.suffix != ".png":
        return _read_tiff(path, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as picture:
                _require_small(picture.height, picture.width)
                return np.asarray(picture)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ValueError(_too_large("more than 8192 × 8192")) from None


def _read_tiff(path: Path, shape: tuple[int, int]) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        levels = [level for series in tiff.series for level in series.levels if level.axes in ("YX", "YXS")]
        if not levels:
            raise ValueError(f"axes {', '.join(series.axes for series in tiff.series)}; save it as one flat picture")
        fine_enough = [level for level in levels if level.shape[0] >= shape[0] and level.shape[1] >= shape[1]]
        level = min(fine_enough, key=_rows) if fine_enough else max(levels, key=_rows)
        _require_small(*level.shape[:2])
        return level.asarray()


def _rows(level: Any) -> int:
    return level.shape[0]


def _require_small(height: int, width: int) -> None:
    if height * width > MAX_PICTURE_PIXELS:
        raise ValueError(_too_large(f"{width} × {height}"))


def _too_large(what: str) -> str:
    return f"{what} pixels; save it smaller, 8192 × 8192 at most: pixels of some µm are fine enough"


def _sample(picture: np.ndarray, size_px: tuple[int, int], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The picture's pixel at each centre of the mask's pixels: whether it is anything but zero, and not transparent."""
    height, width = picture.shape[:2]
    aspect, expected = width / height, size_px[0] / size_px[1]
    if abs(aspect / expected - 1) > ASPECT_TOLERANCE:
        raise ValueError(
            f"{width} × {height} pixels, which is not the shape of the slide ({size_px[0]} × {size_px[1]}): "
            "is it another slide's mask, or of a part of this one?"
        )
    rows = ((np.arange(shape[0]) + 0.5) * height / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * width / shape[1]).astype(int)
    pixels = picture[np.ix_(rows, columns)]
    if pixels.ndim == 2:
        return pixels != 0
    if pixels.shape[2] in (2, 4):
        return (pixels[..., :-1] != 0).any(2) & (pixels[..., -1] != 0)
    return (pixels != 0).any(2)
