"""Tissue masks of the user, which replace the detector: a folder with a file for each slide.

    SLIDE.geojson[.gz]     outlines, as QuPath exports them: polygons in level-0 pixels, with holes
    SLIDE.png, SLIDE.tif   an image of the whole slide in any size: every pixel other than zero is tissue

SLIDE is the slide's id or, where no file has that name, the stem of the slide's file.
"""

import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from preprocessing.io.errors import SlideError, some
from preprocessing.io.fingerprints import file_fingerprint
from preprocessing.slides.probing import MASK_SUFFIXES, OUTLINE_SUFFIXES
from preprocessing.slides.slide import Slide
from preprocessing.tiling.outlines import MaskError, Outline, read_outlines

ASPECT_TOLERANCE = 0.02  # a mask of other proportions belongs to another slide, or to a part of it
MAX_MASK_PIXELS = 1 << 26  # 8192 × 8192: pixels of 3 µm on the largest of slides
EDGES_AT_ONCE = 1024  # of an outline: bounds the memory, even where every edge crosses every row
# Errors of Pillow and tifffile on damaged images; they are caught around the libraries' reading alone.
READING_ERRORS = (ValueError, TypeError, OSError, SyntaxError, AttributeError, LookupError, ArithmeticError)


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
    slide: Slide, folder: Path, shape: tuple[int, int], *, corner_px: tuple[int, int], values: Collection[int] = ()
) -> Bool[np.ndarray, "h w"]:
    """Return the tissue of the whole slide according to the user's mask.

    Args:
        slide: the slide.
        folder: the folder of masks.
        shape: height and width of the returned mask. A pixel is tissue if its centre is.
        corner_px: origin of the outlines' coordinates, level-0 pixels (x, y) of the slide.
        values: pixel values of an image that are tissue; empty: every value other than 0.

    Returns:
        Boolean mask of that shape, True where there is tissue.

    Raises:
        SlideError: no mask for this slide, more than one, one that cannot be read, of another slide, or without tissue.
    """
    path = _only_file(slide, folder)
    try:
        if path.name.endswith(OUTLINE_SUFFIXES):
            mask = _rasterise(read_outlines(path), slide.size_px, shape, corner_px)
        else:
            mask = _tissue_of(_sample(_read_image(path, shape), slide.size_px, shape), values)
    except MaskError as error:
        raise SlideError(f"tissue mask {path}: {error}") from None
    if not mask.any():
        hint = (
            "; its outlines cover no pixel: are they in level-0 pixels?" if path.name.endswith(OUTLINE_SUFFIXES) else ""
        )
        raise SlideError(f"tissue mask {path}: it contains no tissue{hint}")
    return mask


def _only_file(slide: Slide, folder: Path) -> Path:
    found = mask_files(slide, folder)
    if not found:
        names = " or ".join(dict.fromkeys((slide.slide_id, slide.path.stem)))
        raise SlideError(f"no tissue mask in {folder}: expected {names} with the suffix {', '.join(MASK_SUFFIXES)}")
    if len(found) > 1:
        raise SlideError(f"more than one tissue mask: {', '.join(map(str, found))}; keep one")
    return found[0]


def _rasterise(
    outlines: list[Outline], size_px: tuple[int, int], shape: tuple[int, int], corner_px: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The pixels within an outline of tissue and outside all that are cut out."""
    if all(outline.cut for outline in outlines):
        classes = some(dict.fromkeys(outline.name for outline in outlines if outline.name))
        raise MaskError(
            f"{len(outlines)} outlines, none of them of tissue"
            + (f"; all are of classes to be cut out: {classes}" if classes else "")
        )
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


def _sample(image: np.ndarray, size_px: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """The pixels of the image at the centre of each pixel of the mask."""
    height, width = image.shape[:2]
    aspect, expected = width / height, size_px[0] / size_px[1]
    if abs(aspect / expected - 1) > ASPECT_TOLERANCE:
        raise MaskError(
            f"{width} × {height} pixels are not in proportion to the slide ({size_px[0]} × {size_px[1]}): "
            "is it another slide's mask, or of a part of this one?"
        )
    rows = ((np.arange(shape[0]) + 0.5) * height / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * width / shape[1]).astype(int)
    return image[np.ix_(rows, columns)]


def _tissue_of(pixels: np.ndarray, values: Collection[int]) -> Bool[np.ndarray, "h w"]:
    """Where pixels have one of the values; without values, where they are neither zero nor transparent."""
    if values:
        if pixels.ndim != 2:
            raise MaskError(
                "it has colours, and --set tiles.tissue.mask_values gives values of one channel; save its classes as grey levels"
            )
        return np.isin(pixels, list(values))
    if pixels.ndim == 2:
        found = np.unique(pixels)
        if len(found) > 1 and found[0] != 0:
            raise MaskError(
                f"no pixel is 0, so that all of it would be tissue; if its values ({some(found)}) are classes, give those of "
                "tissue with --set tiles.tissue.mask_values=[1]"
            )
        return pixels != 0
    if pixels.shape[2] in (2, 4):
        return (pixels[..., :-1] != 0).any(2) & (pixels[..., -1] != 0)
    return (pixels != 0).any(2)
