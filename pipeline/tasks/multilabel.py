"""Several yes-or-no labels at once, such as mutations: any number of them may hold for a case, and some be unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from pipeline.baselines.label_baselines import LabelBaselines
from pipeline.metrics import (
    Bootstrap,
    MultilabelMetrics,
    PredictorReport,
    Statistic,
    macro_label_auc,
    multilabel_by_fold,
    multilabel_metrics,
)
from pipeline.tasks.base import FittedTask, PredictionSets, Task
from pipeline.tasks.classification import PROBABILITY
from pipeline.tasks.spec import TaskSpec
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable, read_flag, text_of

if TYPE_CHECKING:  # a plan needs no torch, which takes seconds to import
    from torch import Tensor

UNKNOWN = "?"
NONE = "none"  # the prediction that no label holds


@dataclass(frozen=True)
class FittedMultilabel(FittedTask):
    """Labels and how often each holds.

    Attributes:
        columns: of the labels.
        names: of the labels, in the order of the model's outputs.
        positives: training cases of which each label holds.
        negatives: training cases of which it does not.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...]

    headline: ClassVar[str] = "macro_auc"
    chance: ClassVar[float | None] = 0.5

    @property
    def n_outputs(self) -> int:
        """Number of labels."""
        return len(self.names)

    @property
    def probability_columns(self) -> list[str]:
        """Those of the labels' probabilities."""
        return [f"{PROBABILITY}{name}" for name in self.names]

    def encode(self, labels: pd.DataFrame) -> Float[np.ndarray, "n L"]:
        """1 where a label holds, 0 where not, −1 where it is unknown."""
        return labels[list(self.columns)].astype("Float64").fillna(-1).to_numpy(float)

    def loss(self, logits: Float[Tensor, "B L"], targets: Float[Tensor, "B L"]) -> Float[Tensor, ""]:
        """Binary cross-entropy of the known labels, either answer of a label weighted inversely to its share."""
        import torch
        import torch.nn.functional as F

        from models.layers.devices import on_device

        known = (targets >= 0).to(logits.dtype)
        total = np.array(self.positives) + np.array(self.negatives)
        scale = [
            on_device(torch.tensor(total / (2 * np.maximum(1, counts)), dtype=logits.dtype), logits.device)
            for counts in (np.array(self.negatives), np.array(self.positives))
        ]
        truth = targets.clamp(min=0).to(logits.dtype)
        weights = known * torch.where(truth > 0, scale[1], scale[0])
        return F.binary_cross_entropy_with_logits(logits, truth, weight=weights, reduction="sum") / logits.numel()

    def score(self, logits: Float[Tensor, "B L"], targets: Float[Tensor, "B L"]) -> float:
        """The mean probability of the right answers to a case's labels, summed over the batch."""
        import torch

        right = torch.where(targets > 0, logits.detach().float(), -logits.detach().float()).sigmoid()
        return float((right * (targets >= 0)).mean(1).sum())

    def calibrated(self, logits: Float[np.ndarray, "n L"], labels: pd.DataFrame | None) -> FittedMultilabel:
        """The same: outputs of training cases add nothing."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Columns, names and counts."""
        return asdict(self)

    def decode(self, logits: Float[np.ndarray, "n L"]) -> pd.DataFrame:
        """The labels that hold more likely than not, separated by `;`, and the probability of each."""
        from scipy.special import expit

        return self._table(expit(logits.astype(float)))

    def disagreement(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> Float[np.ndarray, " n"]:
        """The labels' mean standard deviation of the probability over the members."""
        each = np.stack([self._probabilities(one) for one in members])
        return each.std(axis=0, ddof=1).mean(axis=1)

    def joined(self, others: Sequence[FittedTask]) -> FittedMultilabel:
        """With the training cases of all models."""
        every = [one for one in (self, *others) if isinstance(one, FittedMultilabel)]
        positives, negatives = (
            tuple(int(n) for n in np.sum([getattr(one, name) for one in every], axis=0))
            for name in ("positives", "negatives")
        )
        return replace(self, positives=positives, negatives=negatives)

    def mean_prediction(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean probabilities, and the labels by them."""
        return self._table(np.mean([self._probabilities(part) for part in parts], axis=0))

    def agrees_with(self, other: FittedTask) -> bool:
        """Whether the other has the same labels."""
        return isinstance(other, FittedMultilabel) and other.names == self.names

    def evaluate(
        self,
        cases: pd.DataFrame,
        predictions: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> PredictorReport[Any]:
        """See `multilabel_metrics`."""
        truth, probabilities = self._truth(cases), self._probabilities(predictions)
        if folds is not None:
            return multilabel_by_fold(truth, probabilities, self.names, folds, bootstrap)
        pooled = multilabel_metrics(truth, probabilities, self.names, bootstrap=bootstrap)
        return PredictorReport(pooled=pooled, folds=())

    def headline_statistic(
        self, cases: pd.DataFrame, predictions: pd.DataFrame, *, folds: Int[np.ndarray, " n"] | None
    ) -> Statistic:
        """The macro AUC."""
        return macro_label_auc(self._truth(cases), self._probabilities(predictions), folds=folds)

    @property
    def sets(self) -> LabelSets:
        """The answers that each label may have."""
        return LabelSets(self)

    def fit_baselines(
        self,
        train: pd.DataFrame,
        genes: Float[np.ndarray, "m g"] | None,
        slides: pd.DataFrame | None,
        *,
        seed: int,
    ) -> LabelBaselines:
        """Logistic models of clinical columns and of genes, for each label."""
        return LabelBaselines.fit(self.names, train, self.encode(train), genes, seed=seed)

    def restore_baselines(self, described: Mapping[str, Any]) -> LabelBaselines:
        """From a model folder."""
        return LabelBaselines.from_json(self.names, described)

    def evidence(self, logits: Float[Tensor, "B L"], of: Float[Tensor, " L"]) -> Float[Tensor, " B"]:
        """The mean over the labels of the logit of the predicted answer."""
        return (logits * _signs(of)).mean(1)

    def output(self, logits: Float[Tensor, "B L"], of: Float[Tensor, " L"]) -> Float[Tensor, " B"]:
        """The mean over the labels of the probability of the predicted answer."""
        return (logits * _signs(of)).sigmoid().mean(1)

    def _table(self, probabilities: Float[np.ndarray, "n L"]) -> pd.DataFrame:
        names = np.array(self.names)
        text = [";".join(names[row > 0.5]) or NONE for row in probabilities]
        columns = {name: probabilities[:, k] for k, name in enumerate(self.probability_columns)}
        return pd.DataFrame({"prediction": text, **columns})

    def _probabilities(self, predictions: pd.DataFrame) -> Float[np.ndarray, "n L"]:
        return predictions[self.probability_columns].to_numpy(float)

    def _truth(self, cases: pd.DataFrame) -> Float[np.ndarray, "n L"]:
        """1, 0 or NaN, from the labels as `Multilabel.describe` writes them."""
        return _answers(cases["label"].astype(str).tolist())


@dataclass(frozen=True)
class LabelSets(PredictionSets):
    """The answers to each label that are possible; the score of an answer is 1 − its probability, each label has its threshold.

    A set is text in the form of a label, `A=1;B=?;C=0`: ? where both answers are possible.
    """

    task: FittedMultilabel

    method: ClassVar[str] = "LAC of each label, calibrated on out-of-fold predictions"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.task.names

    def scores(self, cases: pd.DataFrame) -> Float[np.ndarray, "n L"]:
        """1 − the probability of the true answer to each label; NaN where it is unknown."""
        return np.abs(self.task._truth(cases) - self.task._probabilities(cases))

    def sets(self, predictions: pd.DataFrame, thresholds: Float[np.ndarray, "n L"]) -> list[str]:
        """The likelier answer to each label; ? where the score of the other is at most the threshold too."""
        p = self.task._probabilities(predictions)
        answers = np.where(np.maximum(p, 1 - p) <= thresholds, UNKNOWN, np.where(p > 0.5, "1", "0"))
        return [";".join(f"{name}={one}" for name, one in zip(self.labels, row, strict=True)) for row in answers]

    def covered(self, sets: Sequence[str], cases: pd.DataFrame) -> Float[np.ndarray, "n L"]:
        """Whether the true answer to each label is possible; NaN where it is unknown."""
        possible, truth = _answers(sets), self.task._truth(cases)
        return np.where(np.isnan(truth), np.nan, np.isnan(possible) | (possible == truth))

    def sizes(self, sets: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Mean number of possible answers over the labels, 1 to 2."""
        return 1 + np.isnan(_answers(sets)).mean(axis=1)


def _answers(texts: Sequence[str]) -> Float[np.ndarray, "n L"]:
    """1, 0, or NaN for ?, from texts as `A=1;B=0;C=?`."""
    rows = [[part.rpartition("=")[2] for part in text.split(";")] for text in texts]
    return np.array([[np.nan if one == UNKNOWN else float(one) for one in row] for row in rows])


def _signs(of: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """1 for labels that are predicted to hold, else −1."""
    import torch

    return torch.where(of > 0, 1.0, -1.0)


class Multilabel(Task):
    """Several columns of 0 and 1 (or yes and no)."""

    kind = "multilabel"
    metrics_type = MultilabelMetrics
    summary_metrics = ("macro_auc",)
    output_name = "the mean probability of the answers that are predicted from all inputs"
    evidence_name = "the evidence for the predicted answers"
    evidence_definition = "the mean over the labels of the logit of the predicted answer"
    evidence_effect = "supports the predicted answers"

    def __init__(self, name: str, spec: TaskSpec) -> None:
        super().__init__(name, spec)
        self.label_columns = tuple(f"{name}_{column}" for column in spec.column)

    @classmethod
    def recognise(cls, columns: pd.DataFrame) -> str | None:
        """Several columns of yes and no."""
        if columns.shape[1] < 2:
            return None
        texts = [columns[name].dropna().map(text_of) for name in columns]
        return "several columns of yes and no" if all(one.map(read_flag).notna().all() for one in texts) else None

    def read(self, table: LabelTable) -> pd.DataFrame:
        """Each label of each case, boolean."""
        if len(self.spec.column) < 2:
            raise InputError(
                f"task {self.name}: multilabel needs several columns, as in --task {self.name}=A,B,C:multilabel; of one, make a "
                f"classification"
            )
        remedy = "write 1 or 0, yes or no, or leave it empty"
        return pd.DataFrame(
            {
                column: table.parse(source, read_flag, dtype="boolean", remedy=remedy)
                for column, source in zip(self.label_columns, self.spec.column, strict=True)
            }
        )

    def labelled(self, labels: pd.DataFrame) -> pd.Series:
        """True for the cases of which any label is known."""
        if not set(self.label_columns) <= set(labels):
            return pd.Series(False, labels.index)
        return labels[list(self.label_columns)].notna().any(axis=1)

    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Raise InputError for a label that is the same for all cases; warn of rare answers."""
        self.require_cases(len(labels), folds)
        thin = []
        for name, column in zip(self.spec.column, self.label_columns, strict=True):
            rarest = min(int(labels[column].eq(answer).sum()) for answer in (True, False))
            if rarest == 0:
                raise InputError(
                    f"task {self.name}: label {name} is the same for every case: nothing to learn; leave it out of the task"
                )
            if rarest < folds:
                thin.append(
                    f"task {self.name}: label {name} has {rarest} cases of one answer for {folds} folds, so some folds test none; "
                    "use fewer folds (--folds)"
                )
        return thin

    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Warn of labels without both answers among the training cases."""
        return [
            f"task {self.name}: every training case of fold {number} has the same answer to {name}"
            for name, column in zip(self.spec.column, self.label_columns, strict=True)
            if train[column].nunique() < 2
        ]

    def strata(self, labels: pd.DataFrame) -> pd.DataFrame:
        """The cases with either answer to each label: `COLUMN=1`, `COLUMN=0`."""
        return pd.DataFrame(
            {
                f"{column}={answer:d}": labels[column].eq(answer).fillna(False).astype(bool)
                for column in self.label_columns
                for answer in (True, False)
            }
        )

    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedMultilabel:
        """The labels with their number of training cases of each answer."""
        positives, negatives = (
            tuple(int(labels[column].eq(answer).sum()) for column in self.label_columns) for answer in (True, False)
        )
        return FittedMultilabel(self.label_columns, self.spec.column, positives, negatives)

    def restore(self, fitted: Mapping[str, Any]) -> FittedMultilabel:
        """From a model folder."""
        names, columns = tuple(fitted["names"]), tuple(fitted["columns"])
        counts = [tuple(map(int, fitted[name])) for name in ("positives", "negatives")]
        if names != self.spec.column or columns != self.label_columns or {len(one) for one in counts} != {len(names)}:
            raise ValueError(f"labels {names} with {counts} cases")
        if min(map(min, counts)) < 0:
            raise ValueError(f"training cases of the labels: {counts}")
        return FittedMultilabel(columns, names, *counts)

    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """Each label with 1, 0 or ? behind it, separated by `;`."""
        answers = [labels[column].map({True: "1", False: "0"}).fillna(UNKNOWN) for column in self.label_columns]
        parts = [name + "=" + one.astype(str) for name, one in zip(self.spec.column, answers, strict=True)]
        text = parts[0]
        for part in parts[1:]:
            text = text + ";" + part
        return text

    def summary(self, labels: pd.DataFrame) -> str:
        """The labels with their number of positive cases."""
        counts = [int(labels[column].eq(True).sum()) for column in self.label_columns]
        return ", ".join(f"{name} {n}" for name, n in zip(self.spec.column, counts, strict=True))

    def worth_explaining(self, predictions: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
        """The most and the least certain cases."""
        by_certainty = self.certainty(predictions).sort_values(ascending=False, kind="stable").index
        yield "most certain", list(by_certainty)
        yield "least certain", list(by_certainty[::-1])

    def certainty(self, predictions: pd.DataFrame) -> pd.Series:
        """The mean probability of the likelier answer over the labels."""
        p = predictions[[f"{PROBABILITY}{name}" for name in self.spec.column]]
        return p.where(p > 0.5, 1 - p).mean(axis=1)
