"""Classes: tumour grade, WHO subtype, or any other column of them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.special import softmax
from torch import Tensor

from pipeline.tasks.base import FittedTask, Task
from preprocessing.io.errors import InputError


@dataclass(frozen=True)
class FittedClassification(FittedTask):
    """Classes and their weights.

    Attributes:
        column: the label's column.
        classes: in the order of the model's outputs.
        weights: of each class in the loss, inverse to its share of the training cases, mean 1 over those cases.
    """

    column: str
    classes: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def n_outputs(self) -> int:
        """One a class."""
        return len(self.classes)

    def encode(self, labels: pd.DataFrame) -> Int[np.ndarray, "n 1"]:
        """The number of each case's class."""
        return pd.Index(self.classes).get_indexer(pd.Index(labels[self.column].astype(str)))[:, None].astype(np.int64)

    def loss(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B 1"]) -> Float[Tensor, ""]:
        """Weighted cross-entropy, divided by the number of cases: a case weighs the same in any batch."""
        weights = torch.tensor(self.weights, dtype=logits.dtype, device=logits.device)
        return F.cross_entropy(logits, targets[:, 0], weight=weights, reduction="sum") / len(logits)

    def score(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B 1"]) -> float:
        """The probabilities of the true classes, summed over the batch."""
        return float(logits.detach().float().softmax(1).gather(1, targets).sum())

    def evidence(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The logit of the class over the mean of all classes': what all classes gain alike says nothing."""
        return logits[:, int(of.argmax())] - logits.mean(1)

    def output(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The probability of the class."""
        return logits.softmax(1)[:, int(of.argmax())]

    def decode(self, logits: Float[np.ndarray, "n K"]) -> pd.DataFrame:
        """The likeliest class and the probability of each."""
        probabilities = softmax(logits.astype(float), axis=1)
        columns = {f"probability_{name}": probabilities[:, k] for k, name in enumerate(self.classes)}
        return pd.DataFrame({"prediction": np.array(self.classes)[probabilities.argmax(1)], **columns})

    def calibrated(self, logits: Float[np.ndarray, "n K"]) -> "FittedClassification":
        """Nothing to add."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Column, classes and weights."""
        return asdict(self)


class Classification(Task):
    """A column of classes."""

    def __init__(self, column: str) -> None:
        self.name = column
        self.label_columns = (column,)

    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Warn of classes with fewer cases than folds; raise InputError if there is one class only."""
        counts = labels[self.name].astype(str).value_counts()
        self.require_cases(len(labels), folds)
        if len(counts) < 2:
            raise InputError(
                f'task {self.name}: every one of the {len(labels)} labelled cases is "{counts.index[0]}": nothing to learn; '
                "leave the task out by naming the others with --task"
            )
        return [
            f'task {self.name}: class "{name}" has {n} cases for {folds} folds, so some folds test none of it; '
            "use fewer folds (--folds) or merge classes"
            for name, n in counts.items()
            if n < folds
        ]

    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Raise InputError if all training cases are of one class; warn of classes that are tested, but not trained on."""
        known, asked = (set(labels[self.name].astype(str)) for labels in (train, test))
        if len(known) < 2:
            raise InputError(
                f'task {self.name}: every training case of fold {number} is "{min(known)}"; use other splits, or fewer folds'
            )
        return [
            f'task {self.name}: class "{name}" has no training case in fold {number}, whose test cases of it are bound to be missed'
            for name in sorted(asked - known)
        ]

    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """The class."""
        return labels[self.name].astype(str)

    def vocabulary(self, labels: pd.DataFrame) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted(labels[self.name].dropna().astype(str).unique()))

    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedClassification:
        """Weights from the training cases; a class without any has weight 1, which is never used."""
        counts = labels[self.name].astype(str).value_counts()
        present = sum(name in counts for name in vocabulary)
        weights = tuple(float(len(labels) / (present * counts[name])) if name in counts else 1.0 for name in vocabulary)
        return FittedClassification(self.name, vocabulary, weights)

    def restore(self, fitted: dict[str, Any]) -> FittedClassification:
        """From a model folder."""
        classes, weights = tuple(map(str, fitted["classes"])), tuple(map(float, fitted["weights"]))
        if fitted["column"] != self.name or len(set(classes)) != len(weights) or len(classes) < 2:
            raise ValueError(f"{len(classes)} classes of {fitted['column']} with {len(weights)} weights")
        return FittedClassification(self.name, classes, weights)

    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """The class."""
        return labels[self.name].astype("string")
