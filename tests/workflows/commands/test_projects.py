"""Exports lie where the other tools look for them, and read as those tools read them.

The readers below follow what CLAM (`Generic_MIL_Dataset`), TRIDENT (`read_coords`, `Processor`) and STAMP (`slide_table`,
`clini_table`) do with the files; scanpy, geopandas and spatialdata read by themselves.
"""

import json

import anndata
import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch

from pipeline.run.finished_slides import open_slides
from workflows.commands import export


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
        before = pd.read_csv(finished / "splits" / "grade" / f"splits_{number}.csv")
        assert {part: set(rows["case_id"]) for part, rows in zip(before, parts, strict=True)} == {
            part: set(before[part].dropna()) for part in before
        }
    assert not (folder / "dataset_csv" / "survival.csv").exists()


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
    assert whole["x"] == pytest.approx((0, run.size_px(slide)[0]))
    assert found.shapes["tissue"].area.sum() > 0.5 * tiles.area.sum()
