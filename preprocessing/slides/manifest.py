"""Manifests: tables that list a cohort's slides."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from preprocessing.io.errors import InputError
from preprocessing.slides.resolution import is_plausible, plausible_range
from preprocessing.slides.slide import SlideFile
from preprocessing.tables.case_ids import case_of
from preprocessing.tables.reading import read_table

# The columns of a manifest, and names that probably mean one of them: these are neither guessed nor ignored.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": (),
    "slide_id": (),
    "case_id": ("case", "case_submitter_id", "submitter_id", "patient", "patient_id", "bcr_patient_barcode"),
    "mpp": ("mpp_x", "mpp_xy", "mpp_um", "um_per_px", "microns_per_pixel", "resolution", "pixel_size"),
}


def read_manifest(path: Path) -> list[SlideFile]:
    """Return the slides of a manifest, in its order.

    A manifest has the column `path` and optionally `slide_id`, `case_id`, `mpp` (microns per level-0 pixel) and `features`
    (a group of precomputed features in the store). Relative paths start at the manifest's folder.

    Raises:
        InputError: no usable column `path`, an ambiguous or duplicate column, a row without a path or with an mpp that is
            not a plausible number, or no row at all.
    """
    table = _with_standard_columns(path, read_table(path))
    found = []
    for number, row in zip(table.index, table.to_dict("records"), strict=True):
        if pd.isna(row["path"]):
            raise InputError(f"slides: manifest {path}, line {number}: no path")
        slide_path = path.parent / str(row["path"])  # an absolute path stays as it is
        slide_id = str(row["slide_id"]) if pd.notna(row.get("slide_id")) else slide_path.stem
        case_id = case_of(str(row["case_id"]) if pd.notna(row.get("case_id")) else slide_id)
        features = str(row["features"]) if pd.notna(row.get("features")) else ""
        found.append(SlideFile(slide_id, case_id, slide_path, _read_mpp(row.get("mpp"), path, number), features))
    if not found:
        raise InputError(f"slides: manifest {path} lists no slide")
    return found


def _with_standard_columns(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns under their standard names, however they were spelt (`Slide ID`)."""
    for name, synonyms in _COLUMNS.items():
        matches = [
            column for column in table.columns if re.sub(r"[\s_.-]", "", column.lower()) == name.replace("_", "")
        ]
        if len(matches) > 1:
            raise InputError(
                f"slides: manifest {path} has the column {name} more than once, as {', '.join(matches)}; keep one"
            )
        table = table.rename(columns=dict.fromkeys(matches, name))
        similar = [column for column in table.columns if re.sub(r"[\s.-]", "_", column.lower()) in synonyms]
        if name not in table and (similar or name == "path"):
            remedy = (
                f"rename {' or '.join(similar)} to {name}, or remove it" if similar else f"name the file column {name}"
            )
            columns = ", ".join(map(str, table.columns))
            raise InputError(f"slides: manifest {path} has no column `{name}`; it has {columns}; {remedy}")
    return table


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
        raise InputError(f"slides: manifest {path}, line {number}: mpp {mpp} lies outside {plausible_range()}")
    return mpp
