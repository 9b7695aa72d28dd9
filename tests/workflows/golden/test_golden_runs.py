"""Whole small runs: all that they print and write, as it should be.

A folder holds the texts of a run (see `texts`). After a change that is meant, `python -m tests.workflows.golden.test_golden_runs`
writes them anew; then read every line of the difference: it is what a user will see.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflows.golden import runs
from tests.workflows.golden.texts import difference, folder_texts, masked

FOLDER = Path(__file__).parent
WHOLE_COHORT = ("clam", "trident", "stamp")  # formats that are of all cases
FORMATS = ("geojson", "heatmap", "anndata", *WHOLE_COHORT)


def texts_of(folder: Path, ended: runs.Ended, result: Path | None) -> dict[str, str]:
    """The texts of a command and of the folder that it wrote, without what differs between two runs."""
    found = {"console.txt": f"{ended.console}exit code {ended.code}"} | (folder_texts(result) if result else {})
    return {name: masked(text, {str(folder): "FOLDER"}).strip("\n") for name, text in found.items()}


def slides(folder: Path) -> dict[str, dict[str, str]]:
    runs.write_slides(folder)
    found = {"slides": texts_of(folder, runs.train_on_slides(folder), folder / "run")}
    found["new_slides"] = texts_of(folder, runs.predict_slides(folder), folder / "new")
    for name in FORMATS:
        out = folder / "exported" / name
        case = () if name in WHOLE_COHORT else ("--case", "TCGA-Z0-0003")
        ended = runs.command("export", name, folder / "run", "--out", out, "--task", "grade", *case)
        found[f"exported/{name}"] = texts_of(folder, ended, out)
    for name, arguments in (("ls", []), ("check", ["--deep"]), ("prune", ["--dry-run"])):
        ended = runs.command("store", name, folder / "store", *arguments)
        found[f"store/{name}"] = texts_of(folder, ended, None)
    return found


def labels(folder: Path) -> dict[str, dict[str, str]]:
    runs.write_tasks(folder)
    found = {"labels": texts_of(folder, runs.train_on_labels(folder), folder / "run")}
    return found | {"new_labels": texts_of(folder, runs.predict_labels(folder), folder / "new")}


WHOLE: tuple[Callable[[Path], dict[str, dict[str, str]]], ...] = (slides, labels)


@pytest.fixture(scope="module", params=WHOLE, ids=lambda whole: whole.__name__)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


def test_runs_print_and_write_what_their_texts_say(found):
    for run, texts in found.items():
        expected = {
            path.relative_to(FOLDER / run).as_posix(): path.read_text(encoding="utf-8")
            for path in (FOLDER / run).rglob("*")
            if path.is_file()
        }
        assert texts.keys() == expected.keys()
        differ = {name: difference(text, expected[name]) for name, text in texts.items()}
        assert {name: lines for name, lines in differ.items() if lines} == {}, run


def write_anew() -> None:
    for whole in WHOLE:
        with tempfile.TemporaryDirectory() as name:
            for run, texts in whole(Path(name)).items():
                shutil.rmtree(FOLDER / run, ignore_errors=True)
                for path, text in texts.items():
                    (FOLDER / run / path).parent.mkdir(parents=True, exist_ok=True)
                    (FOLDER / run / path).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write_anew())
