"""Regression: a number, such as a purity or a score; the model predicts it in standard deviations of the training cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from pipeline.baselines.genomic import GeneScores
from pipeline.baselines.number_baselines import VALUE, NumberBaselines
from pipeline.baselines.numbers import ridge_number
from pipeline.metrics import (
    Bootstrap,
    CaseMetrics,
    PredictorReport,
    RegressionMetrics,
    Statistic,
    r_squared,
    regression_by_fold,
    regression_metrics,
)
from pipeline.tasks.base import FittedTask, PredictionSets, Task
from preprocessing.io.errors import InputError, count
from preprocessing.labels.columns import LabelTable, text_of
from preprocessing.tables.missing_codes import describe_missing_code
from preprocessing.tables.reading import read_number

if TYPE_CHECKING:  # a plan needs no torch, which takes seconds to import
    from torch import Tensor

QUANTILES = 5  # of the label, by which folds are stratified
ERROR = "expected_error"  # column of predictions: root mean square error of the model on left-out training cases
TO = " to "  # between the ends of an interval
ANY = "any"  # the interval where too few calibration cases promise nothing


@dataclass(frozen=True)
class FittedRegression(FittedTask):
    """Scale of the label.

    Attributes:
        column: the label's column.
        mean: of the training cases.
        sd: of the training cases.
        error: root mean square error of left-out training cases, in standard deviations; 1 where none was left out.
    """

    column: str
    mean: float
    sd: float
    error: float = 1.0

    headline: ClassVar[str] = "r2"
    chance: ClassVar[float | None] = 0.0
    difference_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @property
    def n_outputs(self) -> int:
        """1: the predicted number."""
        return 1

    def encode(self, labels: pd.DataFrame) -> Float[np.ndarray, "n 1"]:
        """The label in standard deviations from the training cases' mean."""
        return (labels[[self.column]].to_numpy(float) - self.mean) / self.sd

    def loss(self, logits: Float[Tensor, "B 1"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
        """Mean squared error, in squared standard deviations."""
        return (logits - targets.to(logits.dtype)).square().mean()

    def score(self, logits: Float[Tensor, "B 1"], targets: Float[Tensor, "B 1"]) -> float:
        """exp(−error² / 2) of each case, summed over the batch: one for a perfect prediction."""
        return float((-(logits.detach().float() - targets.float()).square() / 2).exp().sum())

    def calibrated(self, logits: Float[np.ndarray, "n 1"], labels: pd.DataFrame | None) -> FittedRegression:
        """With the error of the left-out training cases, by which intervals of different models become comparable."""
        if labels is None:
            return self
        misses = (self.numbers(logits) - labels[self.column].to_numpy(float)) / self.sd
        error = float(np.sqrt(np.mean(misses**2)))
        return replace(self, error=error or 1.0)

    def gene_scores(self, genes: Float[np.ndarray, "n g"], labels: pd.DataFrame, *, seed: int) -> GeneScores | None:
        """The number, less its mean, by a ridge regression."""
        return ridge_number(genes, self.encode(labels)[:, 0], seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Column, mean, standard deviation and error."""
        return asdict(self)

    def decode(self, logits: Float[np.ndarray, "n 1"]) -> pd.DataFrame:
        """The number and the model's error on left-out training cases, in the label's unit."""
        return _predictions(self.numbers(logits), self.sd * self.error)

    def numbers(self, logits: Float[np.ndarray, "n 1"]) -> Float[np.ndarray, " n"]:
        """The predicted number, in the label's unit."""
        return self.mean + self.sd * logits[:, 0].astype(float)

    def disagreement(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> Float[np.ndarray, " n"]:
        """Standard deviation of the members' numbers, in the label's unit."""
        each = np.stack([one[VALUE].to_numpy(float) for one in members])
        return each.std(axis=0, ddof=1)

    def joined(self, others: Sequence[FittedTask]) -> FittedRegression:
        """With the mean of the models' means."""
        means = [one.mean for one in (self, *others) if isinstance(one, FittedRegression)]
        return replace(self, mean=float(np.mean(means)))

    def mean_prediction(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean number and error."""
        values, errors = (np.mean([part[name].to_numpy(float) for part in parts], axis=0) for name in (VALUE, ERROR))
        return _predictions(values, errors)

    def agrees_with(self, other: FittedTask) -> bool:
        """Whether the other predicts a number."""
        return isinstance(other, FittedRegression)

    def training_columns(self) -> dict[str, Any]:
        """The mean of the training cases, which is the trivial prediction."""
        return {"train_mean": self.mean}

    def evaluate(
        self,
        cases: pd.DataFrame,
        predictions: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> PredictorReport[Any]:
        """See `regression_metrics`."""
        truth, predicted, train_mean = (
            true_numbers(cases),
            *(predictions[name].to_numpy(float) for name in (VALUE, "train_mean")),
        )
        if folds is not None:
            return regression_by_fold(truth, predicted, train_mean, folds, bootstrap)
        return PredictorReport(pooled=regression_metrics(truth, predicted, train_mean, bootstrap=bootstrap), folds=())

    def headline_statistic(
        self, cases: pd.DataFrame, predictions: pd.DataFrame, *, folds: Int[np.ndarray, " n"] | None
    ) -> Statistic:
        """R²."""
        return r_squared(true_numbers(cases), predictions[VALUE].to_numpy(float))

    @property
    def sets(self) -> Intervals:
        """Intervals around the predicted number."""
        return Intervals()

    def fit_baselines(
        self,
        train: pd.DataFrame,
        genes: Float[np.ndarray, "m g"] | None,
        slides: pd.DataFrame | None,
        *,
        seed: int,
    ) -> NumberBaselines:
        """Ridge models of clinical columns and of genes."""
        return NumberBaselines.fit(train, train[self.column].to_numpy(float), genes, seed=seed)

    def restore_baselines(self, described: Mapping[str, Any]) -> NumberBaselines:
        """From a model folder."""
        return NumberBaselines.from_json(described)

    def evidence(self, logits: Float[Tensor, "B 1"], of: Float[Tensor, " 1"]) -> Float[Tensor, " B"]:
        """The number in standard deviations."""
        return logits[:, 0]

    def output(self, logits: Float[Tensor, "B 1"], of: Float[Tensor, " 1"]) -> Float[Tensor, " B"]:
        """The number in the label's unit."""
        return self.mean + self.sd * logits[:, 0]


class Intervals(PredictionSets):
    """Split-conformal intervals; the score is |label − prediction| over the model's error on left-out training cases.

    Lei et al. 2018, "Distribution-free predictive inference for regression", JASA 113, section 5; calibrated on out-of-fold
    predictions (see `pipeline.metrics.conformal`). Dividing by the error makes the scores of fold models alike, of which one
    may be better than another. An interval is text, `LOW to HIGH`.
    """

    method = "error over the model's own error, calibrated on out-of-fold predictions"

    def scores(self, cases: pd.DataFrame) -> Float[np.ndarray, " n"]:
        """The absolute error of each case over that of its model."""
        return np.abs(true_numbers(cases) - cases[VALUE].to_numpy(float)) / cases[ERROR].to_numpy(float)

    def sets(self, predictions: pd.DataFrame, thresholds: Float[np.ndarray, " n"]) -> list[str]:
        """The prediction ± the threshold times the model's error; `any` where the threshold is infinite."""
        values, widths = predictions[VALUE].to_numpy(float), thresholds * predictions[ERROR].to_numpy(float)
        return [
            f"{value - width:.6g}{TO}{value + width:.6g}" if math.isfinite(width) else ANY
            for value, width in zip(values, widths, strict=True)
        ]

    def covered(self, sets: Sequence[str], cases: pd.DataFrame) -> Bool[np.ndarray, " n"]:
        """Whether each interval contains the case's number."""
        low, high = _ends(sets)
        truth = true_numbers(cases)
        return (low <= truth) & (truth <= high)

    def sizes(self, sets: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Width of each interval, in the label's unit."""
        low, high = _ends(sets)
        return high - low


class Regression(Task):
    """A column of numbers."""

    kind = "regression"
    fitted_type: ClassVar[type[FittedRegression]] = FittedRegression
    metrics_type: ClassVar[type[CaseMetrics]] = RegressionMetrics
    summary_metrics = ("r2", "spearman", "mae")
    output_name = "the predicted number"
    evidence_name = "the predicted number"
    evidence_definition = "the predicted number in standard deviations of the training cases"
    evidence_effect = "raises the predicted number"

    @classmethod
    def recognise(cls, columns: pd.DataFrame) -> str | None:
        """One column of numbers."""
        values = columns.iloc[:, 0].dropna().map(text_of)
        if columns.shape[1] > 1 or not len(values) or any(read_number(value) is None for value in values):
            return None
        return f"{values.nunique()} different numbers"

    def read(self, table: LabelTable) -> pd.DataFrame:
        """The number of each case; text is refused."""
        (column,) = self.spec.column
        return pd.DataFrame({self.name: table.numbers(column)})

    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Raise InputError where every number is the same; warn where few numbers differ."""
        self.require_cases(len(labels), folds)
        different = labels[self.name].nunique()
        if different < 2:
            raise InputError(
                f"task {self.name}: every one of the {len(labels)} labelled cases has {labels[self.name].iloc[0]:g}: nothing to "
                "learn; leave the task out by naming the others with --task"
            )
        code = describe_missing_code(labels[self.name])
        warnings = [f"task {self.name}: {code}"] if code else []
        if different < QUANTILES:
            warnings.append(
                f"task {self.name}: {different} different numbers in {count(len(labels), 'case')}; if they are classes, use "
                f"--task {self.name}={self.spec.column[0]}:classification"
            )
        return warnings

    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Raise InputError where all training cases have the same number; warn where all test cases have."""
        if train[self.name].nunique() < 2:
            raise InputError(
                f"task {self.name}: every training case of fold {number} has {train[self.name].iloc[0]:g}; use other splits, "
                "or fewer folds"
            )
        if test[self.name].nunique() < 2:
            return [f"task {self.name}: all test cases of fold {number} have the same number, and thus no R²"]
        return []

    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """Fifths of the label."""
        order = labels[self.name].rank(method="first") - 1
        return (order * QUANTILES // max(1, len(order))).astype(int).astype(str)

    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedRegression:
        """Mean and standard deviation of the training cases' label."""
        values = labels[self.name].to_numpy(float)
        return self.fitted_type(self.name, float(values.mean()), float(values.std()) or 1.0)

    def restore(self, fitted: Mapping[str, Any]) -> FittedRegression:
        """From a model folder."""
        mean, sd, error = (float(fitted[name]) for name in ("mean", "sd", "error"))
        if fitted["column"] != self.name or not math.isfinite(mean) or not (0 < sd < math.inf and 0 < error < math.inf):
            raise ValueError(f"a label {fitted['column']} with mean {mean}, standard deviation {sd} and error {error}")
        return self.fitted_type(self.name, mean, sd, error)

    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """The number, as short as it is exact."""
        return labels[self.name].astype(float).map(repr)

    def summary(self, labels: pd.DataFrame) -> str:
        """Range and median."""
        values, unit = labels[self.name], f" {self.spec.unit}" if self.spec.unit else ""
        return f"{values.min():.4g} to {values.max():.4g}{unit}, median {values.median():.4g}"

    def worth_explaining(self, predictions: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
        """The highest and the lowest prediction; where labels are known, those that are too high or too low."""
        ordered = predictions[VALUE].astype(float).sort_values(ascending=False, kind="stable").index
        yield "highest prediction", list(ordered)
        yield "lowest prediction", list(ordered[::-1])
        if "label" not in predictions:
            return
        known = predictions.dropna(subset=["label"])
        error = (known[VALUE].astype(float) - true_numbers(known)).sort_values(ascending=False, kind="stable")
        yield "prediction too high", list(error.index[error > 0])
        yield "prediction too low", list(error.index[error < 0][::-1])


def true_numbers(cases: pd.DataFrame) -> Float[np.ndarray, " n"]:
    """The labels of cases as numbers."""
    return cases["label"].astype(float).to_numpy()


def _predictions(values: Float[np.ndarray, " n"], error: float | Float[np.ndarray, " n"]) -> pd.DataFrame:
    return pd.DataFrame({"prediction": [f"{value:.5g}" for value in values], VALUE: values, ERROR: error})


def _ends(sets: Sequence[str]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Lower and upper ends."""
    ends = [one.split(TO) if one != ANY else ("-inf", "inf") for one in sets]
    return np.array([float(low) for low, _ in ends]), np.array([float(high) for _, high in ends])
