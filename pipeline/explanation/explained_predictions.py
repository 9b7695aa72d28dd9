"""The predictions to explain, and the model that explains each case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipeline.folds.fold_job import FoldJob
from pipeline.inference.prediction import MemberInputs
from pipeline.inference.trained import Predictor, with_imputer
from pipeline.model_folders.model_folder import TrainedModel, load_model
from pipeline.tasks import Task
from preprocessing.omics.imputation import GeneImputer


@dataclass(frozen=True)
class ExplainingModel:
    """A trained model that explains cases.

    Attributes:
        folder: its model folder.
        donors: cases whose genes replace those of the explained case in permutations.
        imputer: estimates their missing genes, as in their predictions; None: the training median.
    """

    folder: Path
    donors: tuple[str, ...]
    imputer: GeneImputer | None = None

    def load(self) -> TrainedModel:
        """Load the model as it predicted the cases."""
        return with_imputer(load_model(self.folder), self.imputer)


@dataclass(frozen=True)
class TaskPredictions:
    """The predictions of one task, and the models that explain them.

    Attributes:
        definition: the task.
        model: name of the model in reports.
        predictions: rows of `predictions.csv` of this task.
        final: the final model: it defines the prototypes of maps and atlas, and explains cases without a fold.
        by_case: the fold model that predicted a case; empty if one trained model predicted all cases.
        n_models: number of models whose mean was predicted and of which `final` is the first; 1 for a single model.
    """

    definition: Task
    model: str
    predictions: pd.DataFrame
    final: ExplainingModel
    by_case: Mapping[str, ExplainingModel] = field(default_factory=dict)
    n_models: int = 1

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.definition.name

    def model_of(self, case: str) -> ExplainingModel:
        """Return the model that explains a case."""
        return self.by_case.get(case, self.final)

    @classmethod
    def of_folds(cls, jobs: Sequence[FoldJob], predictions: pd.DataFrame) -> "TaskPredictions":
        """Take a task of a training run: each case is explained by the model of the fold that tested it.

        Args:
            jobs: the finished jobs of the folds, the final model's last.
            predictions: rows of `predictions.csv` of the task.
        """
        by_case: dict[str, ExplainingModel] = {}
        for job in jobs[:-1]:
            model = ExplainingModel(job.out / "model", job.fold.train)
            by_case |= {case: by_case.get(case, model) for case in job.fold.test}
        last = jobs[-1]
        final = ExplainingModel(last.out / "model", last.fold.train)
        return cls(last.task, last.candidate.name, predictions, final, by_case)

    @classmethod
    def of_predictor(
        cls, predictor: Predictor, members: Sequence[MemberInputs], predictions: pd.DataFrame
    ) -> "TaskPredictions":
        """Take a task of a new cohort: all cases are explained by the trained model, or by the first of its fold models.

        Args:
            predictor: the trained model of the task.
            members: the cohort as each member reads it.
            predictions: rows of `predictions.csv` of the predicted cases, which are also each other's donors.
        """
        predicted = set(predictions["case_id"])
        donors = tuple(case for case in members[0].data.rows if case in predicted)
        scaler = predictor.members[0].scaler
        final = ExplainingModel(predictor.member_folders[0].absolute(), donors, scaler.imputer if scaler else None)
        return cls(predictor.definition, predictor.model_name, predictions, final, n_models=len(predictor.members))
