"""Patch features as the project folders of CLAM, TRIDENT and STAMP: files, tables and folds lie where these tools expect them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from preprocessing.formats.h5 import DTYPES, POWER_TIMES_MPP, FeatureFile, write_coords, write_h5
from preprocessing.io.atomic import atomic_file, write_text
from preprocessing.io.outputs import read_table
from preprocessing.tables.case_ids import file_name

if TYPE_CHECKING:
    from pipeline.run.finished_slides import FinishedSlide, FinishedSlides
    from preprocessing.features.store import Bag
    from preprocessing.formats.h5 import Format, Geometry

PATCHES = "patches"  # TRIDENT's folder of coordinates


def write_features(run: "FinishedSlides", out: Path, layout: "Format", slide: "FinishedSlide") -> list[Path]:
    """Write the features of a slide where the tool looks for them; returns the files.

        clam       h5_files/SLIDE.h5 and pt_files/SLIDE.pt
        trident    20x_256px_0px_overlap/features_ENCODER/SLIDE.h5 and …/patches/SLIDE_patches.h5
        stamp      features/SLIDE.h5

    Raises:
        SlideError: the features are missing or damaged.
    """
    metadata, geometry, name = run.metadata(slide), run.geometry(slide), file_name(slide.slide_id)
    imported = metadata.get("imported") or {}
    dtypes = imported["dtypes"] if imported.get("from") == layout else DTYPES[layout]
    bag, encoder = run.store.read_features(slide.features), str(metadata["encoder"]["name"])
    folder = out / {"clam": "h5_files", "stamp": "features"}.get(
        layout, f"{_job(geometry)}/features_{file_name(encoder)}"
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


def write_tables(run: "FinishedSlides", out: Path, layout: str, slides: Sequence["FinishedSlide"]) -> list[Path]:
    """Write the tables of slides, labels and folds beside the features; returns the files.

    clam       dataset_csv/TASK.csv (case_id, slide_id, label) and splits/TASK/splits_0.csv, … of each classification
    stamp      slide.csv (PATIENT, FILENAME) and clini.csv (PATIENT and all labels)
    """
    table = pd.DataFrame(
        {"case_id": [slide.case_id for slide in slides], "slide_id": [file_name(slide.slide_id) for slide in slides]}
    )
    if layout == "stamp":
        files = table.assign(FILENAME=table["slide_id"] + ".h5").rename(columns={"case_id": "PATIENT"})
        cases = run.run.cases[run.run.cases["case_id"].isin(table["case_id"])].rename(columns={"case_id": "PATIENT"})
        labels = cases.drop(columns=["status", "reason", "n_slides"], errors="ignore")
        return [_write(out / "slide.csv", files[["PATIENT", "FILENAME"]]), _write(out / "clini.csv", labels)]
    if layout == "clam":
        return [path for task in run.run.tasks() for path in _clam_tables(run, out, task, table)]
    return []


def _clam_tables(run: "FinishedSlides", out: Path, task: str, slides: pd.DataFrame) -> list[Path]:
    from pipeline.tasks import Classification

    if task not in run.run.metrics or not isinstance(run.run.definitions.get(task), Classification):  # CLAM classifies
        return []
    predictions = run.run.predicted(task)
    labels = predictions.drop_duplicates("case_id").set_index("case_id")["label"]
    table = slides.assign(label=slides["case_id"].map(labels))
    table = table[table["label"].notna() & (table["label"] != "")]
    paths = [_write(out / "dataset_csv" / f"{task}.csv", table)]
    for path in sorted((run.run.folder / "splits" / task).glob("splits_*.csv")):
        folds = read_table(path, dtype=str)
        columns = {
            part: table.loc[table["case_id"].isin(folds[part].dropna()), "slide_id"].reset_index(drop=True)
            for part in ("train", "val", "test")
        }
        paths.append(_write(out / "splits" / task / path.name, pd.DataFrame(columns)))
    return paths


def _write(path: Path, table: pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False))
    return path
