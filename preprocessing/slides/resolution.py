"""The resolution of a slide: which of its sources is believed, and which sources contradict each other."""

from collections.abc import Iterable

import openslide

from preprocessing.io.errors import SlideError, some
from preprocessing.slides.slide import Slide

MPP_RANGE = (0.05, 5.0)  # microns per pixel of any bright-field scan; metadata beyond it are wrong
POWER_TIMES_MPP = 10.0  # a 40x objective is scanned at about 0.25 microns per pixel, a 20x one at 0.5
DOUBT_RATIO = 1.6  # a resolution that differs by more from what the objective power implies is doubtful
MANIFEST_SLACK = 0.05  # relative difference by which a manifest may have rounded
_DOUBTFUL = "doubtful"


def resolve_mpp(
    properties: dict[str, str], *, manifest_mpp: float | None, default_mpp: float | None
) -> tuple[tuple[float, float], str]:
    """Return microns per level-0 pixel along x and y, and their source.

    The metadata come first; without them the manifest, then what the objective power implies, then the default. Where the
    metadata are absurd, only the manifest can replace them.

    Args:
        properties: OpenSlide's properties of the slide.
        manifest_mpp: microns per pixel according to the manifest.
        default_mpp: fallback for slides without resolution metadata.

    Returns:
        (x, y) in microns per pixel, and "metadata", "manifest", "objective power 40x" or "default"; metadata that the
        manifest or the objective power contradicts are marked as doubtful.

    Raises:
        SlideError: no resolution, or an absurd one.
    """
    declared = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    known = [value for value in declared if value]  # some scanners write 0 for an unknown resolution
    power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    if known and all(is_plausible(value) for value in known):
        x, y = (value or known[0] for value in declared)
        return (x, y), "metadata" + _doubt(x, power, manifest_mpp)
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


def doubtful_resolutions(slides: Iterable[Slide]) -> list[str]:
    """One warning that names the slides whose objective power or manifest contradicts their metadata; none where all agree."""
    doubtful = [
        f"{slide.slide_id} ({slide.mpp:g} µm, {slide.mpp_source})" for slide in slides if _DOUBTFUL in slide.mpp_source
    ]
    if not doubtful:
        return []
    return [
        f"warning: {len(doubtful)} slides have a resolution in their metadata that the manifest or the objective power "
        f"contradicts; the metadata are used: {some(doubtful)}; check them against the scanner's settings, since a wrong "
        "resolution gives tiles of the wrong scale; slides.csv lists them all"
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
