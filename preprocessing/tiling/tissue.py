"""Where the tissue is on a slide's thumbnail.

The detector `colour`, the default, measures how strongly each pixel is coloured beyond the glass, in optical density.
Density relative to the glass removes a tint of the background; colour, unlike brightness, does not respond to dust,
shadows or the edges of cover slips, all of which are grey. Otsu's method then finds the threshold, held between two bounds:
on a blank slide it would split the noise, and on a slide that is all tissue it would split the tissue.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy  # its packages are imported when first used
from jaxtyping import Bool, Float32, UInt8
from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from models.registry import Registry, UnknownNameError, nearest
from models.settings import Settings
from preprocessing.io.extras import extra, extra_version
from preprocessing.tiling.grandqc import GrandqcConfig, detect_by_grandqc, grandqc_recipe

Thumbnail: TypeAlias = UInt8[np.ndarray, "H W 3"]
Mask: TypeAlias = Bool[np.ndarray, "H W"]
Plane: TypeAlias = Float32[np.ndarray, "H W"]
Planes: TypeAlias = Float32[np.ndarray, "3 H W"]

SMOOTH_UM = 10.0  # standard deviation of the smoothing
MIN_THRESHOLD = 0.015  # bounds of the threshold of colour, in optical density
MAX_THRESHOLD = 0.05
WHITE_LEVEL = 245  # no tissue where every channel is at least this; also the glass, where none is found
CONSTANTS = {  # as they are called in the keys of stores
    "smooth_um": SMOOTH_UM,
    "min_threshold": MIN_THRESHOLD,
    "max_threshold": MAX_THRESHOLD,
    "white_level": WHITE_LEVEL,
}
GLASS_MIN_LEVEL = 190  # glass is brighter than this; the palest glioma at 8 µm/px averages 200, but is textured
GLASS_MAX_SD = 1.2  # grey levels in a window of 5 × 5; real glass has 0.1–0.6, real tissue from 1.5 upwards
GLASS_MAX_TINT = 0.12  # optical density between the channels of a tinted, or yellowed, background
GLASS_MAX_PINK = 0.03  # green's density beyond blue's: glass is rarely pinker, and stained tissue is
GLASS_MIN_SHARE = 0.005  # of the thumbnail; less is a vessel's lumen or a gap in the tissue
BLACK_LEVEL = 40  # scanners pad with black, JPEG blurs it; the darkest tissue at 8 µm/px has a channel above 60
PADDING_WHITE = 254  # nearer to 255 than any scanned glass that is not overexposed
COUNTED_ROWS = 1024  # rows of a mask that are counted at a time
INK_REACH_UM = 40.0  # the rim of a pen's stroke, where ink and tissue or glass mix


@dataclass(frozen=True)
class Detector:
    """A tissue detector, as the registry holds it.

    Attributes:
        Config: class of its settings, the keys under `tiles.tissue.settings`.
        detect: from a thumbnail, its resolution (µm per pixel) and the settings, where there is tissue.
        recipe: from the settings, everything that decides the mask and thus counts in the key of the tiles: the settings,
            the version of a library, the fingerprint of weights.
    """

    Config: type[Settings]
    detect: Callable[[Thumbnail, float, Any], Mask]
    recipe: Callable[[Any], dict[str, Any]]


class TissueConfig(Settings):
    """Where the tissue of a slide is taken from: a detector, or masks that the user drew."""

    masks: Path | None = Field(None, description="folder of tissue masks that replace the detector, one per slide")
    outline_origin: Literal["scan", "slide"] = Field(
        "scan",
        description="origin of the masks' outlines: scan, the corner of the scanned area, as in QuPath; slide, that of the file",
    )
    mask_values: tuple[int, ...] = Field(
        (),
        description="pixel values of mask images that are tissue, where they hold classes, as those of GrandQC and HistoQC; "
        "default: every value other than 0",
    )
    mpp: float = Field(8.0, gt=0, description="resolution of the tissue mask, µm per pixel")
    detector: str = Field("colour", description="tissue detector: colour, tiatoolbox or grandqc")
    settings: SerializeAsAny[Settings] = Field(
        Settings(), validate_default=True, description="settings of the detector, such as min_hole_um2 of colour"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, values: Any) -> Any:
        """Reads the recipes of earlier stores and model folders, which had the settings of `colour` beside `detector`."""
        if not isinstance(values, Mapping):
            return values
        values = {name: value for name, value in values.items() if CONSTANTS.get(name) != value}
        moved = {name: values.pop(name) for name in ColourConfig.model_fields if name in values}
        if values.get("detector") == "default":
            values["detector"] = "colour"
        if moved and values.get("detector", "colour") == "colour":
            values["settings"] = moved | dict(values.get("settings", {}))
        return values

    @field_validator("detector")
    @classmethod
    def _known(cls, name: str) -> str:
        DETECTORS[name]  # raises UnknownNameError
        return name

    @field_validator("settings", mode="before")
    @classmethod
    def _of_detector(cls, value: Any, info: ValidationInfo) -> Any:
        if "detector" not in info.data:
            return Settings()  # the detector has its own error
        name = info.data["detector"]
        value = value.model_dump() if isinstance(value, Settings) else value
        known = DETECTORS[name].Config.model_fields
        if isinstance(value, Mapping) and (unknown := [key for key in value if key not in known]):
            remedy = nearest(unknown[0], known) if known else "it has none"
            raise UnknownNameError(f'unknown setting "{unknown[0]}" of the tissue detector {name}: {remedy}')
        return DETECTORS[name].Config.model_validate(value)


def tissue_recipe(config: TissueConfig) -> dict[str, Any]:
    """Return everything that decides a tissue mask, except the user's own mask files, for the key of the tiles.

    Where masks replace the detector, its settings do not count: the defaults of `colour` stand in their place, as they did
    in the keys of earlier stores. Where the detector is used, the origin of outlines does not count.
    """
    by_mask = config.masks is not None
    detector, settings = (
        (DETECTORS["colour"], ColourConfig()) if by_mask else (DETECTORS[config.detector], config.settings)
    )
    values = {"mask_values": sorted(set(config.mask_values))} if by_mask and config.mask_values else {}
    return {
        "outline_origin": config.outline_origin if by_mask else "scan",
        "mpp": config.mpp,
        **values,
        **detector.recipe(settings),
    }


def detect_tissue(thumbnail: Thumbnail, mpp: float, config: TissueConfig) -> Mask:
    """Find the tissue on a thumbnail, with the configured detector.

    Args:
        thumbnail: the whole slide, RGB; transparency made white or black. One finer than `config.mpp` is averaged first.
        mpp: the thumbnail's resolution, µm per pixel.
        config: the detector's name and settings.

    Returns:
        Boolean mask of the thumbnail's shape, True where there is tissue.
    """
    factor = max(1, round(config.mpp / mpp))
    mask = DETECTORS[config.detector].detect(_shrink(thumbnail, factor), mpp * factor, config.settings)
    return _enlarge(mask, factor, thumbnail.shape[:2])


class ColourConfig(Settings):
    """Settings of the detector `colour`."""

    min_piece_um2: float = Field(10_000.0, ge=0, description="smaller pieces of tissue are dropped as specks, µm²")
    min_hole_um2: float = Field(10_000.0, ge=0, description="smaller holes in the tissue are filled, µm²")
    exclude_pen: bool = Field(True, description="exclude red, green, blue and black ink")


def detect_by_colour(thumbnail: Thumbnail, mpp: float, config: ColourConfig) -> Mask:
    """Find tissue by its colour beyond the glass; see the head of this file."""
    density, padding, white = _optical_density(thumbnail, mpp)
    tissue = _drop_small(_find_coloured(density, ~padding & ~white), config.min_piece_um2 / mpp**2)
    if tissue.any():  # else all of a tiny slide's glass would be a hole
        tissue = ~_drop_small(~tissue, config.min_hole_um2 / mpp**2) & ~padding
    if config.exclude_pen:
        ink = _find_ink(density, round(INK_REACH_UM / mpp))
        tissue = _drop_small(tissue & ~ink, config.min_piece_um2 / mpp**2) if ink.any() else tissue
    return tissue


def colour_recipe(config: ColourConfig) -> dict[str, Any]:
    """Return what decides a mask by colour; `default` is the detector's name in the keys of earlier stores."""
    return {"detector": "default"} | CONSTANTS | config.model_dump()


class TiatoolboxConfig(Settings):
    """The detector `tiatoolbox` has no settings."""


def detect_by_tiatoolbox(thumbnail: Thumbnail, mpp: float, config: TiatoolboxConfig) -> Mask:
    """Find tissue with tiatoolbox's `MorphologicalMasker`: Otsu on grey levels, specks removed, dilated."""
    with extra("stain", "the tissue detector tiatoolbox"):
        from tiatoolbox.tools.tissuemask import MorphologicalMasker

    masks = MorphologicalMasker(mpp=mpp).fit_transform(thumbnail[None])
    return np.asarray(masks[0], dtype=bool)


def tiatoolbox_recipe(config: TiatoolboxConfig) -> dict[str, Any]:
    """Return what decides a mask by tiatoolbox: the version of the library."""
    return {"detector": "tiatoolbox", "version": extra_version("tiatoolbox", "stain", "the tissue detector tiatoolbox")}


DETECTORS: Registry[Detector] = Registry(
    "tissue detector",
    {
        "colour": Detector(ColourConfig, detect_by_colour, colour_recipe),
        "tiatoolbox": Detector(TiatoolboxConfig, detect_by_tiatoolbox, tiatoolbox_recipe),
        "grandqc": Detector(GrandqcConfig, detect_by_grandqc, grandqc_recipe),
    },
)


def _find_coloured(density: Planes, usable: Mask) -> Mask:
    colour = _chroma(density)
    return usable & (colour > _threshold(colour[usable]))


def measure_ink(thumbnail: Thumbnail, mpp: float) -> float:
    """Return the share of pen ink in everything on the glass, tissue and ink together, 0 to 1.

    Args:
        thumbnail: the whole slide, RGB.
        mpp: its resolution, µm per pixel.
    """
    density, padding, _ = _optical_density(thumbnail, mpp)
    visible = ~padding & (density.mean(axis=0) > MAX_THRESHOLD)
    ink = _find_ink(density, 0) & visible
    return float(ink.sum()) / max(1.0, float(visible.sum()))


def _optical_density(thumbnail: Thumbnail, mpp: float) -> tuple[Planes, Mask, Mask]:
    """The smoothed image's optical density beyond the glass, the padding of the scanner, and what is white.

    The density takes the place of the image's float copy in memory.
    """
    rgb = np.ascontiguousarray(np.moveaxis(thumbnail, 2, 0)).astype(np.float32)  # planes are several times faster
    padding = _find_padding(rgb)
    rgb[:, padding] = WHITE_LEVEL  # so that it does not bleed into its surroundings
    _smooth(rgb, SMOOTH_UM / mpp)
    white = _lowest(rgb) >= WHITE_LEVEL
    glass = _estimate_glass(rgb, padding)
    return _turn_to_density(rgb, glass), padding, white


def _shrink(thumbnail: Thumbnail, factor: int) -> Thumbnail:
    """Averages of factor × factor pixels; the last row and column are repeated to fill the blocks."""
    if factor == 1:
        return thumbnail
    height, width = thumbnail.shape[:2]
    padded = np.pad(thumbnail, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, -1, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


def _smooth(planes: Planes, sigma_px: float) -> None:
    """Gaussian smoothing to 2.5 sigma, in place; the edges are repeated. In float32 throughout, twice as fast as scipy's.

    Plane by plane: a giant slide's thumbnail has some 40 million pixels, of which as few copies as possible are held.
    """
    radius = round(2.5 * sigma_px)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma_px, 1e-9)) ** 2)
    weights = (weights / (2 * weights.sum() - weights[0])).astype(np.float32)
    for plane in planes if radius else ():
        for along in (plane, plane.T):
            size = len(along)
            padded = np.pad(along, ((radius, radius), (0, 0)), mode="edge")
            along *= weights[0]
            for shift in range(1, radius + 1):
                pair = padded[radius - shift :][:size] + padded[radius + shift :][:size]
                pair *= weights[shift]
                along += pair


def _enlarge(mask: Mask, factor: int, shape: tuple[int, ...]) -> Mask:
    """The mask at the thumbnail's size: the inverse of `_shrink`."""
    if factor == 1:
        return mask
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]]


def _lowest(planes: Planes) -> Plane:
    return np.minimum(np.minimum(planes[0], planes[1]), planes[2])


def _highest(planes: Planes) -> Plane:
    return np.maximum(np.maximum(planes[0], planes[1]), planes[2])


def _chroma(density: Planes) -> Plane:
    """Chroma: the densest channel beyond the least dense."""
    return _highest(density) - _lowest(density)


def _find_padding(rgb: Planes) -> Mask:
    """The scanner's padding: black or pure white regions of at least about 5 × 5 pixels, and their blurred rim."""
    outside = (_highest(rgb) < BLACK_LEVEL) | (_lowest(rgb) >= PADDING_WHITE)
    if not outside.any():
        return outside
    return scipy.ndimage.binary_dilation(scipy.ndimage.binary_opening(outside, iterations=2), iterations=2)


def _estimate_glass(rgb: Planes, padding: Mask) -> Float32[np.ndarray, "3"]:
    """The empty slide's colour: the commonest of its bright, smooth, hardly coloured pixels; else the white level."""
    step = max(1, min(padding.shape) // 512)  # a sample of the pixels of a large thumbnail
    rgb, padding = rgb[:, ::step, ::step], padding[::step, ::step]
    level = (rgb[0] + rgb[1] + rgb[2]) / 3
    centred = level - 200.0  # float32 is too short for the squares of whole levels
    variance = scipy.ndimage.uniform_filter(centred**2, 5) - scipy.ndimage.uniform_filter(centred, 5) ** 2
    candidate = ~padding & (level > GLASS_MIN_LEVEL) & (variance < GLASS_MAX_SD**2)
    level, colours = level[candidate], rgb[:, candidate]  # (N,), (3, N)
    density = np.log10(255.0 / colours)
    glass = (_chroma(density) < GLASS_MAX_TINT) & (density[1] - density[2] < GLASS_MAX_PINK)
    if np.count_nonzero(glass) < GLASS_MIN_SHARE * padding.size:
        return np.full(3, WHITE_LEVEL, dtype=np.float32)
    counts = np.bincount(level[glass].astype(int), minlength=256)
    commonest = np.argmax(scipy.ndimage.uniform_filter1d(counts.astype(float), 3)) + 0.5
    return np.median(colours[:, glass & (np.abs(level - commonest) < 2)], axis=1).astype(np.float32)


def _turn_to_density(rgb: Planes, glass: Float32[np.ndarray, "3"]) -> Planes:
    """Optical density beyond the glass, by channel, in place; 0 where a pixel is brighter than the glass."""
    np.maximum(rgb, 1.0, out=rgb)
    np.divide(glass[:, None, None], rgb, out=rgb)
    np.maximum(rgb, 1.0, out=rgb)
    return np.log10(rgb, out=rgb)


def _threshold(colour: Float32[np.ndarray, " N"]) -> float:
    """Otsu's threshold, held between the two bounds."""
    if colour.size == 0 or colour.min() == colour.max():
        return MAX_THRESHOLD
    return float(np.clip(_otsu(colour), MIN_THRESHOLD, MAX_THRESHOLD))


def _otsu(values: Float32[np.ndarray, " N"]) -> float:
    """The centre of the bin, of 256, behind which two classes differ most (Otsu 1979, IEEE Trans. SMC 9, 62); not of one value."""
    counts, edges = np.histogram(values, bins=256)
    centres, counts = (edges[:-1] + edges[1:]) / 2, counts.astype(np.float32)
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * centres) / below
    mean_above = np.cumsum((counts * centres)[::-1])[::-1] / above
    return float(centres[np.argmax(below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2)])


def _find_ink(density: Planes, reach_px: int) -> Mask:
    """Pen strokes. Certain ink is grown through doubtful ink that touches it, then by the reach of a stroke's rim.

    Haematoxylin and eosin both absorb green most (in real slides green/red ≥ 1 and blue/green ≤ 0.77). Green and blue
    ink absorb red most; red ink absorbs blue nearly as much as green, and little red; black ink absorbs everything.
    """
    red, green, blue = density
    mean, colour = (red + green + blue) / 3, _chroma(density)
    cold = (red > 0.15) & (green < 0.75 * red)
    warm = (green > 0.25) & (blue > 0.80 * green) & (red < 0.30 * green)
    warm |= (green > 0.30) & (blue > 0.65 * green) & (red < 0.12 * green)
    black = ((mean > 0.45) & (colour < 0.30 * mean)) | (mean > 0.80)
    certain = cold | warm | black
    if not certain.any():
        return certain
    certain = scipy.ndimage.binary_opening(certain)
    doubtful = (red > 0.06) & (green < 0.88 * red)
    doubtful |= (green > 0.06) & ((blue > 0.77 * green) | ((blue > 0.60 * green) & (red < 0.15 * green)))
    doubtful |= (mean > 0.15) & (colour < 0.35 * mean)
    grown = scipy.ndimage.binary_propagation(certain, mask=doubtful | certain)
    return scipy.ndimage.binary_dilation(grown, iterations=reach_px) if reach_px else grown


def _drop_small(mask: Mask, min_px: float) -> Mask:
    """The mask without its connected parts of fewer than `min_px` pixels."""
    labels, count = scipy.ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.zeros(count + 1, int)
    for rows in range(0, len(labels), COUNTED_ROWS):  # it counts in a copy of 8 bytes a pixel
        sizes += np.bincount(labels[rows : rows + COUNTED_ROWS].ravel(), minlength=count + 1)
    keep = sizes >= min_px
    keep[0] = False
    return keep[labels]
