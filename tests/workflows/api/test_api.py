"""The pipeline from Python, as a script or a notebook uses it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import workflows.api as api
from pipeline.config.loading import load_config
from pipeline.metrics import TaskReport
from preprocessing.io.errors import InputError
from preprocessing.slides.slide import Slide
from workflows.api import datasets, stores
from workflows.api.cohorts import InputCohort

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def opened(cohort):
    return api.open_cohort(cohort.slides, cohort.genes, store=str(cohort.store), workers=0)


@pytest.fixture(scope="module")
def store(finished, cohort):
    return api.open_store(cohort.store)


def test_every_documented_name_is_there():
    assert all(getattr(api, name) for name in api.__all__)
    assert dir(api) == api.__all__
    with pytest.raises(AttributeError, match="no attribute open_slide"):
        api.open_slide  # noqa: B018  # the look-up alone is what must fail


def test_importing_the_api_imports_nothing_heavy():
    code = "import sys, workflows.api; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "pandas", "zarr", "dask"} & set(eval(loaded))


def test_a_cohort_has_cases_slides_genes_and_labels(opened, cohort):
    table = cohort.table()
    assert len(opened) == 12
    assert list(opened.cases.index) == sorted(table["case_id"])
    assert opened.cases["slides"].sum() == len(opened.slides) == 13
    assert opened.genes.loc[table["case_id"][0], "EGFR"] == pytest.approx(table["EGFR"][0])
    assert set(opened.cases["grade"].astype(str)) == {"2", "3", "4"}
    assert "12 usable cases of 12" in opened._repr_html_()


def test_slides_of_a_cohort_have_their_size_and_resolution():
    slide = Slide("S", "C", Path("S.svs"), (0.25, 0.25), "metadata", (4000, 3000), "f" * 32)
    table = InputCohort({}, load_config({"slides": "slides", "genes": "none"}), SimpleNamespace(slides=[slide])).slides
    row = {"case_id": "C", "path": "S.svs", "mpp": 0.25, "width_px": 4000, "height_px": 3000}
    assert table.to_dict("index") == {"S": row}


def test_wrong_input_is_an_error_with_its_remedy(cohort):
    with pytest.raises(InputError, match="cannot be read"):
        api.open_cohort(None, cohort.folder / "nowhere.csv")


def test_data_frames_and_folders_in_place_of_paths_and_cohorts_are_refused(cohort, finished):
    with pytest.raises(InputError, match=r"genes: give the path of a file or folder, not DataFrame"):
        api.open_cohort(None, cohort.table())
    with pytest.raises(InputError, match=r"slides: give the path of a file or folder, not int"):
        api.run([cohort.slides, 3], cohort.genes, out="run")
    with pytest.raises(InputError, match=r"predict reads a cohort from open_cohort\(slides, genes\), not PosixPath"):
        api.open_run(finished).model("grade").predict(cohort.slides)


def test_several_slides_are_a_cohort(cohort):
    slides = sorted(cohort.slides.glob("*.svs"))[:2]
    assert sorted(Path(path) for path in api.open_cohort(slides, None, workers=0).slides["path"]) == slides


def test_a_task_that_the_run_does_not_have_is_named(finished):
    with pytest.raises(InputError, match=r"has no predictions of a task mgmt; it has (survival|grade|subtype), "):
        api.open_run(finished).predicted("mgmt")


def test_a_run_is_shown_in_one_line(finished):
    assert repr(api.open_run(finished)) == f"RunResults(folder={finished!r})"


def test_the_home_folder_is_known_by_its_sign(finished, monkeypatch):
    monkeypatch.setenv("HOME", str(finished.parent))
    assert api.open_run(f"~/{finished.name}").folder == finished
    assert api.open_model(f"~/{finished.name}/models/grade").task == "grade"


def test_the_features_of_a_slide_as_array_xarray_and_tensor(store, finished):
    slide = store.slides["slide_id"][0]
    found = store.features(slide)
    opened = store.xarray(slide)
    np.testing.assert_array_equal(opened["features"], found.features)
    assert opened["features"].sizes == {"tile": len(found.coords), "feature": 1280}
    assert len(store.slides) == 13
    labels = dict.fromkeys(store.slides["case_id"].unique(), 1)
    dataset = store.dataset(labels, max_tiles=2)
    items = [dataset[i] for i in range(len(dataset))]
    assert len(items) == 12
    assert all(
        1 <= len(x) <= 2 and x.shape[1] == 1280 and x.dtype == torch.float32 and label == 1 for x, label in items
    )
    whole = store.dataset({store.slides["case_id"][0]: 0})[0][0].numpy()
    assert np.array_equal(whole[: len(found.features)], found.features.astype(np.float32))
    assert torch.equal(dataset[0][0], store.dataset(labels, max_tiles=2)[0][0])


def test_the_sample_of_a_cases_tiles_is_the_same_in_every_process(store, cohort):
    case = store.slides["case_id"][0]
    code = (
        "import workflows.api as api\n"
        f"print(api.open_store({str(cohort.store)!r}).dataset({{{case!r}: 1}}, max_tiles=2)[0][0].sum(1).tolist())"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert eval(there) == pytest.approx(store.dataset({case: 1}, max_tiles=2)[0][0].sum(1).tolist())


def test_features_that_are_not_there_are_named(store):
    with pytest.raises(InputError, match="there are no features of encoder uni of slide"):
        store.features(store.slides["slide_id"][0], encoder="uni")
    with pytest.raises(InputError, match="there are no features of 1 case that labels names"):
        store.dataset({"nobody": 1})


def test_a_run_has_tables_and_typed_metrics(finished):
    found = api.open_run(finished)
    predictions = pd.read_csv(finished / "predictions.csv")
    assert len(found.predictions) == len(predictions)
    assert all(isinstance(report, TaskReport) for report in found.metrics.values())
    summary = found.summary()
    first = summary[summary["task"] == "grade"].iloc[0]
    assert first["value"] == found.metrics["grade"].model.pooled.scalar("macro_auc").value
    assert first["predictor"] == "umeml"
    assert found.report.is_file()
    assert len(found.store().slides) == 13
    assert "macro_auc" in found._repr_html_()


def test_a_trained_model_predicts_a_cohort(finished, opened, tmp_path):
    model = api.open_run(finished).model("grade")
    assert model.task == "grade"
    assert "EGFR" in model.genes
    assert model.encoder.startswith("efficientnet-lite0")
    found = model.predict(opened, device="cpu")
    probabilities = found[[name for name in found if str(name).startswith("probability_")]]
    assert sorted(found["case_id"]) == sorted(opened.cases.index)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert "Model of grade" in model._repr_html_()


def test_a_folder_with_models_of_several_tasks_needs_one_of_its_folders(finished):
    with pytest.raises(InputError, match="contains the models of"):
        api.open_model(finished / "models")


@pytest.mark.slow  # worker processes import torch
def test_a_script_without_a_guard_runs_with_worker_processes(cohort, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from workflows.api import open_cohort, run\n"
        "print('once')\n"
        f"slides, genes = {str(next(cohort.slides.iterdir()))!r}, {str(cohort.genes)!r}\n"
        f"print(len(open_cohort(slides, genes)), 'case')\n"
        f"found = run(slides, genes, out={str(tmp_path / 'run')!r}, store={str(tmp_path / 'f.zarr')!r}, workers=2, until='tile')\n"
        "print(found.slides['status'].tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("results")] == [
        "once",
        "1 case",
        "['done']",
    ]


def test_the_example_of_the_docs_runs(finished, cohort, store, tmp_path):
    page = (ROOT / "docs" / "how-to" / "python.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].partition("results = run(")[0]
    paths = {"demo/run": finished, "demo/features.zarr": cohort.store, "new_slides": cohort.slides}
    paths |= {
        "runs/second": tmp_path / "second",
        "new_genes.csv": cohort.genes,
        "clinical.tsv": tmp_path / "clinical.tsv",
    }
    cohort.table()[["case_id", "grade"]].to_csv(tmp_path / "clinical.tsv", sep="\t", index=False)
    for written, path in paths.items():
        assert f'"{written}"' in example
        example = example.replace(f'"{written}"', repr(str(path)))
    cases = list(cohort.table()["case_id"])
    names = {"slide_id": store.slides["slide_id"][0], "case_id": cases[0], "other_case_id": cases[1]}
    exec(example, names)
    predicted = names["results"].model("grade").predict(names["cohort"])
    assert set(predicted["case_id"]) == set(cases)


def test_a_run_from_python_has_the_limits_of_the_configuration(monkeypatch, tmp_path):
    given = {}

    def start(*args, **options):
        given.update(options, args=args)
        raise InputError("enough")

    monkeypatch.setattr("workflows.api.runs.Workers", start)
    settings = {"workers": 3, "device": "cpu", "slide_minutes": 2.5, "slurm.jobs": 7}
    with pytest.raises(InputError, match="enough"):
        api.run("slides", "genes.csv", out=tmp_path / "run", **settings)
    assert given == {"args": (3, "cpu", None), "slurm": None, "slide_seconds": 150}
    with pytest.raises(InputError, match="enough"):
        api.run("slides", "genes.csv", out=tmp_path / "run", cluster="slurm", **settings)
    assert given["slurm"].jobs == 7


def test_a_dataset_of_one_encoder_is_made_where_slides_have_features_of_two(monkeypatch):
    rows = [("s", "C", name, 8, 256, 0.5, 0.5, f"s-{name}") for name in ("mine", "uni")]
    both = stores.Store(SimpleNamespace(place="store"))
    monkeypatch.setattr(stores.Store, "slides", pd.DataFrame(rows, columns=stores.COLUMNS))
    monkeypatch.setattr(datasets, "SlideDataset", lambda files, slides, labels, *, max_tiles: (slides, labels))
    assert both.dataset({"C": 1, "D": 0}, encoder="uni") == ({"C": ["s-uni"]}, {"C": 1})
    with pytest.raises(InputError, match="has features of 2 recipes"):
        both.dataset({"C": 1})
