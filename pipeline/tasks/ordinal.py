"""Ordered classes, such as a grade or a stage: classes whose loss and metrics also count how far a prediction is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from pipeline.metrics import Bootstrap, CaseMetrics, OrdinalMetrics, PredictorReport, with_rank_metrics
from pipeline.tasks.classification import Classification, FittedClassification
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable
from preprocessing.tables.reading import read_number

if TYPE_CHECKING:  # a plan needs no torch, which takes seconds to import
    from torch import Tensor

ROMAN = ("I", "II", "III", "IV", "V")  # stages and grades; their alphabetical order, in which classes come, is theirs


@dataclass(frozen=True)
class FittedOrdinal(FittedClassification):
    """Ordered classes; the first is the lowest."""

    def loss(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
        """Weighted cross-entropy plus the ranked probability score, with the same weights.

        The ranked probability score (Epstein 1969) is Σ over thresholds of (P(class ≤ k) − [truth ≤ k])²: neighbouring
        classes cost less than distant ones.
        """
        import torch
        import torch.nn.functional as F

        from models.layers.devices import on_device

        truth = targets[:, 0].long()
        weights = on_device(torch.tensor(self.weights, dtype=logits.dtype), logits.device)[truth]
        reached = logits.softmax(1).cumsum(1)
        expected = (truth[:, None] <= torch.arange(self.n_outputs, device=logits.device)).to(logits.dtype)
        ranked = (weights[:, None] * (reached - expected).square()).sum() / len(logits)
        nominal: Tensor = (weights * F.cross_entropy(logits, truth, reduction="none")).sum() / len(logits)
        return nominal + ranked

    def evaluate(
        self,
        cases: pd.DataFrame,
        predictions: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> PredictorReport[Any]:
        """The nominal metrics and those of ranks."""
        report = super().evaluate(cases, predictions, folds=folds, bootstrap=bootstrap)
        truth, probabilities = self._numbers(cases["label"]), self._probabilities(predictions)
        return with_rank_metrics(report, truth, probabilities, folds, bootstrap)


class Ordinal(Classification):
    """A column of ordered classes."""

    kind = "ordinal"
    metrics_type: ClassVar[type[CaseMetrics]] = OrdinalMetrics
    summary_metrics = ("macro_auc", "weighted_kappa", "accuracy")
    fitted_type: ClassVar[type[FittedClassification]] = FittedOrdinal

    @classmethod
    def recognise(cls, columns: pd.DataFrame) -> str | None:
        """Never: values do not show whether their order matters."""
        return None

    def read(self, table: LabelTable) -> pd.DataFrame:
        """The class of each case; words other than Roman numerals need an order in the definition."""
        values = super().read(table)
        words = sorted({value for value in values[self.name].dropna() if read_number(value) is None})
        if not self.spec.classes and not set(words) <= set(ROMAN):
            raise InputError(
                f"task {self.name}: the classes of column {self.spec.column[0]} are words ({', '.join(words[:5])}), whose order is "
                f"unknown; give it as tasks.{self.name}.classes, the lowest first"
            )
        return values
