"""Slides are found: in a folder, in a manifest, or as a single file."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import openslide

from preprocessing.io.errors import InputError
from preprocessing.slides.diagnosis import unsafe_reason
from preprocessing.slides.isolated import Failure, map_files
from preprocessing.slides.manifest import read_manifest
from preprocessing.slides.slide import LeftOut, SlideFile
from preprocessing.tables.case_ids import case_of, slide_kind

# Formats that OpenSlide 4 reads.
SUFFIXES = frozenset({".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu", ".bif", ".dcm"})


def find_slides(source: Path, *, isolated: bool = False) -> list[SlideFile]:
    """Return every slide of a folder (searched recursively) or of a manifest, or the one slide at `source`, sorted by id.

    Without a manifest, the slide id is the file's stem, and the case is that of a TCGA barcode or the stem itself.

    Args:
        source: a folder, a slide, or a manifest (see `read_manifest`).
        isolated: open DICOM files, to find their series, in isolated processes (see `probe_slides`).

    Raises:
        InputError: `source` does not exist, contains no slide, or is something else; or see `read_manifest`.
    """
    if not source.exists():
        raise InputError(f"slides: {source} does not exist; give a folder, a slide or a manifest CSV")
    if source.is_dir():
        found = [_from_path(path) for path in _slide_paths(source, isolated=isolated)]
        if not found:
            known = " ".join(sorted(SUFFIXES))
            raise InputError(f"slides: no slide in {source} or below; looked for {known}")
    elif source.suffix.lower() in SUFFIXES:
        found = [_from_path(source)]
    elif source.suffix.lower() in {".csv", ".tsv"}:
        found = read_manifest(source)
    else:
        raise InputError(f"slides: {source} is neither a folder nor a manifest CSV nor a slide that OpenSlide reads")
    return sorted(found, key=lambda file: (file.slide_id, str(file.path)))


def _from_path(path: Path) -> SlideFile:
    return SlideFile(path.stem, case_of(path.stem), path)


def _slide_paths(folder: Path, *, isolated: bool) -> list[Path]:
    paths = [
        path
        for path in _files_below(folder)
        if path.suffix.lower() in SUFFIXES
        and not path.is_dir()  # a broken link is kept: it is reported as a slide that does not exist
    ]
    dicom = {p for p in paths if p.suffix.lower() == ".dcm"}
    return sorted(set(paths) - dicom) + _one_per_series(sorted(dicom), isolated=isolated)


def _files_below(folder: Path) -> Iterator[Path]:
    """All visible files, in linked folders too; a folder that can be reached in several ways is entered once."""
    entered: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in files if not name.startswith("."))


def _one_per_series(paths: list[Path], *, isolated: bool) -> list[Path]:
    """The first file of each DICOM series, which spreads a slide over many files; a file that does not open stays."""
    first: dict[str, Path] = {}
    for path, series in zip(paths, map_files(_series_of, paths, isolated=isolated), strict=True):
        first.setdefault(str(path) if isinstance(series, Failure) else series, path)
    return list(first.values())


def _series_of(path: Path) -> str:
    """The DICOM series of a file, or its path where the file is in none."""
    if unsafe_reason(path):
        return str(path)
    try:
        with openslide.OpenSlide(str(path)) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID", str(path))
    except openslide.OpenSlideError:
        return str(path)


def select_kind(files: Iterable[SlideFile], kind: str) -> tuple[list[SlideFile], list[LeftOut]]:
    """Split slides into those of a kind ("DX": diagnostic, or "all") and those left out. Ids without a TCGA kind stay."""
    kept, left_out = [], []
    for file in files:
        found = slide_kind(file.slide_id)
        if kind == "all" or found is None or found.startswith(kind):
            kept.append(file)
        else:
            reason = f"slide kind {found}; only {kind} slides are used (--slide-kind all uses every slide)"
            left_out.append(LeftOut(file, "excluded", reason))
    return kept, left_out
