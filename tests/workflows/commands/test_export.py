import errno
import json
import shutil
from types import SimpleNamespace

import anndata
import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from shapely.geometry import shape

from pipeline.run.explanation_file import write_explanation
from pipeline.run.finished_slides import open_slides
from preprocessing.formats.colours import SHARES, Scale
from preprocessing.io.errors import RunError
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.masks import read_mask
from workflows import run_pipeline
from workflows.commands import export

SCALE = Scale(0.0, 0.01, 0.05, SHARES)


@pytest.mark.parametrize("of_run", ["scan", "slide"])
@pytest.mark.parametrize("requested", [None, "scan", "slide"])
def test_outlines_are_measured_from_the_requested_origin_or_else_from_that_of_the_runs_masks(
    monkeypatch, tmp_path, requested, of_run
):
    origins = []
    monkeypatch.setattr(export, "_write_geojson", lambda run, slide, out, origin: origins.append(origin))
    run = SimpleNamespace(slides=lambda cases: ["slide"], outline_origin=of_run)
    export.export("geojson", run, tmp_path, origin=requested)
    assert origins == [requested or of_run]


@pytest.fixture
def explained(finished, tmp_path):
    """A copy of the finished run in which the first case's slides are explained."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("explain"))
    run = open_slides(folder, store=None, task=None)
    case = run.slides()[0].case_id
    places = folder / "explain" / "grade"
    places.mkdir(parents=True)
    slides = run.slides([case])
    for slide in slides:
        table = pd.DataFrame(run.coords(slide), columns=["x", "y"])
        n = len(table)
        table["prototype"], table["attention"] = np.arange(n) % 3 + 1, np.linspace(0, 1, n) / n
        table.sample(frac=1, random_state=0).to_csv(places / f"{slide.slide_id}.csv", index=False)  # in any order
    entries = [{"slide_id": slide.slide_id, "tile_table": f"{slide.slide_id}.csv"} for slide in slides]
    atlas = [{"prototype": 1, "colour": "#010203"}]
    legends = {"attention": SCALE.legend() | {"unit": "share of attention"}}
    content = {"task": "grade", "cases": [{"case_id": case, "slides": entries, "legends": legends}], "atlas": atlas}
    write_explanation(folder / "explain" / "grade.json", content)
    return open_slides(folder, store=None, task=None)


def run_export(name, folder, *options):
    return export.main([name, str(folder), *map(str, options)])


def test_what_is_written_for_qupath_reads_back_as_the_runs_own_tissue(finished, tmp_path):
    assert run_export("geojson", finished, "--out", tmp_path) == 0
    run = open_slides(finished, store=None, task=None)
    for slide in run.slides():
        tiled = run.store.read_tiles(slide.tiles)
        probed = probe_slide(SlideFile(slide.slide_id, slide.case_id, slide.path), default_mpp=None)
        found = read_mask(probed, tmp_path, tiled.mask.shape, corner_px=slide.corner_px())
        assert np.array_equal(found, tiled.mask)


def test_polygons_of_the_tissue_enclose_what_makes_a_tile_one(finished, tmp_path):
    assert run_export("geojson", finished, "--out", tmp_path) == 0
    for path in tmp_path.glob("*.geojson"):
        shapes = {"annotation": [], "tile": []}
        for one in json.loads(path.read_text())["features"]:
            shapes[one["properties"]["objectType"]].append(shape(one["geometry"]))
        assert shapes["tile"]
        for tile in shapes["tile"]:
            covered = sum(tile.intersection(piece).area for piece in shapes["annotation"])
            assert covered / tile.area > 0.5 - 1e-6  # tiles.min_tissue


def test_tiles_carry_what_the_model_sees(explained, tmp_path):
    slide = explained.explained(explained.slides())[0]
    assert run_export("geojson", explained.run.folder, "--case", slide.case_id, "--out", tmp_path) == 0
    features = json.loads((tmp_path / f"{slide.slide_id}.geojson").read_text())["features"]
    tiles = [one for one in features if one["properties"]["objectType"] == "tile"]
    coords = explained.coords(slide)
    assert [shape(one["geometry"]).bounds[:2] for one in tiles] == [tuple(map(float, one)) for one in coords]
    seen = [one["properties"]["measurements"]["attention"] for one in tiles]
    assert np.allclose(seen, np.linspace(0, 1, len(coords)) / len(coords))  # each at its own tile
    assert tiles[0]["properties"]["classification"] == {"name": "prototype 1", "color": [1, 2, 3]}


def test_heatmaps_are_written_of_what_is_explained_and_of_nothing_else(explained, tmp_path, capsys):
    slides = explained.explained(explained.slides())
    assert run_export("heatmap", explained.run.folder, "--out", tmp_path) == 0
    for what in ("attention", "prototype"):
        assert {path.name for path in tmp_path.glob(f"*.{what}.tiff")} == {
            f"{one.slide_id}.{what}.tiff" for one in slides
        }
    with tifffile.TiffFile(tmp_path / f"{slides[0].slide_id}.attention.tiff") as tiff:
        assert json.loads(tiff.pages[0].description) == {"name": "attention"} | SCALE.legend()  # of the whole case
    scan = openslide.OpenSlide(slides[0].path)
    drawn = openslide.OpenSlide(tmp_path / f"{slides[0].slide_id}.attention.tiff")
    for axis, name in enumerate(("openslide.mpp-x", "openslide.mpp-y")):
        pixel = float(drawn.properties[name])
        assert abs(drawn.dimensions[axis] * pixel - scan.dimensions[axis] * float(scan.properties[name])) < pixel
    shutil.rmtree(explained.run.folder / "explain")
    assert run_export("heatmap", explained.run.folder, "--out", tmp_path / "none") == 2
    assert "slides is explained" in capsys.readouterr().err


def test_anndata_opens_cases_and_the_cohort(explained, tmp_path):
    case = explained.explained(explained.slides())[0].case_id
    assert run_export("anndata", explained.run.folder, "--out", tmp_path) == 0
    slides = explained.slides([case])
    tiles = anndata.read_h5ad(tmp_path / f"{case}.h5ad")
    bags = [explained.store.read_features(slide.features) for slide in slides]
    assert np.array_equal(tiles.X, np.concatenate([bag.features for bag in bags]).astype(np.float32))
    assert np.array_equal(tiles.obsm["spatial"], np.concatenate([bag.coords + 128 for bag in bags]))  # centres
    assert set(tiles.obs["slide_id"]) == {slide.slide_id for slide in slides}
    assert {"prototype", "attention"} <= set(tiles.obs)
    cohort = anndata.read_h5ad(tmp_path / "cohort.h5ad")
    predictions = pd.read_csv(explained.run.folder / "predictions.csv")
    risk = predictions[predictions["task"] == "survival"].set_index("case_id")["risk"]
    assert cohort.n_vars == 60
    assert np.allclose(cohort.obs["survival_risk"], risk.reindex(cohort.obs_names))
    assert len(list(tmp_path.glob("*.h5ad"))) == len({slide.case_id for slide in explained.slides()}) + 1


def test_a_file_that_cannot_be_written_leaves_the_one_that_was_there(explained, tmp_path, monkeypatch):
    def torn(table, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    case = explained.slides()[0].case_id
    before = tmp_path / "out" / f"{case}.h5ad"
    before.parent.mkdir()
    before.write_text("as it was")
    monkeypatch.setattr(anndata.AnnData, "write_h5ad", torn)
    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
        run_export("anndata", explained.run.folder, "--case", case, "--out", before.parent)
    assert {path.name for path in before.parent.iterdir()} == {before.name}
    assert before.read_text() == "as it was"


def test_a_folder_that_cannot_be_written_leaves_the_one_that_was_there(explained, tmp_path, monkeypatch):
    def torn(data, path, **options):
        path.mkdir()
        (path / "zarr.json").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    slide = explained.slides()[0]
    before = tmp_path / "out" / f"{slide.slide_id}.zarr"
    before.mkdir(parents=True)
    (before / "zarr.json").write_text("as it was")
    monkeypatch.setattr("spatialdata.SpatialData.write", torn)
    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
        run_export("spatialdata", explained.run.folder, "--case", slide.case_id, "--out", before.parent)
    assert {path.name for path in before.parent.iterdir()} == {before.name}
    assert (before / "zarr.json").read_text() == "as it was"


def test_an_explanation_of_other_tiles_is_refused(explained, tmp_path, capsys):
    slide = explained.explained(explained.slides())[0]
    path = explained.run.folder / "explain" / "grade" / f"{slide.slide_id}.csv"
    pd.read_csv(path)[1:].to_csv(path, index=False)
    assert run_export("heatmap", explained.run.folder, "--case", slide.case_id, "--out", tmp_path) == 3
    assert "is of other tiles than" in capsys.readouterr().out


def test_a_run_is_exported_from_any_folder(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_export("trident", finished, "--out", "here") == 0
    assert len(list((tmp_path / "here").rglob("features_*/*.h5"))) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--case", "nobody"), "--case nobody: no such case with features"),
        (("--task", "diagnosis"), "the run does not explain it; it explains"),
        (("--store", "nowhere"), "there is no feature store"),
    ],
)
def test_wrong_input_is_reported(finished, tmp_path, capsys, options, message):
    assert run_export("clam", finished, "--out", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_case_is_refused_with_each_case_once(finished, tmp_path, capsys):
    """One of the cases has two slides."""
    assert run_export("anndata", finished, "--out", tmp_path / "out", "--case", "P999") == 2
    named = capsys.readouterr().err.partition("there are")[2].replace("\n", " ").split(",")
    assert len(named) > 2
    assert len({name.strip() for name in named}) == len(named)


@pytest.fixture
def genes_only(cohort, walk, tmp_path):
    """The folder of a run without slides, whose store was never made."""
    assert (
        walk("none", cohort.genes, "--until", "join", "--store", tmp_path / "none.zarr", "--out", tmp_path / "run") == 0
    )
    return tmp_path / "run"


def test_a_run_without_slides_exports_its_cases_and_nothing_else(genes_only, tmp_path, capsys):
    for command in (["export", "geojson"], ["export", "clam"], ["view"]):
        assert run_pipeline.main([*command, str(genes_only)]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert "run: this run has no slides; run_pipeline export anndata" in message
        assert "--store" not in message
    assert run_export("anndata", genes_only, "--out", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cohort.h5ad"]
    assert anndata.read_h5ad(tmp_path / "out" / "cohort.h5ad").n_obs == 12
    assert run_export("anndata", genes_only, "--case", "TCGA-Z0-0003") == 2
    assert "this run has no slides" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_reported(tmp_path, capsys):
    assert run_export("clam", tmp_path) == 2
    assert "contains no run" in capsys.readouterr().err


def test_outlines_need_the_slide_or_the_users_word_of_where_it_starts(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    table = pd.read_csv(folder / "slides.csv")
    table.assign(path="/gone/slide.svs").to_csv(folder / "slides.csv", index=False)
    case = table["case_id"].iloc[0]
    assert run_export("geojson", folder, "--case", case) == 3
    assert "use --origin slide" in capsys.readouterr().out
    assert run_export("geojson", folder, "--case", case, "--origin", "slide") == 0


@pytest.mark.parametrize("layout", ["clam", "trident", "spatialdata", "anndata", "heatmap", "geojson"])
def test_a_folder_that_cannot_be_written_is_reported(explained, layout, capsys):
    case = explained.explained(explained.slides())[0].case_id
    command = ["export", layout, str(explained.run.folder), "--case", case, "--out", "/proc/self"]
    assert run_pipeline.main(command) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_of_a_run_that_is_read_only_it_says_where_else_to_write(finished, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert run_pipeline.main(["export", "geojson", str(finished)]) == 1
    assert "(Permission denied); name another folder with --out" in capsys.readouterr().err
    assert run_pipeline.main(["report", str(finished)]) == 1
    assert (
        f"{finished} cannot be written (Permission denied); copy it to where you may write" in capsys.readouterr().err
    )


def test_a_file_in_the_place_of_the_folder_is_reported(finished, tmp_path, capsys):
    (tmp_path / "out").touch()
    assert run_export("clam", finished, "--out", tmp_path / "out") == 2
    assert "out cannot be made (File exists); name another folder" in capsys.readouterr().err
