"""Whose predictions are to be explained, and by which model each case is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipeline.inference.prediction import MemberInputs
from pipeline.inference.trained import Predictor
from pipeline.training.fold_job import FoldJob


@dataclass(frozen=True)
class Source:
    """A trained model, and the cases whose genes stand in for a case's own when they are permuted."""

    model: Path
    reference: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """One task whose predictions are to be explained.

    Attributes:
        task: its name.
        model: what reports call the model.
        told: the rows of `predictions.csv` of this task.
        final: the model that is handed out: its prototypes make the maps and the atlas, and it explains cases without a fold.
        by_case: of cases that a fold's model predicted, that model; empty where one trained model predicted all.
        stands_for: of how many models, whose mean was predicted, `final` is the first.
    """

    task: str
    model: str
    told: pd.DataFrame
    final: Source
    by_case: Mapping[str, Source] = field(default_factory=dict)
    stands_for: int = 1

    def of(self, case: str) -> Source:
        """The model that explains a case."""
        return self.by_case.get(case, self.final)


def ask_folds(jobs: Sequence[FoldJob], told: pd.DataFrame) -> Asked:
    """A task of a run: each case is explained by the model that has not seen it.

    Args:
        jobs: the folds of the model, finished, and last the one that is handed out.
        told: the task's rows of `predictions.csv`.
    """
    by_case: dict[str, Source] = {}
    for job in jobs[:-1]:
        source = Source(job.out / "model", job.fold.train)
        by_case |= {case: by_case.get(case, source) for case in job.fold.test}
    final = jobs[-1]
    return Asked(final.task, final.candidate.name, told, Source(final.out / "model", final.fold.train), by_case)


def ask_trained(predictor: Predictor, shown: Sequence[MemberInputs], told: pd.DataFrame) -> Asked:
    """A task of a new cohort: one trained model explains all cases; of the models of folds, the first.

    Args:
        predictor: what predicted the cases.
        shown: the cohort as it took it.
        told: the rows of `predictions.csv` of cases that it predicted; when genes are permuted, these stand in for each other.
    """
    own = set(told["case_id"])
    with_genes = tuple(case for case in shown[0].data.rows if case in own)
    source = Source(predictor.member_folders[0].absolute(), with_genes)
    return Asked(predictor.task, predictor.model_name, told, source, stands_for=len(predictor.members))
