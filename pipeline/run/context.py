"""The context that all stages of a run share."""

from dataclasses import dataclass

from pipeline.cluster.workers import Workers
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.slides.feature_recipe import FeatureRecipe
from preprocessing.cohort import Cohort


@dataclass(frozen=True)
class RunContext:
    """A run that has begun: its configuration, its input, and where it computes.

    Attributes:
        config: the resolved configuration.
        cohort: the cases with their slides, genes and labels.
        recipe: how features are made, with paths as the workers see them.
        workers: the processes that do the work.
        run: the run folder.
    """

    config: Config
    cohort: Cohort
    recipe: FeatureRecipe
    workers: Workers
    run: Run
