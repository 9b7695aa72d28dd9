"""Patch features as the project folders of CLAM, TRIDENT and STAMP: files, tables and folds lie where these tools expect them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from preprocessing.formats.encoder_names import name_in
from preprocessing.formats.h5 import DTYPES, POWER_TIMES_MPP, FeatureFile, write_coords, write_h5
from preprocessing.io.atomic import atomic_file
from preprocessing.tables.case_ids import file_name, kept_name
from workflows.commands.clam_tables import clam_slide_names, write_clam_tables, write_csv

if TYPE_CHECKING:
    from pipeline.run.finished_slides import FinishedSlide, FinishedSlides
    from preprocessing.features.store import Bag
    from preprocessing.formats.h5 import Format, Geometry

PATCHES = "patches"  # TRIDENT's folder of coordinates


def slide_names(layout: "Format", slides: Sequence["FinishedSlide"]) -> dict[str, str]:
    """Return the name of each slide's files by its id: the id, where a file can have that name and the tool reads it as text."""
    names = {slide.slide_id: kept_name(slide.slide_id) for slide in slides}
    if layout == "clam":
        of_clam = clam_slide_names(list(names.values()))
        return {slide: of_clam[name] for slide, name in names.items()}
    return names


def write_features(
    run: "FinishedSlides", out: Path, layout: "Format", names: Mapping[str, str], slide: "FinishedSlide"
) -> list[Path]:
    """Write the features of a slide where the tool looks for them; returns the files.

        clam       h5_files/SLIDE.h5 and pt_files/SLIDE.pt
        trident    20x_256px_0px_overlap/features_ENCODER/SLIDE.h5 and …/patches/SLIDE_patches.h5
        stamp      features/SLIDE.h5

    Raises:
        SlideError: the features are missing or damaged.
    """
    metadata, geometry, name = run.metadata(slide), run.geometry(slide), names[slide.slide_id]
    imported = metadata.get("imported") or {}
    dtypes = imported["dtypes"] if imported.get("from") == layout else DTYPES[layout]
    bag, encoder = run.store.read_features(slide.features), str(metadata["encoder"]["name"])
    folder = out / {"clam": "h5_files", "stamp": "features"}.get(
        layout, f"{_job(geometry)}/features_{file_name(name_in('trident', encoder))}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.h5"
    write_h5(path, layout, FeatureFile(bag, geometry, (dtypes[0], dtypes[1]), encoder), slide_id=slide.slide_id)
    if layout == "clam":
        return [path, _write_tensor(out / "pt_files" / f"{name}.pt", bag)]
    if layout == "trident":
        (folder.parent / PATCHES).mkdir(exist_ok=True)
        patches = folder.parent / PATCHES / f"{name}_patches.h5"
        write_coords(patches, bag.coords, geometry, slide_id=slide.slide_id)
        return [path, patches]
    return [path]


def _job(geometry: "Geometry") -> str:
    """The name that TRIDENT gives the folder of a tile size."""
    overlap = geometry.tile_px - geometry.stride_px
    return f"{POWER_TIMES_MPP / geometry.mpp:g}x_{geometry.tile_px}px_{overlap}px_overlap"


def _write_tensor(path: Path, bag: "Bag") -> Path:
    import numpy as np
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        torch.save(torch.from_numpy(bag.features.astype(np.float32)), temporary)
    return path


def write_tables(
    run: "FinishedSlides", out: Path, layout: str, names: Mapping[str, str], slides: Sequence["FinishedSlide"]
) -> list[Path]:
    """Write the tables of slides, labels and folds beside the features; returns the files.

    clam       dataset_csv/TASK.csv (case_id, slide_id, label), splits/TASK/splits_0.csv, … and main_tasks.txt
    stamp      slide.csv (PATIENT, FILENAME) and clini.csv (PATIENT and all labels)
    """
    if not slides or layout == "trident":
        return []
    table = pd.DataFrame(
        {"case_id": [slide.case_id for slide in slides], "slide_id": [names[slide.slide_id] for slide in slides]}
    ).sort_values(["case_id", "slide_id"])  # STAMP takes only the last run of consecutive rows of a patient
    if layout == "clam":
        return write_clam_tables(run, out, table, dim=run.store.read_features(slides[0].features).features.shape[1])
    files = table.assign(FILENAME=table["slide_id"] + ".h5").rename(columns={"case_id": "PATIENT"})
    cases = run.run.cases[run.run.cases["case_id"].isin(table["case_id"])].rename(columns={"case_id": "PATIENT"})
    labels = cases.drop(columns=["status", "reason", "n_slides"], errors="ignore")
    return [write_csv(out / "slide.csv", files[["PATIENT", "FILENAME"]]), write_csv(out / "clini.csv", labels)]
