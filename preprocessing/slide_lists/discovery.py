"""Slides are found: in a folder, in a manifest, or as files; every file that may be a slide is accounted for."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import openslide

from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import similar_name
from preprocessing.slide_lists.manifest import MANIFEST_SUFFIXES, has_manifest_header, read_manifest
from preprocessing.slides.dicom import group_series
from preprocessing.slides.isolated import Failure, map_files
from preprocessing.slides.names import (
    CHANNEL_LISTS,
    OTHER_FILES,
    OTHER_FORMATS,
    SUFFIXES,
    copy_reason,
    slide_name,
    unusable_name,
)
from preprocessing.slides.slide import FoundSlides, LeftOut, SlideFile
from preprocessing.slides.unreadable import unsafe_reason
from preprocessing.tables.identity import IdentityScheme

SlideSource: TypeAlias = Path | tuple[Path, ...]
FEATURE_SUFFIXES = (".h5", ".hdf5", ".pt")
LISTED = 20  # suffixes that a summary names


def find_slides(source: SlideSource, *, isolated: bool = False, identity: IdentityScheme | None = None) -> FoundSlides:
    """Return every slide of a folder (searched recursively), of a manifest, or of the given files, sorted by id.

    Without a manifest, the slide id is the file's name without its suffix, and the case is that of a TCGA barcode or the id
    itself; DICOM files form one slide per series. A file whose suffix is unknown is a slide if OpenSlide recognises it.

    Args:
        source: a folder, a slide, several of them, or a manifest (see `read_manifest`).
        isolated: open files in isolated processes (see `probe_slides`).
        identity: how ids are spelt; None: by the known schemes.

    Raises:
        InputError: `source` does not exist, contains no slide, or is something else; or see `read_manifest`.
    """
    identity = identity or IdentityScheme()
    if isinstance(source, tuple):
        found = _several(source, isolated=isolated, identity=identity)
    elif source.is_dir():
        found = _in_folder(source, isolated=isolated, identity=identity)
    else:
        found = _in_file(source, isolated=isolated, identity=identity)
    files = sorted(found.files, key=lambda file: (file.slide_id, str(file.path)))
    return FoundSlides(tuple(files), found.left_out, found.notes)


def _several(sources: Sequence[Path], *, isolated: bool, identity: IdentityScheme) -> FoundSlides:
    """All given files and folders together."""
    if absent := [path for path in sources if not path.exists() and not path.is_symlink()]:
        raise InputError(f"slides: {some(absent)} does not exist{similar_name(absent[0])}")
    folders = [find_slides(path, isolated=isolated, identity=identity) for path in sources if path.is_dir()]
    others = [path for path in sources if not path.is_dir()]
    if manifests := [path for path in others if path.suffix.lower() in MANIFEST_SUFFIXES]:
        raise InputError(
            f"slides: {some(manifests)} among {count(len(sources), 'file')}: give either slides, or one manifest, as SLIDES"
        )
    given = _classify(_Listing(paths=others), isolated=isolated, identity=identity)
    known = {file.path for file in given.every()}
    if strange := [path for path in others if path not in known and path.suffix.lower() != ".dcm"]:
        raise InputError(
            f"slides: {some(strange)}: no slide; give slides, and after them the gene table, or none: run_pipeline SLIDES GENES"
        )
    every = [*folders, given]
    return FoundSlides(
        tuple(file for one in every for file in one.files),
        tuple(gone for one in every for gone in one.left_out),
        tuple(note for one in every for note in one.notes),
    )


def _in_file(source: Path, *, isolated: bool, identity: IdentityScheme) -> FoundSlides:
    if not source.exists():
        raise InputError(
            f"slides: {source} does not exist{similar_name(source) or '; give a folder, a slide or a manifest CSV'}"
        )
    suffix = source.suffix.lower()
    if suffix in MANIFEST_SUFFIXES and (suffix != ".txt" or has_manifest_header(source)):
        return read_manifest(source, identity)
    if suffix in (".json", ".tcia", ".s5cmd"):
        raise InputError(
            f"slides: {source} lists files to download (GDC, TCIA or IDC) and is not read; give the folder that they were "
            "downloaded to, or a gdc_manifest or gdc_sample_sheet in it"
        )
    found = _classify(_Listing(paths=[source]), isolated=isolated, identity=identity)
    if not found.files:
        reason = found.left_out[0].reason if found.left_out else "no format that OpenSlide reads"
        raise InputError(
            f"slides: {source} is neither a folder nor a manifest CSV nor a slide that can be read: {reason}"
        )
    return found


def _in_folder(folder: Path, *, isolated: bool, identity: IdentityScheme) -> FoundSlides:
    listing = _list_below(folder)
    found = _classify(listing, isolated=isolated, identity=identity)
    if not found.files:
        unusable = [f"{gone.file.path.name} ({gone.reason})" for gone in found.left_out]
        also = f"; {len(unusable)} files look like slides, but cannot be read: {some(unusable)}" if unusable else ""
        passed = f"; {found.notes[-1]}" if found.notes else ""
        has_features = any(path.suffix.lower() in FEATURE_SUFFIXES for path in listing.paths)
        features = "; precomputed features are imported with run_pipeline import" if has_features else ""
        known = " ".join(sorted(SUFFIXES))
        raise InputError(f"slides: no slide in {folder} or below (formats: {known}){also}{passed}{features}")
    return found


@dataclass
class _Listing:
    """The files below a folder.

    Attributes:
        paths: all visible files outside of the data folders of other formats.
        others: number of files that are not looked at, by suffix.
        parts: data folders of slides whose main file is missing, with the reason.
    """

    paths: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    parts: list[tuple[Path, str]] = field(default_factory=list)


def _list_below(folder: Path) -> _Listing:
    """All visible files, in linked folders too; a folder that can be reached in several ways is entered once."""
    entered: set[str] = set()
    listing = _Listing()
    for here, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in entered:
            folders.clear()
            continue
        entered.add(real)
        if any(name.lower() == "slidedat.ini" for name in files):  # the data folder of a MIRAX slide
            _note_mirax(Path(here), listing)
            folders.clear()
            continue
        listing.others["hidden"] += sum(name.startswith(".") for name in (*files, *folders))
        for name in [name for name in folders if name.lower().endswith(".zarr")]:
            if name.lower().endswith(".ome.zarr"):
                listing.parts.append((Path(here, name), unusable_name(name) or ""))
            else:
                listing.others[".zarr"] += 1
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.lower().endswith(".zarr"))
        listing.paths += (Path(here, name) for name in files if not name.startswith("."))
    return listing


def _note_mirax(folder: Path, listing: _Listing) -> None:
    if not any(folder.with_name(folder.name + suffix).exists() for suffix in (".mrxs", ".MRXS", ".Mrxs")):
        reason = (
            f"the data folder of a MIRAX slide without its file {folder.name}.mrxs; copy this file next to the folder"
        )
        listing.parts.append((folder, reason))


def _classify(listing: _Listing, *, isolated: bool, identity: IdentityScheme) -> FoundSlides:
    """Sort the files: slides, files that look like slides but are unusable, and others, which are counted."""
    candidates, unusable = list[Path](), list(listing.parts)
    unknown, others = list[Path](), Counter(listing.others)
    for path in listing.paths:
        suffix = path.suffix.lower()
        reason = unusable_name(path.name)
        if suffix in SUFFIXES and not path.is_dir():  # a broken link is kept: it is reported as missing
            candidates.append(path)
        elif reason and suffix not in OTHER_FORMATS:  # those are tried: a later OpenSlide may read them
            unusable.append((path, reason))
        elif (suffix in OTHER_FILES and not copy_reason(path.name)) or path.is_dir():
            others[suffix] += 1
        else:
            unknown.append(path)
    for path, vendor in zip(unknown, map_files(_vendor_of, unknown, isolated=isolated), strict=True):
        if vendor and not isinstance(vendor, Failure):
            candidates.append(path)
        elif reason := unusable_name(path.name) or copy_reason(path.name):
            unusable.append((path, reason))
        else:
            others[path.suffix.lower() or "without suffix"] += 1
    is_dicom = {path for path in candidates if path.suffix.lower() in (".dcm", ".dicom") or _has_dicom_prefix(path)}
    slides = [_from_path(path, identity) for path in candidates if path not in is_dicom]
    series, other_series = group_series(sorted(is_dicom), isolated=isolated, identity=identity)
    files = (*slides, *series)
    left_out = (*_unusable(_without_logs(unusable, files, others), files, identity), *other_series)
    return FoundSlides(files, left_out, tuple(_summary(others)))


def _from_path(path: Path, identity: IdentityScheme) -> SlideFile:
    name = slide_name(path.name)
    return SlideFile(name, identity.case_of(name), path)


def _vendor_of(path: Path) -> str | None:
    """The format that OpenSlide recognises, or None."""
    return None if unsafe_reason(path) else openslide.OpenSlide.detect_format(str(path))


def _has_dicom_prefix(path: Path) -> bool:
    """Whether a file whose suffix is none of the known ones is a DICOM file."""
    if path.suffix.lower() in SUFFIXES:
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _unusable(paths: Sequence[tuple[Path, str]], files: Sequence[SlideFile], identity: IdentityScheme) -> list[LeftOut]:
    """Files that look like slides: failed, or excluded where the complete slide is there too."""
    complete = {file.slide_id: file.path.name for file in files}
    left_out = []
    for path, reason in sorted(paths):
        file = _from_path(path, identity)
        if file.slide_id in complete:
            left_out.append(LeftOut(file, "excluded", f"{path.name}: {complete[file.slide_id]} is used instead"))
        elif path.suffix.lower() in CHANNEL_LISTS:
            left_out.append(LeftOut(file, "excluded", reason))
        else:
            left_out.append(LeftOut(file, "failed", f"only {path.name}: {reason}"))
    return left_out


def _without_logs(
    unusable: Sequence[tuple[Path, str]], files: Sequence[SlideFile], others: Counter[str]
) -> list[tuple[Path, str]]:
    """Without the logs that gdc-client leaves of every download (`logs/NAME.svs.parcel`) where the slide is named anyway."""
    logs = [path for path, _ in unusable if path.suffix.lower() == ".parcel"]
    named = {file.slide_id for file in files} | {slide_name(path.name) for path, _ in unusable if path not in logs}
    spare = {path for path in logs if slide_name(path.name) in named}
    others[".parcel"] += len(spare)
    return [(path, reason) for path, reason in unusable if path not in spare]


def _summary(others: Counter[str]) -> list[str]:
    """A note on the files that are no slides, by suffix."""
    counted = sorted(
        ((suffix or "without suffix", n) for suffix, n in others.items() if n), key=lambda one: (-one[1], one[0])
    )
    if not counted:
        return []
    listed = ", ".join(f"{n:,} {suffix}" for suffix, n in counted[:LISTED]) + (", …" if len(counted) > LISTED else "")
    total = sum(n for _, n in counted)
    return [f"{total:,} file{'s' * (total > 1)} ignored that {'are' if total > 1 else 'is'} no slide: {listed}"]
