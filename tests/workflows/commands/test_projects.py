"""Exports lie where the other tools look for them, and read as those tools read them.

The readers below follow what CLAM (`Generic_MIL_Dataset`), TRIDENT (`read_coords`, `Processor`) and STAMP (`slide_table`,
`clini_table`) do with the files; scanpy, geopandas and spatialdata read by themselves.
"""

import json
import os
import re
import textwrap
from types import SimpleNamespace
from typing import Any

import anndata
import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch

from pipeline.run.finished_slides import open_slides
from preprocessing.encoders.catalogue import find_encoder
from preprocessing.formats.encoder_names import NAMES
from preprocessing.tables.case_ids import kept_name
from workflows.commands import export
from workflows.commands.clam_tables import _validation_cases, clam_slide_names
from workflows.commands.projects import slide_names, write_tables


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """Exports in a format; the folder."""
    out = tmp_path_factory.mktemp("exports")

    def exported(name):
        if not (out / name).exists():
            assert export.main([name, str(finished), "--out", str(out / name)]) == 0
        return out / name

    return exported


@pytest.fixture(scope="module")
def run(finished):
    return open_slides(finished, store=None, task=None)


def test_clam_finds_features_labels_and_folds(exported, run, finished):
    folder = exported("clam")
    table = pd.read_csv(folder / "dataset_csv" / "grade.csv")
    assert list(table) == ["case_id", "slide_id", "label"]
    assert len(table) == 13
    for slide in table["slide_id"]:
        tensor = torch.load(folder / "pt_files" / f"{slide}.pt", weights_only=True)
        with h5py.File(folder / "h5_files" / f"{slide}.h5") as file:
            assert np.array_equal(tensor.numpy(), file["features"][:])
            assert len(file["coords"]) == len(tensor)
    for number in range(2):
        folds = pd.read_csv(folder / "splits" / "grade" / f"splits_{number}.csv", dtype=table["slide_id"].dtype)
        parts = [table[table["slide_id"].isin(folds[part].dropna())] for part in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(table)
        assert len(parts[0]) > 0 < len(parts[2])
        train, validation, test = (set(part["case_id"]) for part in parts)
        before = pd.read_csv(finished / "splits" / "grade" / f"splits_{number}.csv")
        assert before["val"].isna().all()
        assert (train | validation, test) == (set(before["train"].dropna()), set(before["test"].dropna()))
        assert not train & validation
        assert set(parts[1]["label"]) == set(parts[0]["label"])  # CLAM computes an AUC on validation cases
    assert not (folder / "dataset_csv" / "survival.csv").exists()


def test_the_lines_for_clams_program_build_the_dataset_that_was_exported(exported):
    folder = exported("clam")
    text = (folder / "main_tasks.txt").read_text()
    fewest = min(len(torch.load(path, weights_only=True)) for path in (folder / "pt_files").iterdir())
    assert fewest < 8
    assert text.count(f" --B {fewest}\n") == 2  # CLAM takes as many tiles of each slide
    blocks = re.findall(r"^(if|elif) args.task == '(\w+)':\n((?: .*\n)+)", text, re.MULTILINE)
    assert [task for _, task, _ in blocks] == ["grade", "subtype"]
    for _, task, body in blocks:
        arguments = SimpleNamespace(data_root_dir=str(folder), task=task)
        names: dict[str, Any] = {"args": arguments, "os": os, "Generic_MIL_Dataset": dict}
        exec(textwrap.dedent(body), names)
        built = names["dataset"]
        labels = pd.read_csv(built["csv_path"])["label"]
        assert set(labels) == set(built["label_dict"])
        assert sorted(built["label_dict"].values()) == list(range(arguments.n_classes))
        assert built["data_dir"] == str(folder)
        assert f"--split_dir {folder}/splits/{task} \\\n    --k 2 --embed_dim 1280" in text


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (("007", "12"), ("slide_007", "slide_12")),
        (("1e3", "2"), ("slide_1e3", "slide_2")),
        (("007", "a"), ("007", "a")),
        (("7e27992479097cbd", "7e27992479097"), ("7e27992479097cbd", "7e27992479097")),
    ],
)
def test_clam_is_given_no_slides_that_it_would_read_as_numbers(ids, names):
    assert tuple(clam_slide_names(ids).values()) == names


def test_validation_cases_are_a_tenth_of_each_class_and_at_least_one_of_those_with_more():
    labels = pd.Series(["a"] * 25 + ["b"] * 2 + ["c"], index=[f"case_{i:02d}" for i in range(28)])
    assert _validation_cases(labels) == {"case_00", "case_10", "case_20", "case_25"}


def test_stamp_is_given_the_slides_of_a_patient_in_consecutive_rows(run, tmp_path):
    slides = sorted(run.slides(), key=lambda slide: slide.slide_id[::-1])
    names = slide_names("stamp", slides)
    write_tables(run, tmp_path, "stamp", names, slides)
    patients = pd.read_csv(tmp_path / "slide.csv")["PATIENT"]
    assert (patients != patients.shift()).sum() == patients.nunique() < len(patients)


@pytest.mark.parametrize(("ours", "theirs"), [pair for names in NAMES.values() for pair in names.items()])
def test_the_name_of_an_encoder_in_another_tool_is_one_of_its_aliases(ours, theirs):
    assert find_encoder(theirs.removesuffix("-full")) == ours


@pytest.mark.parametrize(
    ("identifier", "kept"),
    [("Fall 12 ä", True), ("S-12.a", True), ("a/b", False), ("a\\b", False), ("..", False), (".x", False), ("x.", False),
     ("", False), ("a:b", False), ("a\nb", False), ("ä" * 120, False)],
)  # fmt: skip
def test_files_keep_the_id_of_their_slide_wherever_a_file_system_allows_it(identifier, kept, tmp_path):
    name = kept_name(identifier)
    assert (name == identifier) is kept
    assert (tmp_path / f"{name}_patches.h5").resolve().parent == tmp_path.resolve()
    (tmp_path / f"{name}_patches.h5").touch()


def test_trident_finds_its_job_folder(exported, run):
    job = exported("trident") / "20x_256px_0px_overlap"
    features = sorted((job / "features_efficientnet-lite0").glob("*.h5"))
    assert len(features) == 13
    for path in features:
        with h5py.File(job / "patches" / f"{path.stem}_patches.h5") as patches, h5py.File(path) as file:
            attributes = dict(patches["coords"].attrs)
            assert np.array_equal(patches["coords"][:], file["coords"][:])
        assert {"patch_size", "level0_magnification", "target_magnification", "overlap"} <= attributes.keys()
        assert attributes["patch_size_level0"] == 256 * attributes["level0_magnification"] / 20


def test_stamp_finds_slides_and_patients(exported, run):
    folder = exported("stamp")
    slides, clini = pd.read_csv(folder / "slide.csv"), pd.read_csv(folder / "clini.csv")
    assert list(slides) == ["PATIENT", "FILENAME"]
    assert len(slides) == 13
    assert set(slides["PATIENT"]) == set(clini["PATIENT"])
    assert {"grade", "subtype", "survival_months", "event"} <= set(clini)
    for name in slides["FILENAME"]:
        with h5py.File(folder / "features" / name) as file:
            assert len(file["feats"]) == len(file["coords"])


def test_qupath_has_measurements_of_every_tile(exported, run):
    for slide in run.slides():
        path = exported("geojson") / f"{slide.slide_id}.geojson"
        found = [one for one in json.loads(path.read_text())["features"] if one["properties"]["objectType"] == "tile"]
        measured = pd.DataFrame([one["properties"]["measurements"] for one in found])
        assert len(measured) == len(run.coords(slide))
        assert measured["tissue"].between(0.5, 1).all()  # the recipe's min_tissue
        assert {"column", "row"} <= set(measured)
    assert len(geopandas.read_file(path)) > len(found)


def test_the_share_of_tissue_is_that_of_the_tiles_pixels(run):
    slide = run.slides()[0]
    mask, size = run.store.read_tiles(slide.tiles).mask, run.size_px(slide)
    whole = np.kron(mask, np.ones((size[1] // mask.shape[0], size[0] // mask.shape[1])))  # the mask, pixel by pixel
    expected = [whole[y : y + 256, x : x + 256].mean() for x, y in run.coords(slide)]
    np.testing.assert_allclose(run.tile_measurements(slide)["tissue"], expected, atol=0.01)


def test_scanpy_draws_tiles_on_the_slide(exported, run, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import scanpy

    slide = run.slides()[0]
    tiles = anndata.read_h5ad(exported("anndata") / f"{slide.case_id}.h5ad")
    picture = tiles.uns["spatial"][slide.slide_id]
    scale = picture["scalefactors"]["tissue_hires_scalef"]
    height, width, _ = picture["images"]["hires"].shape
    assert (tiles.obsm["spatial"] * scale < (width, height)).all()
    assert width == pytest.approx(run.size_px(slide)[0] * scale)
    tiles = tiles[tiles.obs["slide_id"] == slide.slide_id]
    axes = scanpy.pl.spatial(tiles, library_id=slide.slide_id, color="row", show=False)
    assert len(axes) == 1


def test_spatialdata_opens_picture_tissue_tiles_and_features(exported, run):
    slide = run.slides()[0]
    found = spatialdata.read_zarr(exported("spatialdata") / f"{slide.slide_id}.zarr")
    bag = run.store.read_features(slide.features)
    assert np.array_equal(found.tables["features"].X, bag.features.astype(np.float32))
    tiles = found.shapes["tiles"]
    assert np.array_equal(tiles.bounds[["minx", "miny"]], bag.coords)
    assert list(found.tables["features"].obs["tile"]) == list(tiles.index)
    whole = spatialdata.get_extent(found, coordinate_system="level0", elements=["thumbnail"])
    width, height = run.size_px(slide)
    assert width > height
    assert (whole["x"], whole["y"]) == (pytest.approx((0, width)), pytest.approx((0, height)))
    covered = tiles.intersection(found.shapes["tissue"].union_all()).area / tiles.area
    assert covered.min() > 0.5 - 1e-6  # tiles.min_tissue
    mask = run.store.read_tiles(slide.tiles).mask
    rows, columns = np.nonzero(mask)
    pixel = width / mask.shape[1]
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * pixel
    np.testing.assert_allclose(found.shapes["tissue"].total_bounds, box, atol=pixel)
