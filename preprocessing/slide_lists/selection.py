"""Which slides are used: by kind and sample type, and by their resolution relative to the tiles."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preprocessing.io.errors import count, some
from preprocessing.slides.slide import LeftOut, Slide, SlideFile
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.sample_types import PRIMARY, why_excluded

NOTABLE_UPSAMPLING = 1.02  # nominal 20x scanners differ by as much, with 0.50 to 0.51 µm/px


@dataclass(frozen=True)
class SlideOptions:
    """The user's selection of slides.

    Attributes:
        kind: "DX", diagnostic slides of TCGA only, or "all".
        sample_types: classes of samples that are used, see `sample_types.CLASSES`.
        default_mpp: fallback µm/px for slides without resolution metadata.
        trust_manifest_mpp: whether the manifest's resolution overrides the metadata of every slide.
        tile_mpp: microns per pixel of the tiles.
        max_upsample: largest factor by which pixels may be enlarged to become tiles.
        masks: folder of the user's tissue masks, or None.
        hashed: which bytes of a slide its fingerprint is of, "sampled" or "full".
    """

    kind: Literal["DX", "all"] = "DX"
    sample_types: frozenset[str] = frozenset({PRIMARY})
    default_mpp: float | None = None
    trust_manifest_mpp: bool = False
    tile_mpp: float = 0.5
    max_upsample: float = 1.25
    masks: Path | None = None
    hashed: Literal["sampled", "full"] = "sampled"


def select_slides(
    files: Iterable[SlideFile], options: SlideOptions, identity: IdentityScheme
) -> tuple[list[SlideFile], list[LeftOut]]:
    """Split slides into those of the requested kind and sample types, and those left out. Ids without a code stay."""
    kept, left_out = [], []
    for file in files:
        reason = _other_kind(file, options.kind, identity) or _other_sample(file, options.sample_types, identity)
        if reason:
            left_out.append(LeftOut(file, "excluded", reason))
        else:
            kept.append(file)
    return kept, left_out


def _other_kind(file: SlideFile, kind: str, identity: IdentityScheme) -> str | None:
    found = identity.slide_kind(file.slide_id)
    if kind == "all" or found is None or found.startswith(kind):
        return None
    return f"slide kind {found}; only {kind} slides are used (--slide-kind all uses every slide)"


def _other_sample(file: SlideFile, allowed: frozenset[str], identity: IdentityScheme) -> str | None:
    found = identity.sample_class(file.slide_id) or file.sample_class or None
    reason = why_excluded(found, identity.sample_type(file.slide_id), allowed)
    return f"{reason} (--sample-types {','.join(sorted({*allowed, str(found)}))} adds it)" if reason else None


def upsampling(slide: Slide, tile_mpp: float) -> float:
    """Return the factor by which the slide's pixels are enlarged to become tiles; 1 where they are not."""
    return max(1.0, max(slide.mpp_xy) / tile_mpp)


def select_resolutions(
    slides: Sequence[Slide], files: Sequence[SlideFile], options: SlideOptions
) -> tuple[list[Slide], list[LeftOut], list[str]]:
    """Split slides into those fine enough for the tiles and those that would be enlarged too much.

    Args:
        slides: the usable slides.
        files: the files they were opened from.
        options: with the resolution of the tiles and the largest factor.

    Returns:
        Slides that are used, slides that are too coarse, and a warning where slides that are used are enlarged.
    """
    by_id = {file.slide_id: file for file in files}
    kept, left_out, enlarged = list[Slide](), list[LeftOut](), list[tuple[float, str]]()
    for slide in slides:
        factor = 1.0 if slide.features else upsampling(slide, options.tile_mpp)
        if factor > options.max_upsample * (1 + 1e-6):
            left_out.append(LeftOut(by_id[slide.slide_id], "failed", _too_coarse(slide, factor, options)))
            continue
        kept.append(slide)
        if factor > NOTABLE_UPSAMPLING:
            enlarged.append((factor, f"{slide.slide_id} ({slide.mpp:g} µm/px, {factor:.2f} times)"))
    return kept, left_out, _enlarged_warning(enlarged, options)


def _too_coarse(slide: Slide, factor: float, options: SlideOptions) -> str:
    return (
        f"scanned at {slide.mpp:g} µm/px ({slide.mpp_source}), coarser than the tiles at {options.tile_mpp:g} µm/px: its "
        f"pixels would be enlarged {factor:.2f} times, more than {options.max_upsample:g}; use coarser tiles (--mpp "
        f"{slide.mpp:g}), or allow it with --max-upsample {factor + 0.005:.2f}"
    )


def _enlarged_warning(enlarged: Sequence[tuple[float, str]], options: SlideOptions) -> list[str]:
    if not enlarged:
        return []
    names = [name for _, name in sorted(enlarged, reverse=True)]
    return [
        f"warning: {count(len(names), 'slide')} coarser than the tiles at {options.tile_mpp:g} µm/px, and enlarged: "
        f"{some(names)}; features of enlarged pixels differ from those of a finer scan; --mpp sets coarser tiles, "
        "--max-upsample 1 excludes these slides"
    ]
