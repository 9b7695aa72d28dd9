"""Predictions of labelled cases against their truth: the report of one model, cross-validated or on a new cohort."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from pipeline.metrics import Bootstrap, Metric, PredictorReport, TaskReport
from pipeline.tasks import FittedTask


@dataclass(frozen=True)
class Evaluation:
    """The labelled cases that one model predicted, with their truth, and how metrics of them are computed.

    Attributes:
        task: of the model; of several models, what they share is used, and `FittedTask.training_columns` are in `cases`.
        cases: predictions with truth, one row per case and fold, in the order of all tables that are compared.
        by_fold: whether each case was predicted by the model of its fold.
        bootstrap: resamples behind the intervals.
    """

    task: FittedTask
    cases: pd.DataFrame
    by_fold: bool
    bootstrap: Bootstrap

    @property
    def keys(self) -> list[str]:
        """The columns that name a row."""
        return ["case_id", "fold"] if self.by_fold else ["case_id"]

    @property
    def folds(self) -> Int[np.ndarray, " n"] | None:
        """The fold that tested each case; None where one model predicted all."""
        return self.cases["fold"].to_numpy(int) if self.by_fold else None

    def matched(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Another predictor's rows of the same cases, in their order; what it does not know of training cases is the model's."""
        training = [name for name in self.task.training_columns() if name not in predictions]
        return self.cases[[*self.keys, *training]].merge(predictions, on=self.keys, how="left")

    def of(self, predictions: pd.DataFrame) -> PredictorReport[Any]:
        """Metrics of a predictor of these cases, in their order."""
        return self.task.evaluate(self.cases, predictions, folds=self.folds, bootstrap=self.bootstrap)

    def difference(self, predictions: pd.DataFrame) -> Metric:
        """How much higher the model's headline metric is than that of another predictor, on the same resamples."""
        return self.task.difference(self.cases, self.cases, predictions, folds=self.folds, bootstrap=self.bootstrap)

    def among(self, chosen: pd.DataFrame) -> "Evaluation":
        """The same of some of the cases: those whose keys are in this table."""
        return Evaluation(
            self.task,
            self.cases.merge(chosen[self.keys].drop_duplicates(), on=self.keys).reset_index(drop=True),
            self.by_fold,
            self.bootstrap,
        )

    def report(self, kind: str, model_name: str, baselines: pd.DataFrame) -> TaskReport[Any]:
        """Metrics of the model and of each baseline, and their differences.

        Args:
            kind: of the task.
            model_name: the model's.
            baselines: a row for each case and baseline, as `Baselines.predict` returns them; may be empty.
        """
        tables = {str(name): self.matched(rows) for name, rows in baselines.groupby("baseline", sort=False)}
        reasons = {name: "; ".join(table["reason"].dropna().unique()) or None for name, table in tables.items()}
        return TaskReport(
            kind=kind,
            n=len(self.cases),
            headline=self.task.headline,
            chance=self.task.chance,
            model_name=model_name,
            new_cohort=not self.by_fold,
            model=self.of(self.cases),
            baselines={
                name: self.of(table).model_copy(update={"reason": reasons[name]}) for name, table in tables.items()
            },
            differences={name: self.difference(table) for name, table in tables.items()},
        )
