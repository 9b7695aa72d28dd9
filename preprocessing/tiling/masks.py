"""Tissue masks of the user, which replace the detector: a folder with a file for each slide.

    SLIDE.geojson          outlines, as QuPath exports them: polygons in level-0 pixels, with holes
    SLIDE.png, SLIDE.tif   an image of the whole slide in any size: every pixel other than zero is tissue

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
from preprocessing.slides.probing import MASK_SUFFIXES
from preprocessing.slides.slide import Slide

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
ASPECT_TOLERANCE = 0.02  # a mask of other proportions belongs to another slide, or to a part of it
MAX_MASK_PIXELS = 1 << 26  # 8192 × 8192: pixels of 3 µm on the largest of slides
EDGES_AT_ONCE = 1024  # of an outline: bounds the memory, even where every edge crosses every row
# Errors of Pillow and tifffile on damaged images; they are caught around the libraries' reading alone.
READING_ERRORS = (ValueError, TypeError, OSError, SyntaxError, AttributeError, LookupError, ArithmeticError)


class MaskError(ValueError):
    """A mask cannot be used, for the reason that the message gives."""


@dataclass(frozen=True)
class Outline:
    """A polygon.

    Attributes:
        rings: vertices (x, y); the first ring is the boundary, the others are holes.
        cut: whether it marks an artefact or another region to be ignored, rather than tissue.
    """

    rings: list[Float[np.ndarray, "n 2"]]
    cut: bool


def mask_files(slide: Slide, folder: Path) -> list[Path]:
    """Return the files that could be the slide's mask: those named by its id, or else by its file's stem. One is expected."""
    for name in (slide.slide_id, slide.path.stem):
        if name != Path(name).name:  # an id such as ../../x would lead out of the folder
            continue
        paths = [folder / f"{name}{suffix}" for suffix in MASK_SUFFIXES]
        found = [path for path in paths if os.path.isfile(path) and path.resolve() != slide.path.resolve()]
        if found:
            return found
    return []


def mask_origin(slide: Slide, folder: Path | None) -> dict[str, str] | None:
    """Return the fingerprint of the slide's mask by file name, or None where the detector finds the tissue."""
    return None if folder is None else {path.name: file_fingerprint(path) for path in mask_files(slide, folder)}


def read_mask(
    slide: Slide, folder: Path, shape: tuple[int, int], *, corner_px: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Return the tissue of the whole slide according to the user's mask.

    Args:
        slide: the slide.
        folder: the folder of masks.
        shape: height and width of the returned mask. A pixel is tissue if its centre is.
        corner_px: origin of the outlines' coordinates, level-0 pixels (x, y) of the slide.

    Returns:
        Boolean mask of that shape, True where there is tissue.

    Raises:
        SlideError: no mask for this slide, more than one, one that cannot be read, of another slide, or without tissue.
    """
    path = _only_file(slide, folder)
    try:
        if path.suffix == ".geojson":
            mask = _rasterise(read_outlines(path), slide.size_px, shape, corner_px)
        else:
            mask = _sample(_read_image(path, shape), slide.size_px, shape)
    except MaskError as error:
        raise SlideError(f"tissue mask {path}: {error}") from None
    if not mask.any():
        raise SlideError(f"tissue mask {path}: it contains no tissue")
    return mask


def _only_file(slide: Slide, folder: Path) -> Path:
    found = mask_files(slide, folder)
    if not found:
        names = " or ".join(dict.fromkeys((slide.slide_id, slide.path.stem)))
        raise SlideError(f"no tissue mask in {folder}: expected {names} with the suffix {', '.join(MASK_SUFFIXES)}")
    if len(found) > 1:
        raise SlideError(f"more than one tissue mask: {', '.join(map(str, found))}; keep one")
    return found[0]


def read_outlines(path: Path) -> list[Outline]:
    """Return the polygons of a GeoJSON file: a collection, a list of features or geometries, or a single one.

    Where QuPath exports its hierarchy, objects within an annotation are its children; they count like all others. Objects of
    the type `tile`, which `run_pipeline export geojson` writes beside the tissue, are not outlines and are skipped.

    Raises:
        MaskError: not JSON, or a geometry other than a polygon.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise MaskError(str(error)) from None
    return list(_outlines(content if isinstance(content, list) else [content], cut=False))


def _outlines(members: Iterable[Any], *, cut: bool) -> Iterator[Outline]:
    for member in members:
        kind = member.get("type") if isinstance(member, dict) else None
        if kind == "FeatureCollection":
            yield from _outlines(_members(member, "features"), cut=False)
        elif kind == "Feature":
            properties = member.get("properties") or {}
            if not isinstance(properties, dict):
                raise MaskError(f"the properties of a feature are {type(properties).__name__}, not an object")
            if properties.get("objectType") == "tile":
                continue
            yield from _outlines([member.get("geometry")], cut=_is_cut(properties.get("classification")))
            yield from _outlines(_members(properties, "childObjects"), cut=False)
        elif kind == "Polygon":
            yield Outline(_rings(_members(member, "coordinates")), cut)
        elif kind == "MultiPolygon":
            polygons = _members(member, "coordinates")
            yield from (Outline(_rings(polygon if isinstance(polygon, list) else []), cut) for polygon in polygons)
        else:
            raise MaskError(
                f"a geometry of type {kind}; only Polygon and MultiPolygon outline tissue, remove the others"
            )


def _members(parent: dict[str, Any], key: str) -> list[Any]:
    found = parent.get(key) or []
    if not isinstance(found, list):
        raise MaskError(f"{key} of a {parent.get('type', 'feature')} is {type(found).__name__}, not a list")
    return found


def _is_cut(classification: Any) -> bool:
    """Whether a class marks a region to be ignored. QuPath's built-in class is `Ignore*`; a subclass follows a colon."""
    if isinstance(classification, Mapping):
        names = classification.get("names")
        classification = classification.get("name") or (names[0] if isinstance(names, list) and names else "")
    return str(classification or "").split(":")[0].strip(" *").lower().replace("_", " ") in CUT_OUT


def _rings(coordinates: list[Any]) -> list[Float[np.ndarray, "n 2"]]:
    try:
        rings = [np.asarray(ring, dtype=float) for ring in coordinates]
    except (ValueError, TypeError) as error:
        raise MaskError(f"a polygon's ring is not a list of three or more points [x, y]: {error}") from None
    if not rings:
        raise MaskError("a polygon without coordinates")
    for ring in rings:
        if ring.ndim != 2 or len(ring) < 3 or ring.shape[1] < 2 or not np.isfinite(ring).all():
            raise MaskError("a polygon's ring is not a list of three or more points [x, y]")
    return [ring[:, :2] for ring in rings]


def _rasterise(
    outlines: list[Outline], size_px: tuple[int, int], shape: tuple[int, int], corner_px: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The pixels within an outline of tissue and outside all that are cut out."""
    if all(outline.cut for outline in outlines):
        raise MaskError(f"{len(outlines)} outlines, none of them of tissue")
    _require_inside(outlines, size_px, corner_px)
    scale = np.array([shape[1] / size_px[0], shape[0] / size_px[1]])
    mask = np.zeros(shape, bool)
    for outline in sorted(outlines, key=lambda outline: outline.cut):  # cuts come last and take precedence
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
        raise MaskError(
            f"{outside.sum()} of {len(outlines)} outlines lie entirely outside the slide of {size_px[0]} × {size_px[1]} "
            f"pixels (x {left:.0f} … {right:.0f}, y {top:.0f} … {bottom:.0f}): "
            "is it another slide's mask, or not in level-0 pixels?"
        )


def _fill(ring: Float[np.ndarray, "n 2"], shape: tuple[int, ...]) -> tuple[slice, slice, Bool[np.ndarray, "h w"]]:
    """The rows and columns that a ring spans, and which pixels there have their centre in it, by the even-odd rule.

    Each edge flips all pixels to its right, in the rows whose centre line it crosses.
    """
    limits = np.array([shape[1], shape[0]])
    left, top = np.clip(np.ceil(ring.min(0) - 0.5), 0, limits).astype(int).tolist()
    right, bottom = np.clip(np.ceil(ring.max(0) - 0.5), (left, top), limits).astype(int).tolist()
    flips = np.zeros((bottom - top, right - left + 1), np.uint8)  # modulo 256: only parity matters
    edges = np.hstack([ring, np.roll(ring, -1, axis=0)])  # x, y of both ends
    for start in range(0, len(edges), EDGES_AT_ONCE):
        rows, x = _crossings(edges[start : start + EDGES_AT_ONCE], top, bottom)
        columns = np.clip(np.ceil(x - 0.5), left, right).astype(int)
        np.add.at(flips, (rows - top, columns - left), 1)
    inside = np.add.accumulate(flips, axis=1, dtype=np.uint8)[:, :-1] % 2 == 1
    return slice(top, bottom), slice(left, right), inside


def _crossings(edges: Float[np.ndarray, "n 4"], top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and x of each crossing of an edge with the centre line of a row from `top` to `bottom`."""
    x, y, x_end, y_end = edges.T
    first = np.clip(np.ceil(np.minimum(y, y_end) - 0.5), top, bottom).astype(int)
    counts = np.clip(np.ceil(np.maximum(y, y_end) - 0.5), top, bottom).astype(int) - first
    edge = np.repeat(np.arange(len(edges)), counts)
    rows = first[edge] + np.arange(len(edge)) - np.repeat(counts.cumsum() - counts, counts)
    part = (rows + 0.5 - y[edge]) / (y_end - y)[edge]
    return rows, x[edge] + part * (x_end - x)[edge]


def _read_image(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of a PNG or TIFF; of a pyramid, the smallest level of at least that shape."""
    try:
        return _read_tiff(path, shape) if path.suffix != ".png" else _read_png(path)
    except MaskError:
        raise
    except READING_ERRORS as error:
        raise MaskError(str(error)) from None


def _read_png(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                _require_small(image.height, image.width)
                return np.asarray(image)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise MaskError(_too_large("more than 8192 × 8192")) from None


def _read_tiff(path: Path, shape: tuple[int, int]) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        levels = [level for series in tiff.series for level in series.levels if level.axes in ("YX", "YXS")]
        if not levels:
            raise MaskError(f"axes {', '.join(series.axes for series in tiff.series)}; save it as a single flat image")
        fine_enough = [level for level in levels if level.shape[0] >= shape[0] and level.shape[1] >= shape[1]]
        level = min(fine_enough, key=_rows) if fine_enough else max(levels, key=_rows)
        _require_small(*level.shape[:2])
        return level.asarray()


def _rows(level: Any) -> int:
    return level.shape[0]


def _require_small(height: int, width: int) -> None:
    if height * width > MAX_MASK_PIXELS:
        raise MaskError(_too_large(f"{width} × {height}"))


def _too_large(size: str) -> str:
    return f"{size} pixels; save it with at most 8192 × 8192: pixels of a few µm are fine enough"


def _sample(image: np.ndarray, size_px: tuple[int, int], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Whether the image is neither zero nor transparent at the centre of each pixel of the mask."""
    height, width = image.shape[:2]
    aspect, expected = width / height, size_px[0] / size_px[1]
    if abs(aspect / expected - 1) > ASPECT_TOLERANCE:
        raise MaskError(
            f"{width} × {height} pixels are not in proportion to the slide ({size_px[0]} × {size_px[1]}): "
            "is it another slide's mask, or of a part of this one?"
        )
    rows = ((np.arange(shape[0]) + 0.5) * height / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * width / shape[1]).astype(int)
    pixels = image[np.ix_(rows, columns)]
    if pixels.ndim == 2:
        return pixels != 0
    if pixels.shape[2] in (2, 4):
        return (pixels[..., :-1] != 0).any(2) & (pixels[..., -1] != 0)
    return (pixels != 0).any(2)
