"""The contract of a task."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.baselines.genomic import OmicsRisk
from preprocessing.io.errors import InputError


class FittedTask(ABC):
    """A task whose time bins, classes and weights are known from training cases."""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """The model's K."""

    @abstractmethod
    def encode(self, labels: pd.DataFrame) -> Int[np.ndarray, "n t"]:
        """Targets of cases, in the form that `loss` takes."""

    @abstractmethod
    def loss(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B t"]) -> Float[Tensor, ""]:
        """Mean loss of a batch."""

    @abstractmethod
    def score(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B t"]) -> float:
        """How right the logits of a batch are; higher is better, NaN where its cases do not define it."""

    @abstractmethod
    def evidence(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """How far logits speak for what `of` predicts, additive and open to both sides: what attributions are of."""

    @abstractmethod
    def output(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The one number that is told of a case: the probability of the class that `of` predicts, or the risk."""

    @abstractmethod
    def decode(self, logits: Float[np.ndarray, "n K"]) -> pd.DataFrame:
        """What is told of each case: one row a case, the columns of `predictions.csv`."""

    @abstractmethod
    def calibrated(self, logits: Float[np.ndarray, "n K"]) -> "FittedTask":
        """The same task after the model's outputs on its own training cases are known (where risk groups are cut)."""

    def gene_risk(self, genes: Float[np.ndarray, "n g"], labels: pd.DataFrame, *, seed: int) -> OmicsRisk | None:
        """A risk that is linear in the genes of training cases; None for a task that has none."""
        return None

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything that was fitted, for the model folder."""


class Task(ABC):
    """What is predicted, before any case was seen."""

    name: str
    label_columns: tuple[str, ...]

    def labelled(self, labels: pd.DataFrame) -> pd.Series:
        """True for the cases whose label is known."""
        if not set(self.label_columns) <= set(labels):
            return pd.Series(False, labels.index)
        return labels[list(self.label_columns)].notna().all(axis=1)

    @abstractmethod
    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Warnings about labels that are thin; raises InputError where the task cannot be learned from them."""

    @abstractmethod
    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Warnings about one fold's labels; raises InputError where its training cases cannot be learned from."""

    @abstractmethod
    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """The stratum of each case: folds hold about the same share of each."""

    @abstractmethod
    def vocabulary(self, labels: pd.DataFrame) -> tuple[str, ...]:
        """The classes that occur; empty for survival."""

    @abstractmethod
    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedTask:
        """The task fitted on training cases only."""

    @abstractmethod
    def restore(self, fitted: dict[str, Any]) -> FittedTask:
        """The fitted task of a model folder, from what `to_json` gave; ValueError where it is unsound."""

    @abstractmethod
    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """The label of each case as `predictions.csv` shows it."""

    def require_cases(self, n: int, folds: int) -> None:
        """Raise InputError if there are fewer labelled cases than folds."""
        if n < folds:
            raise InputError(
                f"task {self.name}: {n} cases with a label for {folds} folds; give fewer with --folds, or more cases"
            )
