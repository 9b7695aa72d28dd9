import shutil

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline.run.finished_slides import open_slides
from preprocessing.features.store import FeatureStore
from workflows.commands import export, import_features

DECLARED = ("--mpp", "0.5", "--tile-px", "256", "--slide-mpp", "0.5")


@pytest.fixture(scope="module")
def clam(finished, tmp_path_factory):
    """The finished run's features in CLAM's own files, which say nothing of themselves."""
    out = tmp_path_factory.mktemp("clam")
    assert export.main(["clam", str(finished), "--out", str(out)]) == 0
    for path in out.rglob("*.h5"):
        with h5py.File(path, "a") as file:
            for attributes in (file.attrs, file["coords"].attrs):
                for name in list(attributes):
                    del attributes[name]
    return out


@pytest.fixture
def bring(tmp_path):
    """Imports into a new store; the exit code."""

    def bring(folder, *options, layout="clam"):
        places = ("--store", tmp_path / "new.zarr", "--out", tmp_path / "imported.csv")
        return import_features.main([str(part) for part in (folder, "--format", layout, *places, *options)])

    return bring


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (("--encoder", "lite"), "--tile-px"),
        (("--encoder", "lite", "--tile-px", "256"), "--mpp"),
        (DECLARED, "--encoder"),
        ((*DECLARED, "--encoder", "lite", "--mpp", "-1"), "lies outside"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_remedy_and_nothing_is_written(
    clam, bring, tmp_path, capsys, options, remedy
):
    assert bring(clam, *options) == 2
    assert remedy in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["clam", "trident", "stamp"])
def test_exported_features_come_back_bit_for_bit(finished, bring, tmp_path, layout):
    out = tmp_path / "out"
    assert export.main([layout, str(finished), "--out", str(out)]) == 0
    assert bring(out, layout=layout) == 0
    run, store = open_slides(finished, store=None, task=None), FeatureStore(tmp_path / "new.zarr")
    imported = pd.read_csv(tmp_path / "imported.csv").set_index("slide_id")["features"]
    assert len(imported) == len(run.slides())
    for slide in run.slides():
        there, here = run.store.read_features(slide.features), store.read_features(imported[slide.slide_id])
        assert here.features.dtype == there.features.dtype
        assert np.array_equal(here.features, there.features)
        assert np.array_equal(here.coords, there.coords)
        assert np.array_equal(here.cells, there.cells)


def test_a_foreign_file_of_true_float32_comes_back_bit_for_bit(bring, walk, cohort, tmp_path, capsys):
    rng, folder = np.random.default_rng(0), tmp_path / "h5_files"
    folder.mkdir()
    for case in cohort.table()["case_id"]:
        with h5py.File(folder / f"{case}.h5", "w") as file:
            file["features"] = rng.standard_normal((6, 8)).astype(np.float32)
            file["coords"] = np.array([(x * 256, y * 256) for y in range(2) for x in range(3)], np.int64)
    assert bring(folder, *DECLARED, "--encoder", "my own") == 0
    command = f"run_pipeline {tmp_path / 'imported.csv'} GENES --store {tmp_path / 'new.zarr'}"  # not the default one
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" as SLIDES: {command}")
    run = tmp_path / "run"
    options = ("--store", tmp_path / "new.zarr", "--until", "embed", "--out", run)
    assert walk(tmp_path / "imported.csv", cohort.genes, *options) == 0
    assert export.main(["clam", str(run)]) == 0
    for path in folder.glob("*.h5"):
        with h5py.File(path) as before, h5py.File(run / "export" / "clam" / "h5_files" / path.name) as after:
            for name in ("features", "coords"):
                assert before[name].dtype == after[name].dtype
                assert before[name][...].tobytes() == after[name][...].tobytes()


def test_a_run_on_imported_features_predicts_what_the_run_on_slides_did(finished, clam, cohort, bring, walk, tmp_path):
    assert bring(clam, *DECLARED, "--encoder", "lite") == 0
    out = tmp_path / "run"
    options = ("--gene-sets", cohort.sets, "--store", tmp_path / "new.zarr", "--baselines", "none", "--task", "grade")
    assert walk(tmp_path / "imported.csv", cohort.genes, *options, "--out", out) == 0
    predictions, before = (
        pd.read_csv(folder / "predictions.csv", dtype={"label": str, "prediction": str}).set_index("case_id")
        for folder in (out, finished)
    )
    pd.testing.assert_frame_equal(
        predictions, before.loc[before["task"] == "grade", list(predictions)], check_exact=True
    )
    ledger = pd.read_csv(out / "slides.csv")
    assert set(ledger["status"]) == {"reused"}
    assert ledger["n_tiles"].tolist() == pd.read_csv(finished / "slides.csv")["n_tiles"].tolist()
    record = pd.read_json(out / "run.json", typ="series")
    assert (record["encoder"]["name"], record["encoder"]["imported_from"]) == ("lite", "clam")


def test_the_ledger_of_a_run_stands_for_slides_that_are_gone(finished, cohort, walk, tmp_path, capsys):
    pd.read_csv(finished / "slides.csv").assign(path="gone.svs").to_csv(tmp_path / "slides.csv", index=False)
    out = tmp_path / "run"
    assert walk(tmp_path / "slides.csv", cohort.genes, "--until", "embed", "--out", out) == 0
    ledger, before = pd.read_csv(out / "slides.csv"), pd.read_csv(finished / "slides.csv")
    assert ledger["features"].tolist() == before["features"].tolist()
    assert "nothing is tiled or embedded" in capsys.readouterr().err


def test_features_that_are_not_in_the_store_are_reported_before_anything_is_done(
    finished, cohort, walk, tmp_path, capsys
):
    options = ("--store", tmp_path / "other.zarr", "--out", tmp_path / "run")
    assert walk(finished / "slides.csv", cohort.genes, *options) == 2
    assert "are not there, or not whole; name the right --store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_reported_and_the_others_are_imported(clam, bring, tmp_path, capsys):
    folder = tmp_path / "in"
    shutil.copytree(clam, folder)
    broken, infinite, *others = sorted(folder.rglob("*.h5"))
    broken.write_bytes(broken.read_bytes()[:-2000])
    with h5py.File(infinite, "a") as file:
        file["features"][0, 0] = np.inf
    assert bring(folder, *DECLARED, "--encoder", "lite") == 3
    printed = capsys.readouterr().out
    assert f"warning: {broken}" in printed
    assert f"warning: {infinite}" in printed
    assert len(pd.read_csv(tmp_path / "imported.csv")) == len(others)


def test_tensors_without_coordinates_are_refused(bring, tmp_path, capsys):
    (tmp_path / "pt_files").mkdir()
    (tmp_path / "pt_files" / "S.pt").write_bytes(b"x")
    assert bring(tmp_path / "pt_files", *DECLARED, "--encoder", "lite") == 2
    assert "give CLAM's folder h5_files" in capsys.readouterr().err


def test_features_of_two_encoders_are_not_trained_on_together(cohort, clam, bring, walk, tmp_path, capsys):
    manifests = []
    for encoder in ("lite", "other"):
        assert bring(clam, *DECLARED, "--encoder", encoder) == 0
        manifests.append(pd.read_csv(tmp_path / "imported.csv"))
    pd.concat([manifests[0][:4], manifests[1][4:]]).to_csv(tmp_path / "mixed.csv", index=False)
    options = ("--store", tmp_path / "new.zarr", "--out", tmp_path / "run")
    assert walk(tmp_path / "mixed.csv", cohort.genes, *options) == 2
    assert "their features were not made alike" in capsys.readouterr().err


def test_nothing_but_a_manifest_of_an_import_is_overwritten(clam, tmp_path, capsys):
    table = tmp_path / "genes.csv"
    table.write_text("case_id,EGFR\na,1\n")
    places = ("--store", tmp_path / "new.zarr", "--encoder", "lite")
    for out, reason in ((table, "is no manifest of an import"), (tmp_path / "no" / "m.csv", "there is no folder")):
        options = [str(part) for part in (clam, "--format", "clam", *DECLARED, *places, "--out", out)]
        assert import_features.main(options) == 2
        assert reason in capsys.readouterr().err
    assert table.read_text() == "case_id,EGFR\na,1\n"
    assert list(tmp_path.iterdir()) == [table]


def test_features_of_another_length_than_the_encoders_are_refused(bring, clam, capfd):
    assert bring(clam, *DECLARED, "--encoder", "MahmoodLab/UNI") == 2
    assert "but uni has 1024; they are of another encoder" in " ".join(capfd.readouterr().err.split())


def test_coordinates_without_features_are_passed_over(tmp_path):
    """CLAM and TRIDENT keep them beside the features, under the same names."""
    for name in ("h5_files/a.h5", "patches/a.h5", "h5_files/.b.h5", "h5_files/c.hdf5", "patches/d.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert import_features._files(tmp_path) == [tmp_path / "h5_files/a.h5", tmp_path / "h5_files/c.hdf5"]


def test_features_that_are_imported_again_with_another_geometry_are_others(clam, bring, tmp_path):
    keys = []
    for geometry in (DECLARED, ("--mpp", "1", "--tile-px", "128", "--slide-mpp", "0.5")):
        assert bring(clam, *geometry, "--encoder", "lite") == 0
        keys += pd.read_csv(tmp_path / "imported.csv")["features"].tolist()
    assert len(set(keys)) == len(keys)
