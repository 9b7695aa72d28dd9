"""Runs and trained models from Python."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.cluster.gpus import select_gpus
from pipeline.cluster.workers import Workers
from pipeline.config.loading import load_config
from pipeline.config.schema import Config
from pipeline.inference.trained import Predictor, load_trained
from pipeline.run.finished import FinishedRun, read_run
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import user_path
from workflows.api.cohorts import InputCohort, Slides, input_paths
from workflows.api.pages import table_page
from workflows.api.processes import hidden_main
from workflows.api.stores import Store, open_store
from workflows.run_pipeline import walk


@dataclass(frozen=True)
class RunResults(FinishedRun):
    """The results of a finished run: tables, metrics, predictions and models, each read when it is first needed.

    `cases`, `slides`, `predictions` and `diagnoses` are data frames, `metrics` maps a task to a `TaskReport`, `explanations` a task
    to its explanation, `config` is the configuration, `record` the content of `run.json`.
    """

    def predicted(self, task: str, *, status: str | None = None) -> pd.DataFrame:
        """Return the predictions of one task for the cases of `cases.csv`, without columns that only other tasks have.

        Args:
            task: name of the task.
            status: only rows of this status, such as `tested`; None: all.

        Raises:
            InputError: the run has no such task.
        """
        known = list(self.predictions["task"].unique()) if len(self.predictions) else []
        if task not in known:
            raise InputError(f"{self.folder} has no predictions of a task {task}; it has {some(known) or 'none'}")
        return super().predicted(task, status=status)

    @property
    def report(self) -> Path:
        """The report, an HTML file."""
        return self.folder / "report.html"

    def summary(self) -> pd.DataFrame:
        """Return a row for each task and predictor: its headline metric with the 95 % interval, and the number of cases."""
        rows = [
            (task, report.headline, name, metric.value, metric.low, metric.high, report.n)
            for task, report in self.metrics.items()
            for name, other in {report.model_name: report.model, **report.others()}.items()
            for metric in [other.pooled.scalar(report.headline)]
        ]
        return pd.DataFrame(rows, columns=["task", "metric", "predictor", "value", "low", "high", "cases"])

    def model(self, task: str, *, folds: bool = False) -> "Model":
        """Return the trained model of a task.

        Args:
            task: its name.
            folds: the ensemble of the fold models instead of the final model.

        Raises:
            InputError: the run exports no such model.
        """
        return open_model(self.folder / "models" / (f"{task}-folds" if folds else task))

    def store(self) -> Store:
        """Open the feature store of the run; raises InputError where it is gone."""
        return open_store(str(self.record["store"]))

    def _repr_html_(self) -> str:
        return table_page(
            "Run",
            f"{self.folder}: {count(len(self.cases), 'case')}, {count(len(self.slides), 'slide')}",
            self.summary(),
        )


@dataclass(frozen=True)
class Model:
    """A trained model, or the ensemble of fold models, of one task.

    Attributes:
        predictor: the loaded model with its metadata.
    """

    predictor: Predictor

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.predictor.task

    @property
    def genes(self) -> tuple[str, ...]:
        """Molecular features and covariates that it reads."""
        return self.predictor.features

    @property
    def encoder(self) -> str:
        """The encoder of the patch features, in words; empty for a model that reads no slides."""
        encoder = self.predictor.metadata.encoder
        return encoder.summary() if encoder else ""

    def predict(self, cohort: InputCohort, *, out: str | Path | None = None, **settings: Any) -> pd.DataFrame:
        """Predict the cases of a cohort; slides whose features are not in the store are tiled and embedded first.

        Args:
            cohort: from `open_cohort`.
            out: run folder that is kept, with report and distribution shift; None: a temporary one, gone once this returns.
            settings: further keys of the configuration, such as `workers=4` or `device="cuda"`.

        Returns:
            The rows of `predictions.csv`: class probabilities and prediction sets, or risk and survival curve, of each case.

        Raises:
            InputError: the cohort does not fit the model.
            RunError: it failed on the way.
        """
        if not isinstance(cohort, InputCohort):
            raise InputError(f"predict reads a cohort from open_cohort(slides, genes), not {type(cohort).__name__}")
        with tempfile.TemporaryDirectory() as folder:
            given = {
                **cohort.settings,
                "explain": 0,
                **settings,
                "trained": str(self.predictor.folder),
                "out": str(out or Path(folder, "run")),
            }
            return _run(load_config(given)).predictions

    def _repr_html_(self) -> str:
        described = self.predictor.describe() | {"encoder": self.encoder, "genes": len(self.genes)}
        return table_page(f"Model of {self.task}", "", pd.Series(described, dtype=object).to_frame(""))


def open_run(folder: str | Path) -> RunResults:
    """Open the folder of a finished run.

    Raises:
        InputError: no run has finished in the folder, or a run of another version of this program.
    """
    found = read_run(user_path(folder))
    return RunResults(found.folder, found.record)


def open_model(folder: str | Path) -> Model:
    """Open a model folder, such as RUN/models/grade or RUN/models/grade-folds.

    Raises:
        InputError: there is no model, it is damaged, or the folder has those of several tasks.
    """
    predictors = load_trained(user_path(folder), [])
    if len(predictors) > 1:
        raise InputError(f"{folder} contains the models of {len(predictors)} tasks; name one of its folders")
    return Model(predictors[0])


def run(slides: Slides, genes: str | Path | None, *, out: str | Path, **settings: Any) -> RunResults:
    """Run the whole pipeline, as `run_pipeline SLIDES GENES` does, and return its results.

    Args:
        slides: folder, slide or several, or manifest CSV; None: genes only.
        genes: gene table; None: slides only.
        out: run folder; one in which the same run has begun is resumed.
        settings: further keys of the configuration, such as `task=["grade"]`, `workers=0`, `**{"train.epochs": 10}`.

    Raises:
        InputError: whatever is wrong with the input; nothing was computed.
        RunError: the run failed on the way; the same call resumes it.
    """
    return _run(load_config({**input_paths(slides, genes), **settings, "out": str(out)}))


def _run(config: Config) -> RunResults:
    if config.out is None:
        raise InputError("a run needs a folder: out")
    select_gpus(config.gpus, device=config.device)
    slurm = config.slurm if config.cluster == "slurm" else None
    limit = 60 * config.slide_minutes
    with (
        hidden_main(),
        Workers(config.workers, config.device, config.scheduler, slurm=slurm, slide_seconds=limit) as workers,
    ):
        walk(config, workers)
    return open_run(config.out)
