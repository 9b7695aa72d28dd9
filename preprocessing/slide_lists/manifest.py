"""Manifests: tables that list a cohort's slides, this project's own, GDC's manifests and sample sheets, and lists of ids."""

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from preprocessing.case_tables.exclusions import describe_exclusions
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import user_path
from preprocessing.slide_lists.stains import describe_stain_columns
from preprocessing.slides.names import SUFFIXES, address_name, clean_id, foreign_address, slide_name, unusable_name
from preprocessing.slides.resolution import is_plausible, plausible_range
from preprocessing.slides.slide import FoundSlides, LeftOut, SlideFile
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.reading import read_table
from preprocessing.tables.sample_types import PRIMARY, class_of_name, may_hold_sample_types, sample_classes

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
# The columns of a manifest, and names that probably mean one of them: these are neither guessed nor ignored.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": (
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "slide",
        "slide_path",
        "image",
        "image_path",
        "wsi",
    ),
    "slide_id": (),
    "case_id": ("case", "case_submitter_id", "submitter_id", "patient", "patient_id", "bcr_patient_barcode"),
    "mpp": ("mpp_x", "mpp_xy", "mpp_um", "um_per_px", "microns_per_pixel", "resolution", "pixel_size"),
    "trust_mpp": (),
    "mpp_source": (),
    "sample_type": (),
}
# GDC's tables by their columns: a download manifest, and a sample sheet.
_GDC_COLUMNS = ({"id", "filename", "md5"}, {"file_id", "file_name"})
_TRUE = frozenset({"1", "1.0", "true", "yes", "y"})
_OBJECTIVES = (10, 20, 40, 60, 63, 80, 100)  # powers that are written in place of microns per pixel
_LISTED = 8  # columns that a message lists


def has_manifest_header(path: Path) -> bool:
    """Whether a text file begins with the header of a manifest, as GDC's gdc_manifest.txt does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.readline(4096).decode("utf-8", "replace").lower()
    return bool(
        {"path", "slide_id", "filename", "file name", "file_name"}
        & set(re.split(r"[\t,;\s]*[\t,;][\s]*", header.strip()))
    )


def read_manifest(path: Path, identity: IdentityScheme | None = None) -> FoundSlides:
    """Return the slides of a manifest, in its order.

    A manifest has the column `path` and optionally `slide_id`, `case_id`, `mpp` (microns per level-0 pixel), `trust_mpp`
    (whether `mpp` overrides the metadata), `sample_type` (primary, normal, …, or a TCGA code) and `features` (a group of
    precomputed features in the store). Relative paths start at the manifest's folder, and `~` is the home folder. Without
    `path`, slides are looked up by `slide_id` below the manifest's folder.

    GDC's manifests (`id, filename, md5, …`) and sample sheets (`File ID, File Name, …, Case ID, Sample Type`) are read as they
    are; their files are expected where gdc-client puts them, in a folder named by the file id.

    Raises:
        InputError: no usable column, an ambiguous or duplicate column, a row without a path or with an mpp that is not a
            plausible number, no row at all, or none of GDC's files.
    """
    table, identity = read_table(path), identity or IdentityScheme()
    if names := _gdc_names(table):
        return _read_gdc(path, table.rename(columns=names), identity)
    table = _with_standard_columns(path, table)
    if "sample_type" not in table and any(samples := _sample_classes(table)):
        table = table.assign(sample_type=samples)
    if "path" not in table:
        table = _with_paths(path, table)
    files, left_out = list[SlideFile](), list[LeftOut]()
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        file, problem = _read_row(path, number, row, identity)
        if problem:
            left_out.append(LeftOut(file, "failed", problem))
        else:
            files.append(file)
    if not files and not left_out:
        raise InputError(f"slides: manifest {path} lists no slide")
    return FoundSlides(
        tuple(files), tuple(left_out), (*describe_exclusions(path, table), *describe_stain_columns(path, table))
    )


def _read_row(
    manifest: Path, number: int, row: Mapping[Hashable, Any], identity: IdentityScheme
) -> tuple[SlideFile, str | None]:
    """The slide of a row, and why its path cannot be used, if it cannot."""
    if pd.isna(row["path"]):
        raise InputError(f"slides: manifest {manifest}, line {number}: no path")
    text = str(row["path"]).strip()
    problem = foreign_address(text)
    path = Path(text) if problem else manifest.parent / user_path(text)  # an absolute path stays as it is
    if not problem and "\\" in text and not _exists(path):  # relative paths of Windows
        path = manifest.parent / text.replace("\\", "/")
    name = address_name(text) if problem else path.name
    slide_id = clean_id(str(row["slide_id"])) if pd.notna(row.get("slide_id")) else slide_name(name)
    given = str(row["case_id"]) if pd.notna(row.get("case_id")) else None
    _require_one_case([*([clean_id(given)] if given else []), slide_id, slide_name(name)], manifest, number, identity)
    features = str(row["features"]) if pd.notna(row.get("features")) else ""
    file = SlideFile(
        slide_id,
        identity.case_of(clean_id(given) if given else slide_id),
        path,
        _read_mpp(row.get("mpp"), manifest, number),
        features,
        trust_mpp=_is_trusted(row),
        sample_class=_sample_class(row.get("sample_type")),
        address=text if problem else "",
    )
    if features:
        return file, None
    if not problem and not _exists(path) and (reason := unusable_name(name)):
        problem = f"{name}: {reason}"
    return file, problem


def _require_one_case(ids: list[str], manifest: Path, number: int, identity: IdentityScheme) -> None:
    """Raise InputError where the barcodes of a row, of its case, slide and file, are of several cases, as in a shifted column."""
    cases = {identity.case_of(one): one for one in ids if identity.is_barcode(one)}
    if len(cases) > 1:
        raise InputError(
            f"slides: manifest {manifest}, line {number}: {' and '.join(cases.values())} are barcodes of different cases; correct "
            "the line (a column that was sorted or moved by itself shifts all of them)"
        )


def _exists(path: Path) -> bool:
    """Whether there is such a file; a name that no file system takes has none."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_trusted(row: Mapping[Hashable, Any]) -> bool:
    """By its column, or because an earlier run recorded that the manifest's resolution was used (`slides.csv`)."""
    return str(row.get("trust_mpp")).strip().lower() in _TRUE or str(row.get("mpp_source")).startswith("manifest")


def _sample_class(value: Any) -> str:
    return "" if pd.isna(value) else class_of_name(str(value)) or ""


def _sample_classes(table: pd.DataFrame) -> list[str]:
    """The class of each row's sample by columns such as Tissue Type and Tumor Descriptor (GDC) or Specimen_Type (CPTAC), or "".

    A class other than primary in any of them counts.
    """
    found: list[list[str]] = [[] for _ in range(len(table))]
    for column in filter(may_hold_sample_types, map(str, table.columns)):
        classes = sample_classes(column, table[column].map(lambda value: str(value).split(",")[0], na_action="ignore"))
        for row, name in enumerate(classes if classes is not None else ()):
            found[row] += [name] if isinstance(name, str) else []
    return [next((name for name in names if name != PRIMARY), names[0] if names else "") for names in found]


def _with_standard_columns(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns under their standard names, however they were spelt (`Slide ID`)."""
    for name, synonyms in _COLUMNS.items():
        matches = [column for column in table.columns if _plain(column) == name.replace("_", "")]
        if len(matches) > 1:
            raise InputError(
                f"slides: manifest {path} has the column {name} more than once, as {', '.join(matches)}; keep one"
            )
        table = table.rename(columns=dict.fromkeys(matches, name))
        similar = [column for column in table.columns if re.sub(r"[\s.-]", "_", column.lower()) in synonyms]
        if name not in table and similar:
            raise InputError(
                f"slides: manifest {path} has no column `{name}`; it has {_columns(table)}; rename "
                f"{' or '.join(similar)} to {name}, or remove it"
            )
    if "path" not in table and "slide_id" not in table:
        raise InputError(
            f"slides: {path} has no column `path` or `slide_id`; it has {_columns(table)}; name the file column path. If this "
            "is the gene table, SLIDES and GENES are swapped: run_pipeline SLIDES GENES"
        )
    return table


def _plain(column: str) -> str:
    return re.sub(r"[\s_.-]", "", column.lower())


def _columns(table: pd.DataFrame) -> str:
    names = [str(column)[:40] for column in table.columns]
    return ", ".join(names[:_LISTED]) + (f", … ({count(len(names), 'column')})" if len(names) > _LISTED else "")


def _with_paths(manifest: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the paths of slides of these ids below the manifest's folder; an id without one keeps its name."""
    ids = {clean_id(str(value)).casefold() for value in table["slide_id"].dropna()}
    paths = dict[str, list[Path]]()
    for here, folders, names in os.walk(manifest.parent, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if PurePath(name).suffix.lower() in SUFFIXES:
                for key in {slide_name(name).casefold(), slide_name(name).partition(".")[0].casefold()} & ids:
                    paths.setdefault(key, []).append(Path(here, name))
    if not paths:
        raise InputError(
            f"slides: manifest {manifest} has no column `path`, and none of its {len(ids)} slide ids "
            f"({some(table['slide_id'])}) is a slide below {manifest.parent}; add the column path, or give the folder of "
            "slides. If this is the gene table, SLIDES and GENES are swapped: run_pipeline SLIDES GENES"
        )
    for key, several in paths.items():
        if len(several) > 1:
            raise InputError(
                f"slides: manifest {manifest}: several files are slide {key}: {some(several)}; add column path"
            )
    found = [paths.get(clean_id(str(value)).casefold(), [Path(str(value))])[0] for value in table["slide_id"]]
    return table.assign(
        path=[str(path.absolute()) if path.is_absolute() or path.exists() else str(path) for path in found]
    )


def _gdc_names(table: pd.DataFrame) -> dict[str, str] | None:
    """The columns of a GDC table by their names in snake case; None where it is none."""
    names = {column: re.sub(r"[\s.-]+", "_", str(column).strip().lower()) for column in table.columns}
    is_gdc = any(required <= set(names.values()) for required in _GDC_COLUMNS)
    return names if is_gdc and "path" not in names.values() else None


def _read_gdc(path: Path, table: pd.DataFrame, identity: IdentityScheme) -> FoundSlides:
    """The slides of a GDC manifest or sample sheet; files of other kinds in it are counted."""
    identifier, name = ("file_id", "file_name") if "file_id" in table else ("id", "filename")
    files, others, samples = list[SlideFile](), 0, _sample_classes(table)
    for number, row in enumerate(table.to_dict("records")):
        file_name = str(row[name]).strip()
        if PurePath(file_name).suffix.lower() not in SUFFIXES:
            others += 1
            continue
        slide_id = slide_name(file_name)
        inside, beside = path.parent / str(row[identifier]) / file_name, path.parent / file_name
        listed = str(row.get("case_id") or row.get("cases") or "") if pd.notna(row.get("case_id")) else ""
        case = identity.case_of(clean_id(listed.split(",")[0]) or slide_id)
        sample = _sample_class(str(row.get("sample_type", "")).split(",")[0]) or samples[number]
        files.append(SlideFile(slide_id, case, beside if beside.exists() else inside, sample_class=sample))
    if not files:
        raise InputError(f"slides: {path} is a GDC table of {others} files, none of which is a slide")
    if not any(file.path.exists() for file in files):
        raise InputError(
            f"slides: {path} is a GDC table of {count(len(files), 'slide')}, none of which lies in {path.parent} (such as "
            f"{files[0].path.relative_to(path.parent)}); download them there with gdc-client, move the table to the download "
            "folder, or give that folder as SLIDES"
        )
    notes = [f"{path.name} is a GDC table: {count(len(files), 'slide')}"]
    if others:
        notes.append(f"{path.name}: {count(others, 'file')} of other kinds, not used")
    return FoundSlides(tuple(files), notes=tuple(notes))


def _read_mpp(value: Any, path: Path, number: int) -> float | None:
    if pd.isna(value):
        return None
    try:
        mpp = float(str(value))
    except ValueError:
        raise InputError(
            f'slides: manifest {path}, line {number}: mpp "{value}" is not a number (use a decimal point)'
        ) from None
    if not is_plausible(mpp):
        hint = "; 20× has about 0.5 µm, 40× about 0.25" if mpp in _OBJECTIVES else ""
        raise InputError(f"slides: manifest {path}, line {number}: mpp {mpp} lies outside {plausible_range()}{hint}")
    return mpp
