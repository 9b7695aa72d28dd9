"""What a run with trained models hands to the preparation of its cohort."""

from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest

import pipeline.inference.composition
import pipeline.inference.new_cohort
import pipeline.inference.prediction
from pipeline.config.loading import load_config
from pipeline.metrics.report import CaseMetrics, PredictorReport, TaskReport
from workflows import inference


class StoppedError(Exception):
    """Nothing behind the preparation is run."""


@contextmanager
def stage(name):
    yield {}


def test_the_limits_of_the_configuration_are_those_of_the_preparation(monkeypatch):
    given = {}

    def prepare_cohort(*args, **options):
        given.update(options, args=args)
        raise StoppedError

    monkeypatch.setattr(pipeline.inference.prediction, "prepare_cohort", prepare_cohort)
    flags = {"slides": "slides", "genes": "genes.csv", "store": "the store", "max_missing_genes": 0.125}
    config = load_config(flags, sets=["train.max_patches=55"])
    run, workers = SimpleNamespace(stage=stage, record={}), SimpleNamespace(device="cpu")
    context = SimpleNamespace(config=config, cohort="cohort", run=run, workers=workers)
    with pytest.raises(StoppedError):
        inference.predict(context, ["predictor"], {"s1": "key"}, None)
    assert given == {
        "args": (["predictor"], "cohort", {"s1": "key"}),
        "store": "the store",
        "max_missing": 0.125,
        "max_patches": 55,
    }


@pytest.mark.parametrize("rescale", ["matched", "cohort"])
def test_metrics_by_labels_that_set_the_scale_of_the_genes_have_a_caveat(monkeypatch, tmp_path, caplog, rescale):
    """Of two tasks the one whose labels the cohort was matched by, in the log and in metrics.json."""
    written = {}
    metrics = PredictorReport(pooled=CaseMetrics(n=30), folds=())
    report = TaskReport(
        kind="classes", n=30, headline="macro_auc", chance=0.5, model_name="linear", new_cohort=True, model=metrics
    )
    monkeypatch.setattr(pipeline.inference.new_cohort, "evaluate", lambda *args, **options: report)
    found = (SimpleNamespace(task="grade"), None, {"4": 30})
    monkeypatch.setattr(pipeline.inference.composition, "_best_known", lambda predictors, cohort: found)
    config = load_config({"slides": "none", "genes": "genes.csv", "trained": "models", "rescale": rescale})
    run = SimpleNamespace(folder=tmp_path, write_table=lambda *table: None, write_json=written.__setitem__)
    context = SimpleNamespace(config=config, cohort=SimpleNamespace(labels=pd.DataFrame(), omics=None), run=run)
    predictors = [
        SimpleNamespace(task=task, members=(), same_profiles=lambda omics: []) for task in ("grade", "survival")
    ]
    prepared = SimpleNamespace(fingerprints={"grade": {}, "survival": {}}, members={"grade": (), "survival": ()})
    rows = pd.DataFrame(columns=["case_id", "task"])
    inference.validate(context, predictors, prepared, rows, {}, device="cpu")
    tasks = written["metrics.json"]["tasks"]
    assert [bool(tasks[task]["caveats"]) for task in ("grade", "survival")] == [rescale == "matched", False]
    expected = "task grade: --rescale matched: the shares of these labels set the scale"
    assert (expected in caplog.text) == (rescale == "matched")
