"""What a run with trained models hands to the preparation of its cohort."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import pipeline.inference.prediction
from pipeline.config.loading import load_config
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
