"""The notebooks of the documentation run from their first to their last cell."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def demo(finished, cohort, tmp_path):
    """A folder in which `demo/` is as `make demo` leaves it, but smaller."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "run").symlink_to(finished)
    (folder / "slides").symlink_to(cohort.slides)
    (folder / "genes.csv").symlink_to(cohort.genes)
    return tmp_path


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["explore-a-run", "train-a-head"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, demo, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(demo)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(output.get("data", {}).get("text/html") for cell in code for output in cell.outputs)
