"""Slides: found on disk, told apart, their resolution made certain."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import openslide
import pandas as pd

from preprocessing.io.errors import InputError, SlideError, some
from preprocessing.io.files import what_it_is, why_no_file
from preprocessing.io.fingerprints import slide_fingerprint
from preprocessing.slides.isolated import Lost, each_apart, each_here
from preprocessing.slides.reader import SlideReader
from preprocessing.tables.case_ids import case_of, slide_kind
from preprocessing.tables.reading import read_table

log = logging.getLogger(__name__)
# What OpenSlide 4 reads.
SUFFIXES = frozenset({".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu", ".bif", ".dcm"})
MPP_RANGE = (0.05, 5.0)  # microns per pixel of any bright-field scan; beyond it the metadata are wrong
MAX_SIDE_MM = 400  # whole-organ glass has 200; a header that is damaged can say anything
POWER_TIMES_MPP = 10.0  # a 40x objective is scanned at about 0.25 microns per pixel, a 20x one at 0.5
DOUBT_RATIO = 1.6  # a resolution that differs by more from what the objective power implies is doubtful
MANIFEST_SLACK = 0.05  # as a share, by which a manifest may have rounded
_DOUBTFUL = "doubtful"
OPENED_AT_ONCE = 8  # to open a slide is to wait for the disk
OPENING_MINUTES = 5.0  # it takes milliseconds, or seconds on a slow network
T = TypeVar("T")
R = TypeVar("R")

# A manifest's columns, and those that are probably meant as one of them: they are not guessed, and not passed over.
_MANIFEST: dict[str, tuple[str, ...]] = {
    "path": (),
    "slide_id": (),
    "case_id": ("case", "case_submitter_id", "submitter_id", "patient", "patient_id", "bcr_patient_barcode"),
    "mpp": ("mpp_x", "mpp_xy", "mpp_um", "um_per_px", "microns_per_pixel", "resolution", "pixel_size"),
}


@dataclass(frozen=True)
class SlideFile:
    """A slide that was found, not yet opened.

    Attributes:
        mpp: what the manifest says, in microns per pixel, or None.
        features: the group of features in the store that the manifest names, which stands for the slide; or empty.
    """

    slide_id: str
    case_id: str
    path: Path
    mpp: float | None = None
    features: str = ""


@dataclass(frozen=True)
class Slide:
    """A slide that opens and whose resolution is known. It never holds an open handle.

    Attributes:
        mpp_xy: microns per level-0 pixel, along x and y.
        mpp_source: where that is from: metadata, manifest, objective power or default.
        size_px: width and height of level 0.
        fingerprint: of the file's bytes (see `slide_fingerprint`).
        features: its group of features in the store, where the manifest names one: then the file is not looked at.
    """

    slide_id: str
    case_id: str
    path: Path
    mpp_xy: tuple[float, float]
    mpp_source: str
    size_px: tuple[int, int]
    fingerprint: str
    features: str = ""

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel, the mean of both directions."""
        return (self.mpp_xy[0] + self.mpp_xy[1]) / 2


@dataclass(frozen=True)
class LeftOut:
    """A slide that is not used, on purpose (`excluded`) or because it cannot be (`failed`)."""

    file: SlideFile
    status: str
    reason: str


def find_slides(source: Path, *, apart: bool = False) -> list[SlideFile]:
    """Every slide of a folder (searched recursively), of a manifest CSV, or the one slide that `source` is.

    Sorted by id. A manifest has the columns `path` and, as wanted, `slide_id`, `case_id` and `mpp`; its relative paths
    start at its own folder. With a column `features` (as the `slides.csv` of a run, or what an import wrote) it names
    features of the store, and the slides need not be there. Without a manifest the id is the file's stem, the case what a
    TCGA barcode says, or the stem. To tell the series of DICOM files they are opened, with `apart` as in `probe_slides`.

    Raises:
        InputError: nothing there, no slides in it, or two different files with one slide id.
    """
    if not source.exists():
        raise InputError(f"slides: {source} does not exist; give a folder, a slide or a manifest CSV")
    if source.is_dir():
        found = [_from_path(path) for path in _slide_paths(source, apart=apart)]
        if not found:
            known = " ".join(sorted(SUFFIXES))
            raise InputError(f"slides: no slide in {source} or below; looked for {known}")
    elif source.suffix.lower() in SUFFIXES:
        found = [_from_path(source)]
    elif source.suffix.lower() in {".csv", ".tsv"}:
        found = _from_manifest(source)
    else:
        raise InputError(f"slides: {source} is neither a folder nor a manifest CSV nor a slide that OpenSlide reads")
    return sorted(found, key=lambda file: (file.slide_id, str(file.path)))


def _slide_paths(folder: Path, *, apart: bool) -> list[Path]:
    paths = [
        path
        for path in _files_below(folder)
        if path.suffix.lower() in SUFFIXES
        and not path.is_dir()  # a link that leads nowhere is kept: it is told as a slide that does not exist
    ]
    dicom = {p for p in paths if p.suffix.lower() == ".dcm"}
    return sorted(set(paths) - dicom) + _one_per_series(sorted(dicom), apart=apart)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files that are not hidden, in linked folders too; a folder that several ways lead to is entered once."""
    entered: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in files if not name.startswith("."))


def _one_per_series(paths: list[Path], *, apart: bool) -> list[Path]:
    """DICOM keeps a slide in many files; the first of each series stands for it. What cannot be opened stands for itself."""
    first: dict[str, Path] = {}
    for path, series in zip(paths, _open_each(_series_of, paths, apart=apart), strict=True):
        first.setdefault(str(path) if isinstance(series, Lost) else series, path)
    return list(first.values())


def _series_of(path: Path) -> str:
    """The DICOM series that the file belongs to; its own path where it does not say."""
    if _why_unsafe(path):
        return str(path)
    try:
        with openslide.OpenSlide(str(path)) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID", str(path))
    except openslide.OpenSlideError:
        return str(path)


def _open_each(work: Callable[[T], R], files: Sequence[T], *, apart: bool) -> list[R | Lost]:
    """Whatever a library raises over a file loses that file alone."""
    if not apart:
        return each_here(work, files, at_once=OPENED_AT_ONCE)
    return each_apart(work, files, at_once=OPENED_AT_ONCE, minutes=OPENING_MINUTES)


def _from_path(path: Path) -> SlideFile:
    return SlideFile(path.stem, case_of(path.stem), path)


def _from_manifest(path: Path) -> list[SlideFile]:
    table = _with_plain_names(path, read_table(path))
    found = []
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        if pd.isna(row["path"]):
            raise InputError(f"slides: manifest {path}, line {number}: no path")
        where = path.parent / str(row["path"])  # an absolute path stays as it is
        slide_id = str(row["slide_id"]) if pd.notna(row.get("slide_id")) else where.stem
        case_id = case_of(str(row["case_id"]) if pd.notna(row.get("case_id")) else slide_id)
        features = str(row["features"]) if pd.notna(row.get("features")) else ""
        found.append(SlideFile(slide_id, case_id, where, _manifest_mpp(row.get("mpp"), path, number), features))
    if not found:
        raise InputError(f"slides: manifest {path} names no slide")
    return found


def _with_plain_names(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The manifest with its columns under their names however they were spelt, as `Slide ID`; likenesses are refused."""
    for name, others in _MANIFEST.items():
        spelt = [column for column in table.columns if re.sub(r"[\s_.-]", "", column.lower()) == name.replace("_", "")]
        if len(spelt) > 1:
            raise InputError(
                f"slides: manifest {path} has the column {name} more than once, as {', '.join(spelt)}; keep one"
            )
        table = table.rename(columns=dict.fromkeys(spelt, name))
        alike = [column for column in table.columns if re.sub(r"[\s.-]", "_", column.lower()) in others]
        if name not in table and (alike or name == "path"):
            remedy = f"call {' or '.join(alike)} {name}, or leave it out" if alike else f"call the files {name}"
            told = ", ".join(map(str, table.columns))
            raise InputError(f"slides: manifest {path} has no column `{name}`; it has {told}; {remedy}")
    return table


def _manifest_mpp(value: Any, path: Path, number: int) -> float | None:
    if pd.isna(value):
        return None
    try:
        mpp = float(str(value))
    except ValueError:
        raise InputError(
            f'slides: manifest {path}, line {number}: mpp "{value}" is not a number (decimals take a point)'
        ) from None
    if not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        raise InputError(f"slides: manifest {path}, line {number}: mpp {mpp} lies outside {_mpp_range()}")
    return mpp


def select_kind(files: Iterable[SlideFile], kind: str) -> tuple[list[SlideFile], list[LeftOut]]:
    """Slides of the wanted kind ("DX": diagnostic only, or "all"), and those left out. Ids that are not TCGA's stay."""
    kept, left_out = [], []
    for file in files:
        found = slide_kind(file.slide_id)
        if kind == "all" or found is None or found.startswith(kind):
            kept.append(file)
        else:
            reason = f"slide kind {found}, only {kind} is used; --slide-kind all takes every slide"
            left_out.append(LeftOut(file, "excluded", reason))
    return kept, left_out


def probe_slides(
    files: list[SlideFile],
    *,
    default_mpp: float | None,
    stored: Callable[[SlideFile], Slide] | None = None,
    apart: bool = False,
) -> tuple[list[Slide], list[LeftOut]]:
    """Open each file for a moment: the usable slides, and those that cannot be used with the reason.

    Args:
        files: what was found.
        default_mpp: for slides that do not say their resolution.
        stored: looks a slide up where only its features are there; then no file is opened.
        apart: in processes of their own: a file that crashes the library, or hangs it, fails alone. Else it would take
            this process along.

    Raises:
        InputError: two different slides go by one id.
    """
    if stored:
        results = _look_up_each(stored, files)
    else:
        results = _open_each(partial(probe_slide, default_mpp=default_mpp), files, apart=apart)
    slides: dict[str, Slide] = {}
    left_out = []
    for slide, file in zip(results, files, strict=True):
        if isinstance(slide, Lost):
            left_out.append(LeftOut(file, "failed", slide.reason))
            log.debug("opening %s: %s %s", file.slide_id, slide.reason, slide.trace)
            continue
        twin = slides.setdefault(slide.slide_id, slide)
        if twin is not slide:
            _same_or_raise(twin, slide)
            left_out.append(LeftOut(file, "excluded", f"a copy of {twin.path}"))
    return list(slides.values()), left_out


def _look_up_each(stored: Callable[[SlideFile], Slide], files: list[SlideFile]) -> list[Slide | Lost]:
    """In this process: the store is none of the strangers whose errors stop no run."""

    def attempt(file: SlideFile) -> Slide | Lost:
        try:
            return stored(file)
        except SlideError as error:
            return Lost(str(error))

    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        return list(pool.map(attempt, files))


def same_scans(slides: Iterable[Slide]) -> list[str]:
    """Warnings of files that are the same, byte for byte as far as is looked, under different ids."""
    groups: dict[str, list[Slide]] = {}
    for slide in slides:
        groups.setdefault(slide.fingerprint, []).append(slide)
    return [
        f"warning: the same scan is there {len(twins)} times, as {', '.join(slide.slide_id for slide in twins[:3])}"
        + (
            ": of different cases, so that folds are not independent; remove all but the right one"
            if len({slide.case_id for slide in twins}) > 1
            else ": its tiles count as often; remove all but one"
        )
        for twins in groups.values()
        if len(twins) > 1
    ]


def doubtful_resolutions(slides: Iterable[Slide]) -> list[str]:
    """A warning of the slides whose objective power, or manifest, speaks against their resolution, if there are any."""
    told = [
        f"{slide.slide_id} ({slide.mpp:g} µm, {slide.mpp_source})" for slide in slides if _DOUBTFUL in slide.mpp_source
    ]
    return [
        f"warning: of {len(told)} slides something speaks against the resolution in their metadata, which is believed: "
        f"{some(told)}; compare it with the scanner's, since a wrong one gives tiles of a wrong scale; slides.csv has them all"
        for _ in told[:1]
    ]


def _same_or_raise(one: Slide, other: Slide) -> None:
    if (one.fingerprint, one.case_id, one.mpp_xy) != (other.fingerprint, other.case_id, other.mpp_xy):
        raise InputError(
            f"slides: {one.path} and {other.path} are different, but both are called {one.slide_id}; "
            "rename one, or give a manifest CSV with a slide_id for each"
        )


def probe_slide(file: SlideFile, *, default_mpp: float | None) -> Slide:
    """The slide with its size, resolution and fingerprint; raises SlideError with the reason why it cannot be used."""
    if problem := _why_unsafe(file.path):
        raise SlideError(problem)
    try:
        with SlideReader(file.path) as reader:
            size_px, properties = reader.size_px, reader.properties
        fingerprint = slide_fingerprint(file.path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideError(f"not a slide that OpenSlide can read{_instead(file.path)}") from None
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideError(f"cannot be opened: {error}; if it was copied in part, copy it again") from None
    mpp_xy, source = resolve_mpp(properties, manifest_mpp=file.mpp, default_mpp=default_mpp)
    sides = [side * mpp / 1000 for side, mpp in zip(size_px, mpp_xy, strict=True)]
    if max(sides) > MAX_SIDE_MM:
        raise SlideError(
            f"absurd size: {size_px[0]} × {size_px[1]} pixels of {mpp_xy[0]:g} × {mpp_xy[1]:g} µm ({source}) are "
            f"{sides[0]:,.0f} × {sides[1]:,.0f} mm, more than any glass; its header is damaged, or its resolution wrong"
        )
    return Slide(file.slide_id, file.case_id, file.path, mpp_xy, source, size_px, fingerprint)


def _instead(path: Path) -> str:
    """What the file is instead of a slide, where its beginning tells, and the remedy."""
    try:
        with path.open("rb") as file:
            beginning, length = file.read(512), path.stat().st_size
    except OSError as error:
        return f": it cannot be read: {error}"
    if not beginning:
        return ": it is empty; copy it again"
    if what := what_it_is(beginning):
        return f": it is {what}; fetch it again, or unpack it"
    if not any(beginning):
        return ": it begins with nothing but zeros, as a copy that broke off; copy it again"
    if beginning.isascii() and b"\0" not in beginning:
        return ": it is text, perhaps the message of a download that failed; fetch it again"
    if beginning[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    order: Literal["little", "big"] = "big" if beginning.startswith(b"MM") else "little"
    directory = beginning[4:8] if b"*" in beginning[:4] else beginning[8:16]  # of a BigTIFF it stands behind
    if int.from_bytes(directory, order) >= length:
        return f": it ends after {length:,} bytes, before its directory; copy it again"
    return ": it begins as a TIFF, but was copied in part (then copy it again), or is not tiled"


def _why_unsafe(path: Path) -> str | None:
    """What would keep OpenSlide waiting for ever: a pipe or a device, as the slide or among the files read along with it."""
    if problem := why_no_file(path):
        return f"{path} {problem}"
    beside = {".mrxs": path.with_suffix(""), ".dcm": path.parent, ".vms": path.parent, ".vmu": path.parent}
    folder = beside.get(path.suffix.lower())
    if folder is None or not folder.is_dir():
        return None
    odd = sorted(other for other in folder.iterdir() if not other.is_dir() and why_no_file(other))
    return f"{odd[0]}, which is read along with {path.name}, {why_no_file(odd[0])}" if odd else None


def resolve_mpp(
    properties: dict[str, str], *, manifest_mpp: float | None, default_mpp: float | None
) -> tuple[tuple[float, float], str]:
    """Microns per level-0 pixel along x and y, and where they are from.

    The metadata's; failing them the manifest's, the one that the objective power implies, or the default. Metadata that
    are absurd are believed by nobody: then only the manifest can help.

    Raises:
        SlideError: no resolution, or an absurd one.
    """
    told = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    known = [value for value in told if value]  # 0 is how some scanners say that they do not know
    power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    if known and all(_plausible(value) for value in known):
        x, y = (value or known[0] for value in told)
        return (x, y), "metadata" + _doubt(x, power, manifest_mpp)
    if known and manifest_mpp is None:
        raise SlideError(
            f"absurd resolution in its metadata: {' × '.join(f'{value:g}' for value in known)} microns per pixel, "
            f"outside {_mpp_range()}; give the right one in the manifest's mpp column"
        )
    if manifest_mpp is not None:
        return (manifest_mpp, manifest_mpp), "manifest"
    if power and _plausible(POWER_TIMES_MPP / power):
        return (POWER_TIMES_MPP / power, POWER_TIMES_MPP / power), f"objective power {power:g}x"
    if default_mpp is not None:
        return (default_mpp, default_mpp), "default"
    raise SlideError("no microns per pixel in its metadata; give --default-mpp or an mpp column in the manifest")


def _doubt(mpp: float, power: float | None, manifest_mpp: float | None) -> str:
    """What the ledger adds where the manifest or the objective power speaks against the resolution."""
    if manifest_mpp and abs(manifest_mpp / mpp - 1) > MANIFEST_SLACK:
        return f" ({_DOUBTFUL}: the manifest says {manifest_mpp:g})"
    if not power or not _plausible(POWER_TIMES_MPP / power):
        return ""
    ratio = mpp * power / POWER_TIMES_MPP
    return "" if 1 / DOUBT_RATIO < ratio < DOUBT_RATIO else f" ({_DOUBTFUL}: objective power {power:g}x)"


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _plausible(mpp: float) -> bool:
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def _mpp_range() -> str:
    return f"{MPP_RANGE[0]}–{MPP_RANGE[1]} µm"
