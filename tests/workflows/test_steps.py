"""What the steps of a run hand to each other, by value, without a whole run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pipeline.cluster.workers
from pipeline.cluster.mapping import Outcome
from pipeline.config.loading import load_config
from pipeline.planning.plan import TaskPlan
from pipeline.tasks import TASKS
from preprocessing.cohort import Cohort
from preprocessing.features.precomputed import PrecomputedRecipe
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import Slide, SlideFile
from preprocessing.tiling.tiles import TileConfig
from workflows import run_pipeline, training
from workflows.api import runs

SLIDE = Slide("s", "p", Path("s.svs"), (0.5, 0.6), "metadata", (10, 10), "f")
COHORT = Cohort(
    found=(SlideFile("s", "p", SLIDE.path),),
    slides=(SLIDE,),
    left_out=(),
    omics=OmicsMatrix(np.zeros((1, 1)), ("p",), ("A",), ("rna",)),
    labels=pd.DataFrame({"grade": ["2"]}, index=["p"]),
    annotations=pd.DataFrame(),
    rows_dropped=(),
    notes=(),
    needs="both",
    gaps=pd.DataFrame(),
)


@pytest.mark.parametrize("codes", [(0, 3), (3, 0), (3, 3), (0, 0)])
def test_of_several_new_cohorts_the_exit_code_is_that_of_the_worst(tmp_path, monkeypatch, codes):
    given = {"trained": str(tmp_path), "out": str(tmp_path / "run"), "dry_run": True, "explain": 0}
    config = load_config({**given, "cohorts": ["one=none,a.csv", "two=none,b.csv"]})
    left = iter(codes)
    monkeypatch.setattr(run_pipeline, "load_predictors", lambda config: (config, []))
    monkeypatch.setattr(run_pipeline, "check_inputs", lambda config, predictors, workers: config.out)
    monkeypatch.setattr(run_pipeline, "carry_out", lambda inputs, workers: next(left))
    workers: Any = None
    assert run_pipeline.predict_cohorts(config, workers) == max(codes)


def test_the_ledger_states_the_upsampling_of_slides_that_are_tiled_and_of_no_others():
    tables = {}
    run: Any = SimpleNamespace(
        config=SimpleNamespace(tiles=TileConfig(mpp=0.25)), write_table=lambda name, table: tables.update({name: table})
    )
    recipe = PrecomputedRecipe(TileConfig(), {"name": "uni", "fingerprint": "f"})
    for cohort, expected in ((COHORT, 2.4), (replace(COHORT, precomputed=recipe), np.nan)):
        failures, cases = run_pipeline.write_ledgers(
            run, cohort, {"s": Outcome("s", "done", n_tiles=3)}, {"s": "s-key"}
        )
        assert failures == {}
        assert tables["cases.csv"] is cases
        slides = tables["slides.csv"]
        assert slides["upsampling"].tolist() == pytest.approx([expected], nan_ok=True)
        assert slides[["status", "n_tiles", "features"]].to_numpy().tolist() == [["done", 3, "s-key"]]


class StoppedError(Exception):
    """Raised in place of the work."""


def test_the_time_limit_of_a_slide_is_given_in_minutes_to_the_command_and_to_python(tmp_path, monkeypatch):
    seconds = []

    def workers(*_, slide_seconds, **__):
        seconds.append(slide_seconds)
        raise StoppedError

    monkeypatch.setattr(pipeline.cluster.workers, "Workers", workers)
    monkeypatch.setattr(runs, "Workers", workers)
    with pytest.raises(StoppedError):
        run_pipeline.main(["none", "genes.csv", "--until", "join", "--set", "slide_minutes=2"])
    with pytest.raises(StoppedError):
        runs.run(None, "genes.csv", out=tmp_path, slide_minutes=2)
    assert seconds == [120, 120]


def test_models_and_folds_of_a_task_that_is_given_up_go_and_those_of_others_stay(tmp_path):
    """`--trained RUN/models` would otherwise predict with models of slides that are no longer there."""
    names = {"models/grade", "models/grade-folds", "splits/grade", "splits/grade-site"}
    others = {"models/grade-two", "models/grade-two-folds", "splits/grade-two"}
    for name in names | others:
        (tmp_path / name).mkdir(parents=True)
    schemes = {"case": (), "site": ()}
    given_up = TaskPlan(TASKS["grade"], ("a",), (), (), "", schemes, {}, (), ())
    training.remove_exports(tmp_path, [given_up])
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")} == others
