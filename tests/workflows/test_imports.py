"""What a command imports is what it uses: start-up is most of a short run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys
from workflows.run_pipeline import main
code = main(sys.argv[1:])
print("CODE", code, "LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""
MODELS_AND_WORKERS = {"timm", "torchvision", "tiatoolbox", "lifelines", "distributed", "bokeh"}


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
    assert "torch" in modules  # the settings of models stand beside their code


def test_a_dry_run_on_genes_imports_no_encoder(cohort, tmp_path):
    command = ("none", cohort.genes, "--model", "snn", "--task", "grade", "--out", tmp_path / "run")
    assert not loaded(*command, "--dry-run") & {*MODELS_AND_WORKERS, "plotly"}


def test_a_report_is_drawn_without_slides_store_or_workers(finished):
    modules = loaded("report", finished)
    charts = {"lifelines"}  # for Kaplan-Meier curves
    assert not modules & ({*MODELS_AND_WORKERS, "openslide", "zarr"} - charts)
    assert "plotly" in modules
