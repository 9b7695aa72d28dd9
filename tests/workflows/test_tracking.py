"""Runs are logged with TensorBoard and MLflow: as stand-ins, which take what these packages take."""

import json
import re
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

from pipeline.run.complete import Ending
from pipeline.run.finished import read_run
from preprocessing.io.errors import InputError
from workflows import run_pipeline, tracking


@pytest.fixture(autouse=True)
def untracked(finished):
    yield
    (finished / tracking.TRACKED).unlink(missing_ok=True)


@pytest.fixture
def run(finished):
    return read_run(finished)


def tracked(folder):
    path = folder / tracking.TRACKED
    return json.loads(path.read_text()) if path.exists() else {}


def allowed(name):
    """A name as MLflow takes it."""
    assert re.fullmatch(r"[/\w.\- ]*", name)
    return name


def test_metrics_and_losses_are_those_of_the_run(run, finished):
    metrics = json.loads((finished / "metrics.json").read_text())["tasks"]
    found = tracking.metrics_of(run)
    assert found["grade/accuracy"] == metrics["grade"]["model"]["pooled"]["accuracy"]["value"]
    assert all(isinstance(value, float) for value in found.values())
    losses = {(name, epoch): value for name, epoch, value in tracking.losses_of(run)}
    history = run.history("grade", "umeml")
    rows = history[(history["fold"] == "0") & (history["epoch"] == 2)]
    assert losses["grade/fold 0/train", 2] == pytest.approx(rows["train"].mean())
    assert ("grade/final model/train", 1) in losses
    assert not any(name.endswith("validation") for name, _ in losses)  # the run has no validation cases


def test_tensorboard_is_given_everything(run, finished, monkeypatch):
    scalars, texts = {}, {}

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def __enter__(self):
            return self

        def __exit__(self, *_):
            texts["closed"] = self.folder

        def add_scalar(self, name, value, step):
            scalars[name, step] = value

        def add_text(self, name, text):
            texts[name] = text

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    tracking.track("tensorboard", finished, again=True)
    assert tracked(finished) == {"tensorboard": f"tensorboard --logdir {finished / 'tensorboard'}"}
    assert texts["closed"] == finished / "tensorboard"
    assert "models:" in texts["configuration"]
    assert scalars["grade/accuracy", 0] == tracking.metrics_of(run)["grade/accuracy"]
    assert ("survival/fold 1/train", 2) in scalars


def test_mlflow_is_given_everything(run, finished, monkeypatch):
    logged = {}
    entry = SimpleNamespace(info=SimpleNamespace(run_id="7"))

    class Started:
        def __init__(self, run_id, run_name):
            logged["name"], logged["earlier"] = run_name, run_id

        def __enter__(self):
            return entry

        def __exit__(self, *_):
            logged["ended"] = True

    mlflow = ModuleType("mlflow")
    mlflow.__dict__.update(
        set_experiment=lambda name: logged.update(experiment=name),
        start_run=Started,
        log_params=lambda values: logged.update(params=values),
        set_tags=lambda values: logged.update(tags=values),
        log_metric=lambda name, value, step: logged.update({f"{allowed(name)} {step}": value}),
        log_metrics=lambda values: logged.update(metrics={allowed(name): value for name, value in values.items()}),
        log_artifact=lambda path: logged.update(artifact=path),
        get_tracking_uri=lambda: "here",
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    tracking.track("mlflow", finished, again=True)
    assert tracked(finished)["mlflow"] == "MLflow run 7 at here"
    assert logged["earlier"] is None
    assert (logged["name"], logged["experiment"], logged["ended"]) == (finished.name, "umeml-pipeline", True)
    assert json.loads(logged["params"]["model"]) == ["umeml"]
    assert logged["metrics"] == tracking.metrics_of(run)
    assert logged["tags"] == {"run_folder": str(finished), "identity": run.record["identity"]}
    assert logged["artifact"] == str(finished / "report.html")
    assert "grade/fold 0/train 1" in logged
    logged.clear()
    tracking.track("mlflow", finished, again=False)
    assert logged == {}  # MLflow has it already
    tracking.track("mlflow", finished, again=True)
    assert logged["earlier"] == "7"  # in the place of the first
    monkeypatch.setattr(tracking, "metrics_of", lambda run: {"1p+19q/accuracy": 0.5})
    tracking.track("mlflow", finished, again=True)
    assert logged["metrics"] == {"1p_19q/accuracy": 0.5}


def test_a_finished_run_is_tracked_by_the_same_command_with_track(finished, monkeypatch):
    calls = []
    monkeypatch.setattr(tracking, "_to_tensorboard", lambda run, earlier: calls.append(run.folder) or "there")
    for _ in range(2):
        assert run_pipeline.show_finished(finished, Ending(0, {}), tracker="tensorboard") == run_pipeline.ALL_GOOD
    assert calls == [finished]
    assert run_pipeline.show_finished(finished, Ending(0, {}), tracker="none") == run_pipeline.ALL_GOOD


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tool_that_is_not_installed_is_named_before_anything_runs(cohort, walk, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"--track {name} needs {name}, which is not installed: pip install {name}"):
        tracking.require_tracker(name)
    assert walk(cohort.slides, cohort.genes, "--track", name, "--out", tmp_path / "run") == run_pipeline.WRONG_INPUT
    assert "which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tool_that_fails_is_a_warning_and_the_results_are_there(finished, monkeypatch, caplog):
    def refuses(_):
        raise ConnectionError("no answer from the server")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=refuses))
    tracking.track("tensorboard", finished, again=True)
    assert "--track tensorboard: no answer from the server; the results are in" in caplog.text
    assert tracked(finished) == {}


def test_an_error_of_the_program_itself_is_not_taken_for_one_of_the_tool(finished, monkeypatch):
    monkeypatch.setattr(tracking, "metrics_of", lambda run: run.no_such_attribute)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=MagicMock()))
    with pytest.raises(AttributeError, match="no_such_attribute"):
        tracking.track("tensorboard", finished, again=True)


def test_nothing_is_tracked_by_default(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    tracking.require_tracker("none")


def test_results_that_are_new_are_tracked_anew_and_those_that_were_there_are_not(cohort, walk, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(tracking, "require_tracker", lambda name: None)
    monkeypatch.setattr(tracking, "track", lambda name, folder, *, again: calls.append((name, folder.name, again)))
    for _ in range(2):
        assert walk(cohort.slides, "none", "--until", "tile", "--track", "mlflow", "--out", tmp_path / "run") == 0
    assert calls == [("mlflow", "run", True), ("mlflow", "run", False)]
