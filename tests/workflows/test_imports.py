"""What a command imports is what it uses: start-up is most of a short run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.run_pipeline import main

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--workers", "0", "--device", "cpu", "--folds", "2", "--epochs", "1", "--explain", "0", "--set", "bootstrap=5")
CODE = """
import sys
from workflows.run_pipeline import main
code = main(sys.argv[1:])
print("CODE", code, "LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""
MODELS_AND_WORKERS = {"torch", "timm", "torchvision", "tiatoolbox", "lifelines", "distributed", "bokeh"}


def loaded(*command):
    arguments = [sys.executable, "-c", CODE, *map(str, command)]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    before, _, modules = result.stdout.rpartition("LOADED")
    assert before.endswith("CODE 0 "), result.stderr
    return set(modules.split())


def test_a_dry_run_imports_no_encoder_and_no_workers(cohort, tmp_path):
    command = (
        cohort.slides,
        cohort.genes,
        "--task",
        "grade",
        "--store",
        tmp_path / "f.zarr",
        "--out",
        tmp_path / "run",
    )
    modules = loaded(*command, "--dry-run")
    assert not modules & {*MODELS_AND_WORKERS, "plotly"}


def test_a_dry_run_on_genes_imports_no_encoder(cohort, tmp_path):
    command = ("none", cohort.genes, "--model", "snn", "--task", "grade", "--out", tmp_path / "run")
    assert not loaded(*command, "--dry-run") & {*MODELS_AND_WORKERS, "plotly"}


def test_a_run_that_finds_all_its_folds_finished_starts_no_workers_and_imports_no_encoder(cohort, tmp_path):
    """Two runs, of which the second is the test: a worker or an encoder costs more than all that it does."""
    command = (
        "none",
        cohort.genes,
        "--task",
        "grade",
        "--model",
        "snn",
        "--baselines",
        "none",
        "--out",
        tmp_path / "run",
    )
    assert main([str(part) for part in (*command, *QUICK, "--store", cohort.store, "--set", "train.members=1")]) == 0
    predictions = (tmp_path / "run" / "predictions.csv").read_bytes()
    again = (*command, *QUICK, "--store", cohort.store, "--set", "train.members=1", "--workers", "2")
    assert not loaded(*again) & MODELS_AND_WORKERS
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == predictions


def test_a_run_with_slides_that_has_nothing_to_do_imports_no_model_no_encoder_and_no_charts(finished, cohort, quick):
    command = (cohort.slides, cohort.genes, "--store", cohort.store, *quick, "--gene-sets", cohort.sets)
    assert not loaded(*command, "--explain", "1", "--out", finished) & {*MODELS_AND_WORKERS, "plotly", "sklearn"}


def test_slides_are_embedded_by_workers_alone_and_the_main_process_imports_no_torch(cohort, tmp_path):
    """A worker describes the encoder, which it loads anyway: torch and timm take three seconds to import."""
    command = (cohort.slides, cohort.genes, "--until", "embed", "--workers", "1", "--device", "cpu")
    modules = loaded(*command, "--store", tmp_path / "f.zarr", "--out", tmp_path / "run")
    assert not modules & {"torch", "timm", "torchvision"}
    assert (tmp_path / "run" / "slides.csv").read_text().count("done") >= 1


def test_a_run_that_was_not_complete_builds_no_encoder_where_all_features_are_there(finished, cohort, quick, tmp_path):
    """As after a failed slide: what the encoder is, is known from the last call."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "complete.json").unlink()
    command = (cohort.slides, cohort.genes, "--store", cohort.store, *quick, "--gene-sets", cohort.sets)
    assert "timm" not in loaded(*command, "--explain", "1", "--out", out)
    assert (out / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import preprocessing.slides.probing", "pandas torch scipy"),
        (
            "from pathlib import Path; from pipeline.model_folders.model_folder import load_model; load_model(Path(sys.argv[1]))",
            "torch._dynamo timm lifelines",
        ),
    ],
    ids=["opening a slide", "loading a model"],
)
def test_a_process_imports_nothing_for_what_it_does_not_do(finished, code, without):
    (model,) = (finished / "models").glob("grade")
    found = f"import sys; {code}; print(*(name for name in {without!r}.split() if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", found, model], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_report_is_drawn_without_slides_store_or_workers(finished):
    modules = loaded("report", finished)
    assert not modules & {*MODELS_AND_WORKERS, "sklearn", "openslide", "zarr"}
    assert "plotly" in modules


OPTIONAL = (
    "tiatoolbox",
    "skimage",
    "cv2",
    "imagecodecs",
    "anndata",
    "h5py",
    "shapely",
    "s3fs",
    "bokeh",
    "dask_jobqueue",
)
WITHOUT = f"""
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import importlib.metadata
version = importlib.metadata.version
def missing(name):
    if name == "tiatoolbox":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = missing
"""


def without_extras(cohort, out, *options):
    command = (cohort.slides, cohort.genes, *QUICK, "--task", "grade", "--store", out / "store", "--out", out / "run")
    code = WITHOUT + "from workflows.run_pipeline import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, *map(str, (*command, *options))]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_whole_run_needs_no_extra(cohort, tmp_path):
    result = without_extras(cohort, tmp_path, "--baselines", "none", "--set", "train.members=1")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "tiles.stain.method=macenko"), "stain normalisation needs tiatoolbox, which is not installed"),
        (("--set", "tiles.tissue.detector=tiatoolbox"), "the tissue detector tiatoolbox needs tiatoolbox"),
        (("--store", "s3://bucket/store"), "pip install 'umeml-pipeline[s3]'"),
    ],
)
def test_what_needs_an_extra_names_it(cohort, tmp_path, options, message):
    result = without_extras(cohort, tmp_path, *options)
    said = " ".join(result.stderr.split())
    assert (result.returncode, "Traceback" in said) == (2, False), said
    assert message in said
    assert "pip install 'umeml-pipeline[" in said
