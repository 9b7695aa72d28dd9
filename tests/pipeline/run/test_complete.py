"""A run is complete where its input and its files are as they were; see also tests/workflows/robustness/test_complete.py."""

import json
from dataclasses import make_dataclass
from types import SimpleNamespace

import pytest

from pipeline.config.loading import load_config
from pipeline.run.complete import NAME, REPORT, Ending, RunInput, earlier_ending, mark_complete

GOOD = Ending(0, {})


def wanted(fingerprint="f", *, features=("k",)):
    """The input of a run on precomputed features, which needs nothing of an encoder."""
    slides = [SimpleNamespace(features=key, slide_id=f"slide {key}") for key in features]
    cohort = SimpleNamespace(slides=slides, precomputed=True)
    return SimpleNamespace(fingerprint=lambda: fingerprint, cohort=cohort, recipe=SimpleNamespace(store="s"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    store = SimpleNamespace(has_features=lambda key: key == "k")
    monkeypatch.setattr("pipeline.run.complete.FeatureStore", lambda place: store)
    (tmp_path / REPORT).write_text("<html>…</html>\n")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "predictions.csv").write_text("case_id\na\n")
    mark_complete(tmp_path, wanted(), GOOD)
    return tmp_path


def test_a_run_is_complete_with_the_same_input_and_the_same_files(folder):
    assert earlier_ending(folder, wanted()) == GOOD
    assert earlier_ending(folder, wanted("g")) is None
    assert earlier_ending(folder, wanted(features=("k", "gone"))) is None
    (folder / "more.csv").touch()
    assert earlier_ending(folder, wanted()) == GOOD
    (folder / "predictions.csv").write_text("case_id\nb\n")
    assert earlier_ending(folder, wanted()) is None


def test_slides_that_failed_need_no_features(folder):
    input_, ending = wanted(features=("k", "gone")), Ending(3, {"slide gone": "no tissue found"})
    mark_complete(folder, input_, ending)
    assert earlier_ending(folder, input_) == ending
    mark_complete(folder, input_, Ending(3, {"slide k": "no tissue found"}))
    assert earlier_ending(folder, input_) is None


@pytest.mark.parametrize("name", [NAME, REPORT, "run.json", "predictions.csv"])
def test_without_one_of_its_files_it_is_not(folder, name):
    (folder / name).unlink()
    assert earlier_ending(folder, wanted()) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [(NAME, "{"), ("run.json", "no JSON"), (REPORT, "<html>"), (NAME, '{"format": 0, "fingerprint": "f"}')],
)
def test_with_one_that_is_damaged_or_of_another_format_it_is_not(folder, name, text):
    (folder / name).write_text(text)
    assert earlier_ending(folder, wanted()) is None


@pytest.mark.parametrize("name", ["identity", "versions", "trained"])
def test_what_was_recorded_of_the_run_is_part_of_its_input(name):
    """Its options and tables, the libraries, and the trained models; not when it started."""
    config = load_config({"slides": "none", "genes": "genes.csv"})
    cohort = make_dataclass("Cohort", ["slides", "precomputed", "label_source"])((), None, "genes.csv")
    recipe = SimpleNamespace(encoder=config.encoder, tiles=config.tiles)
    record = {"identity": "i", "versions": {"torch": "2"}, "trained": {"grade": {"fingerprint": "m"}}, "started": "now"}

    def fingerprint(**changed):
        run = RunInput(config, cohort, recipe, record | changed)
        return run.fingerprint()

    assert fingerprint(**{name: "another"}) != fingerprint() == fingerprint(started="later")


def test_a_run_whose_encoder_cannot_be_identified_is_not_marked(tmp_path):
    mark_complete(tmp_path, wanted(None), GOOD)
    assert not (tmp_path / NAME).exists()
    mark_complete(tmp_path, wanted(), GOOD)
    assert json.loads((tmp_path / NAME).read_text())["fingerprint"] == "f"
