"""Slides are opened for a moment: usable ones get their size, resolution and fingerprint, the others a reason."""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import openslide

from preprocessing.io.errors import InputError, SlideError
from preprocessing.io.fingerprints import slide_fingerprint
from preprocessing.slides.isolated import AT_ONCE, Failure, map_files
from preprocessing.slides.reader import SlideReader
from preprocessing.slides.resolution import resolve_mpp
from preprocessing.slides.slide import LeftOut, Slide, SlideFile
from preprocessing.slides.unreadable import damage_reason, unsafe_reason, unsupported_reason

log = logging.getLogger(__name__)
OUTLINE_SUFFIXES = (".geojson", ".geojson.gz")
MASK_SUFFIXES = (*OUTLINE_SUFFIXES, ".png", ".tif", ".tiff")
MAX_SIDE_MM = 400  # whole-organ glass has 200; a damaged header can contain any number


def probe_slides(
    files: Sequence[SlideFile],
    *,
    default_mpp: float | None,
    trust_manifest: bool = False,
    hashed: str = "sampled",
    precomputed: Callable[[SlideFile], Slide] | None = None,
    isolated: bool = False,
) -> tuple[list[Slide], list[LeftOut]]:
    """Open each file for a moment; return the usable slides, and those that cannot be used with the reason.

    Args:
        files: the slides that were found.
        default_mpp: fallback µm/px for slides without resolution metadata.
        trust_manifest: whether the manifest's resolution overrides the metadata.
        hashed: which bytes a fingerprint is of, "sampled" or "full".
        precomputed: looks up a slide whose precomputed features are used; then no file is opened.
        isolated: open files in isolated processes, so that one that crashes the library, or hangs it, fails alone.

    Raises:
        InputError: two different slides have the same id.
    """
    if precomputed:
        results = _find_each(precomputed, files)
    else:
        probe = partial(probe_slide, default_mpp=default_mpp, trust_manifest=trust_manifest, hashed=hashed)
        results = map_files(probe, files, isolated=isolated)
    slides: dict[str, Slide] = {}
    left_out = []
    for slide, file in zip(results, files, strict=True):
        if isinstance(slide, Failure):
            left_out.append(LeftOut(file, "failed", slide.reason))
            log.debug("opening %s: %s %s", file.slide_id, slide.reason, slide.trace)
            continue
        twin = slides.setdefault(slide.slide_id, slide)
        if twin is not slide:
            _require_same(twin, slide)
            left_out.append(LeftOut(file, "excluded", f"a copy of {twin.path}"))
    return list(slides.values()), left_out


def _find_each(precomputed: Callable[[SlideFile], Slide], files: Sequence[SlideFile]) -> list[Slide | Failure]:
    """In this process: errors of the store other than a missing slide are errors of the run."""

    def attempt(file: SlideFile) -> Slide | Failure:
        try:
            return precomputed(file)
        except SlideError as error:
            return Failure(str(error))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(attempt, files))


def probe_slide(
    file: SlideFile, *, default_mpp: float | None, trust_manifest: bool = False, hashed: str = "sampled"
) -> Slide:
    """Return the slide with its size, resolution and fingerprint.

    Args:
        file: the slide that was found.
        default_mpp: fallback µm/px for slides without resolution metadata.
        trust_manifest: whether the manifest's resolution overrides the metadata.
        hashed: which bytes the fingerprint is of, "sampled" or "full".

    Raises:
        SlideError: why the slide cannot be used, and the remedy.
    """
    if problem := unsafe_reason(file.path):
        raise SlideError(problem)
    try:
        with SlideReader(file.path) as reader:
            size_px, properties = reader.size_px, reader.properties
        fingerprint = slide_fingerprint(file.path, hashed)
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideError(f"not a slide that OpenSlide can read{unsupported_reason(file.path)}") from None
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideError(f"cannot be opened: {error}{damage_reason(file.path, str(error))}") from None
    mpp_xy, source = resolve_mpp(
        properties, manifest_mpp=file.mpp, default_mpp=default_mpp, trust_manifest=trust_manifest or file.trust_mpp
    )
    _require_possible_size(size_px, mpp_xy, source)
    return Slide(file.slide_id, file.case_id, file.path, mpp_xy, source, size_px, fingerprint, hashed=hashed)


def _require_possible_size(size_px: tuple[int, int], mpp_xy: tuple[float, float], source: str) -> None:
    sides = [side * mpp / 1000 for side, mpp in zip(size_px, mpp_xy, strict=True)]
    if max(sides) > MAX_SIDE_MM:
        raise SlideError(
            f"absurd size: {size_px[0]} × {size_px[1]} pixels of {mpp_xy[0]:g} × {mpp_xy[1]:g} µm ({source}) are "
            f"{sides[0]:,.0f} × {sides[1]:,.0f} mm, larger than any slide; its header is damaged, or its resolution wrong"
        )


def _require_same(one: Slide, other: Slide) -> None:
    if (one.fingerprint, one.case_id, one.mpp_xy) != (other.fingerprint, other.case_id, other.mpp_xy):
        raise InputError(
            f"slides: {one.path} and {other.path} are different, but both have the slide id {one.slide_id}; "
            "rename one, or give a manifest CSV with a slide_id for each"
        )


def same_scans(slides: Iterable[Slide], *, masks: Path | None = None) -> list[str]:
    """Return a warning for each group of slides with the same file content (by fingerprint) but different ids.

    Slides of the same scan whose tissue masks are named by their ids are different pieces of tissue on one glass, and are not
    warned of.

    Args:
        slides: the usable slides.
        masks: folder of the user's tissue masks, or None.
    """
    groups: dict[str, list[Slide]] = {}
    for slide in slides:
        if masks is None or not any((masks / f"{slide.slide_id}{suffix}").is_file() for suffix in MASK_SUFFIXES):
            groups.setdefault(slide.fingerprint, []).append(slide)
    return [
        f"warning: {len(twins)} slides are the same scan: {', '.join(slide.slide_id for slide in twins[:3])}"
        + (
            "; they belong to different cases, so that folds are not independent; remove all but the right one"
            if len({slide.case_id for slide in twins}) > 1
            else "; its tiles are counted repeatedly; remove all but one"
        )
        for twins in groups.values()
        if len(twins) > 1
    ]
