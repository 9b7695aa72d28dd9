"""The resolution of a slide: which of its sources is believed, and which sources contradict each other."""

import html
import re
from collections.abc import Iterable

import openslide

from preprocessing.io.errors import SlideError, count, some
from preprocessing.slides.slide import Slide

MPP_RANGE = (0.05, 5.0)  # microns per pixel of any bright-field scan; metadata beyond it are wrong
POWER_TIMES_MPP = 10.0  # a 40x objective is scanned at about 0.25 microns per pixel, a 20x one at 0.5
DOUBT_RATIO = 1.6  # a resolution that differs by more from what the objective power implies is doubtful
MANIFEST_SLACK = 0.05  # relative difference by which a manifest may have rounded
_DOUBTFUL = "doubtful"
OME_UNITS = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}


def resolve_mpp(
    properties: dict[str, str], *, manifest_mpp: float | None, default_mpp: float | None, trust_manifest: bool = False
) -> tuple[tuple[float, float], str]:
    """Return microns per level-0 pixel along x and y, and their source.

    The metadata come first, in the scanner's tags or as OME-XML; without them the manifest, then what the objective power
    implies, then the default. Where the metadata are absurd, only the manifest can replace them.

    Args:
        properties: OpenSlide's properties of the slide.
        manifest_mpp: microns per pixel according to the manifest.
        default_mpp: fallback for slides without resolution metadata.
        trust_manifest: whether the manifest, where it gives a resolution, overrides the metadata.

    Returns:
        (x, y) in microns per pixel, and "metadata", "metadata (OME-XML)", "manifest", "objective power 40x" or "default";
        metadata that the manifest or the objective power contradicts are marked as doubtful, metadata that the manifest
        overrides are given.

    Raises:
        SlideError: no resolution, or an absurd one.
    """
    declared, name = _declared(properties)
    known = [value for value in declared if value]  # some scanners write 0 for an unknown resolution
    power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    if trust_manifest and manifest_mpp is not None:
        overridden = f" (overrides metadata {known[0]:g})" if known else ""
        return (manifest_mpp, manifest_mpp), f"manifest{overridden}"
    if known and all(is_plausible(value) for value in known):
        x, y = (value or known[0] for value in declared)
        return (x, y), name + _doubt(x, power, manifest_mpp)
    if known and manifest_mpp is None:
        raise SlideError(
            f"absurd resolution in its metadata: {' × '.join(f'{value:g}' for value in known)} microns per pixel, "
            f"outside {plausible_range()}; add the right one to the manifest's mpp column"
        )
    if manifest_mpp is not None:
        return (manifest_mpp, manifest_mpp), "manifest"
    if power and is_plausible(POWER_TIMES_MPP / power):
        return (POWER_TIMES_MPP / power, POWER_TIMES_MPP / power), f"objective power {power:g}x"
    if default_mpp is not None:
        return (default_mpp, default_mpp), "default"
    raise SlideError("no resolution metadata (µm/px); set --default-mpp or add an mpp column to the manifest")


def _declared(properties: dict[str, str]) -> tuple[list[float | None], str]:
    """The metadata's microns per pixel along x and y, and what they are called; OME-XML where there are no tags."""
    tags = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    if any(tags):
        return tags, "metadata"
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", properties.get("openslide.comment", ""))
    return [_physical_size(pixels[0], axis) if pixels else None for axis in "XY"], "metadata (OME-XML)"


def _physical_size(element: str, axis: str) -> float | None:
    """The size of a pixel in microns from an OME-XML element; None where it has none, or an unknown unit."""
    size = re.search(rf"\bPhysicalSize{axis}\s*=\s*[\"']([^\"']+)", element)
    unit = re.search(rf"\bPhysicalSize{axis}Unit\s*=\s*[\"']([^\"']+)", element)
    factor = OME_UNITS.get(html.unescape(unit[1]).strip() if unit else "µm")
    number = _number(size[1]) if size else None
    return number * factor if number and factor else None


def doubtful_resolutions(slides: Iterable[Slide]) -> list[str]:
    """One warning that names the slides whose objective power or manifest contradicts their metadata; none where all agree."""
    doubtful = [
        f"{slide.slide_id} ({slide.mpp:g} µm, {slide.mpp_source})" for slide in slides if _DOUBTFUL in slide.mpp_source
    ]
    if not doubtful:
        return []
    return [
        f"warning: the metadata of {count(len(doubtful), 'slide')} give a resolution that the manifest or the objective power "
        f"contradicts; the metadata are used: {some(doubtful)}; check them against the scanner's settings, since a wrong "
        "resolution gives tiles of the wrong scale; --trust-manifest-mpp uses the manifest instead; slides.csv lists them all"
    ]


def is_plausible(mpp: float) -> bool:
    """Whether a bright-field scanner can have that resolution, in microns per pixel."""
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def plausible_range() -> str:
    """The range of plausible resolutions, as messages give it."""
    return f"{MPP_RANGE[0]}–{MPP_RANGE[1]} µm"


def _doubt(mpp: float, power: float | None, manifest_mpp: float | None) -> str:
    """What contradicts the resolution in the metadata, as `mpp_source` reports it; empty where nothing does."""
    if manifest_mpp and abs(manifest_mpp / mpp - 1) > MANIFEST_SLACK:
        return f" ({_DOUBTFUL}: manifest {manifest_mpp:g})"
    if not power or not is_plausible(POWER_TIMES_MPP / power):
        return ""
    ratio = mpp * power / POWER_TIMES_MPP
    return "" if 1 / DOUBT_RATIO < ratio < DOUBT_RATIO else f" ({_DOUBTFUL}: objective power {power:g}x)"


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
