"""The contract of a task: what its labels are, what is predicted, and how predictions are evaluated and explained.

A task is one module with two classes. A `Task` is known before any case is: which columns hold its label, how folds are
stratified. A `FittedTask` is fitted to a fold's training cases (time bins, classes, weights) and saved in the
model folder. Everything above this package works with any task that keeps this contract:

    labels --encode--> targets --loss--> training;   logits --decode--> predictions --evaluate--> metrics

Tables. `labels` are clinical columns, a row per case, indexed by case id. `predictions` are rows of `predictions.csv`.
`cases` are predictions of cases whose label is known, with the columns `label` and `Task.truth_columns`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from models.loss_config import LossConfig
from pipeline.baselines.contract import TaskBaselines
from pipeline.baselines.genomic import GeneScores
from pipeline.metrics import Bootstrap, CaseMetrics, Metric, PredictorReport, Statistic, paired_difference
from pipeline.metrics.small_samples import reach_over_folds
from pipeline.tasks.spec import TaskSpec
from preprocessing.io.errors import InputError, count
from preprocessing.labels.columns import LabelTable

if TYPE_CHECKING:  # a plan needs no torch, which takes seconds to import
    from torch import Tensor

OUTCOME = ("survival_months", "event")  # known years after the diagnosis; never an input


class PredictionSets(ABC):
    """Conformal sets of a task: what a case may be, at a promised coverage; see `pipeline.metrics.conformal`."""

    method: ClassVar[str]  # how they are made, in a few words

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of several labels that have a set each; then scores, thresholds and coverage have a column for each. Else empty."""
        return ()

    @abstractmethod
    def scores(self, cases: pd.DataFrame) -> Float[np.ndarray, "n ..."]:
        """Nonconformity of each case's true label; higher: further from what was predicted. NaN where one of several is unknown."""

    @abstractmethod
    def sets(self, predictions: pd.DataFrame, thresholds: Float[np.ndarray, "n ..."]) -> list[str]:
        """The set of each case, as text: all labels whose score is at most the case's threshold (may be infinite)."""

    @abstractmethod
    def covered(self, sets: Sequence[str], cases: pd.DataFrame) -> Bool[np.ndarray, " n"] | Float[np.ndarray, "n L"]:
        """Whether the set of each case contains its label; of several labels 1, 0, or NaN where it is unknown."""

    @abstractmethod
    def sizes(self, sets: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Size of each set; of several labels the mean over them."""


class FittedTask(ABC):
    """A task whose time bins, classes and weights are known from training cases."""

    headline: ClassVar[str]  # the metric that models are compared by; higher is better
    chance: ClassVar[
        float | None
    ]  # its value for predictions that are unrelated to the label; None: there is no such value
    difference_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)  # in which a difference of two headline metrics lies

    # --- training

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """The model's K."""

    @abstractmethod
    def encode(self, labels: pd.DataFrame) -> Float[np.ndarray, "n t"]:
        """Targets of cases, in the form that `loss` takes."""

    @abstractmethod
    def loss(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B t"]) -> Float[Tensor, ""]:
        """Mean loss of a batch."""

    def trained_with(self, loss: LossConfig) -> FittedTask:
        """The same task with these settings of its loss; those that are another task's leave it as it is."""
        return self

    @abstractmethod
    def score(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B t"]) -> float:
        """How right the logits of a batch are; higher is better, NaN where its cases do not define it."""

    @abstractmethod
    def calibrated(self, logits: Float[np.ndarray, "n K"], labels: pd.DataFrame | None) -> FittedTask:
        """The same task once the model's outputs for training cases are known: where risk groups are cut, scale of curves.

        Args:
            logits: of n training cases.
            labels: of these cases, where each was predicted without having been trained on; None where it was trained on.
        """

    def gene_scores(self, genes: Float[np.ndarray, "n g"], labels: pd.DataFrame, *, seed: int) -> GeneScores | None:
        """Scores that are linear in the genes of training cases; None for a task that has none, or where they cannot be fitted."""
        return None

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything that was fitted, for the model folder."""

    # --- prediction

    @abstractmethod
    def decode(self, logits: Float[np.ndarray, "n K"]) -> pd.DataFrame:
        """Predictions: a row per case, `prediction` and the task's numbers: columns of `predictions.csv`."""

    def with_ensemble_sd(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The predictions of an ensemble with `ensemble_sd`, the members' disagreement, beside them.

        Args:
            predictions: of the ensemble, as `decode` or `pool` returns them.
            members: of each member for the same cases; of a single one it is missing.
        """
        return predictions.assign(ensemble_sd=self.disagreement(predictions, members) if len(members) > 1 else np.nan)

    @abstractmethod
    def disagreement(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> Float[np.ndarray, " n"]:
        """Standard deviation over several members of what is predicted of each of n cases."""

    @abstractmethod
    def joined(self, others: Sequence[FittedTask]) -> FittedTask:
        """The task of several models that answer together: what was fitted, averaged over this one and the others."""

    def pool(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean of several models' predictions of the same cases, decided by this (`joined`) task; one model's as they are."""
        return parts[0] if len(parts) == 1 else self.mean_prediction(parts)

    @abstractmethod
    def mean_prediction(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean of several models' predictions, in the columns of `decode`."""

    @abstractmethod
    def agrees_with(self, other: FittedTask) -> bool:
        """Whether models of both can answer together: their predictions have the same columns."""

    def predict(self, logits: Float[np.ndarray, "n K"], members: Float[np.ndarray, "E n K"]) -> pd.DataFrame:
        """Predictions of one ensemble, with the disagreement of its E members."""
        return self.with_ensemble_sd(self.decode(logits), [self.decode(member) for member in members])

    # --- evaluation

    def training_columns(self) -> dict[str, Any]:
        """What metrics need to know of the model's training cases, by column: the same value for each of its predictions."""
        return {}

    def evaluable(self, predictions: pd.DataFrame) -> pd.Series:
        """True for the labelled cases whose label the model could have predicted."""
        return pd.Series(True, predictions.index)

    @abstractmethod
    def evaluate(
        self,
        cases: pd.DataFrame,
        predictions: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> PredictorReport[Any]:
        """Metrics with 95 % intervals over cases, pooled and by fold.

        Args:
            cases: the truth.
            predictions: of the same cases in the same order, `training_columns` included.
            folds: the fold that tested each case; None where one model predicted all.
            bootstrap: resamples behind the intervals.
        """

    @abstractmethod
    def headline_statistic(
        self, cases: pd.DataFrame, predictions: pd.DataFrame, *, folds: Int[np.ndarray, " n"] | None
    ) -> Statistic:
        """The headline metric of `evaluate`, without an interval; the same arguments."""

    def difference(
        self,
        cases: pd.DataFrame,
        first: pd.DataFrame,
        second: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> Metric:
        """How much higher the headline metric of the first predictions is than the second's, on the same resamples.

        Of cross-validated predictions the interval is at least that of the corrected resampled t-test over folds: what
        another draw of training cases, or another seed, would change.
        """
        first, second = (self.on_common_scale(predictions, folds) for predictions in (first, second))
        difference = paired_difference(
            lambda predictions: self.headline_statistic(cases, predictions, folds=folds),
            first,
            second,
            bootstrap=bootstrap,
        )
        if folds is None or difference.value is None or difference.low is None or difference.high is None:
            return difference
        by_fold = []
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            ours, theirs = (
                self.headline_statistic(cases.iloc[rows], predictions.iloc[rows], folds=None).value
                for predictions in (first, second)
            )
            by_fold.append(ours - theirs)
        reach = reach_over_folds(np.array(by_fold))
        least, most = self.difference_range
        low = max(min(difference.low, difference.value - reach), least)
        high = min(max(difference.high, difference.value + reach), most)
        return Metric(difference.value, low, high)

    def on_common_scale(self, predictions: pd.DataFrame, folds: Int[np.ndarray, " n"] | None) -> pd.DataFrame:
        """The predictions on a scale that all predictors share, with the same headline metric; as they are, if they have one.

        Args:
            predictions: of n cases.
            folds: the fold that tested each case; None where one model predicted all.
        """
        return predictions

    @property
    def sets(self) -> PredictionSets | None:
        """Conformal prediction sets; None for a task without."""
        return None

    # --- baselines

    def fit_baselines(
        self,
        train: pd.DataFrame,
        genes: Float[np.ndarray, "m g"] | None,
        slides: pd.DataFrame | None,
        *,
        seed: int,
    ) -> TaskBaselines | None:
        """Simple predictors of the same training cases; None for a task without.

        Args:
            train: clinical columns and labels of the m training cases.
            genes: their scaled genes; None without.
            slides: their predictions by a model of slides only; None without.
            seed: of inner folds.
        """
        return None

    def restore_baselines(self, described: Mapping[str, Any]) -> TaskBaselines:
        """What `TaskBaselines.to_json` returned, read back; ValueError where it is unsound."""
        raise ValueError("baselines of a task that has none")

    # --- explanation

    @abstractmethod
    def evidence(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """How far logits speak for what `of` predicts, additive and unbounded: what attributions refer to."""

    @abstractmethod
    def output(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The one number that is reported of a case: the probability of the class that `of` predicts, or the risk."""


class Task(ABC):
    """What is predicted, before any case was seen.

    A kind of task is a subclass, registered by its `kind`; a task of that kind is made of a name and a definition.

    Args:
        name: of the task.
        spec: its columns, and how they are read.
    """

    kind: ClassVar[str]  # by which definitions name it; also of its report: which charts and tables are drawn
    label_columns: tuple[str, ...]  # of the table of labels
    truth_columns: tuple[
        str, ...
    ] = ()  # of predictions.csv, which hold the truth as `evaluate` needs it, besides `label`
    partial_columns: ClassVar[tuple[str, ...]] = ()  # of predictions, which may lack numbers
    metrics_type: ClassVar[type[CaseMetrics]]  # of the reports of `FittedTask.evaluate`
    summary_metrics: ClassVar[tuple[str, ...]]  # of those, for the table in the terminal
    atlas_column: ClassVar[str | None] = (
        None  # predictions by which the tiles of a prototype are counted, and their name
    )
    output_name: ClassVar[str]  # what `FittedTask.output` is
    evidence_name: ClassVar[str]  # what `FittedTask.evidence` is
    evidence_definition: ClassVar[str]  # how it is computed
    evidence_effect: ClassVar[str]  # what a positive contribution to the evidence does

    def __init__(self, name: str, spec: TaskSpec) -> None:
        self.name, self.spec = name, spec
        self.label_columns = (name,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and (self.name, self.kind, self.spec) == (other.name, other.kind, other.spec)

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.spec))

    @property
    def excluded_covariates(self) -> frozenset[str]:
        """Clinical columns that are, define or follow the label: never inputs of the task."""
        return frozenset((*OUTCOME, *self.label_columns, *self.spec.column, *self.spec.excludes))

    @property
    def related_columns(self) -> frozenset[str]:
        """Clinical columns from which the label is read, or that define it: no baseline sees them either."""
        return frozenset((*self.spec.column, *self.spec.excludes)) - frozenset(self.label_columns)

    def to_json(self) -> dict[str, Any]:
        """Name, kind and definition as JSON, of which `pipeline.tasks.restore_task` makes the task again."""
        return {"name": self.name, **self.spec.model_dump(mode="json"), "kind": self.kind}

    # --- reading labels

    @classmethod
    def recognise(cls, columns: pd.DataFrame) -> str | None:
        """Say why the values of these columns are labels of this kind, in a few words; None where they are not."""
        return None

    @abstractmethod
    def read(self, table: LabelTable) -> pd.DataFrame:
        """Read the columns of the definition; raises InputError where values are not of this kind.

        Args:
            table: all columns of the clinical table, those of the definition among them.

        Returns:
            `label_columns`, indexed as the table; missing where a case has no label.
        """

    # --- planning

    def prepare(self, labels: pd.DataFrame) -> pd.DataFrame:
        """The table of labels with the task's under the names that the other methods read."""
        return labels

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
    def strata(self, labels: pd.DataFrame) -> pd.Series | pd.DataFrame:
        """The stratum of each case, or several: a boolean column each. Folds contain about the same share of each."""

    def class_names(self, labels: pd.DataFrame) -> dict[str, str]:
        """The class of each labelled case by its id; empty for a task without classes."""
        return {}

    def vocabulary(self, labels: pd.DataFrame) -> tuple[str, ...]:
        """What all folds must agree on before they are fitted: the classes that occur; nothing for most tasks."""
        return ()

    @abstractmethod
    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedTask:
        """The task fitted on training cases only."""

    @abstractmethod
    def restore(self, fitted: Mapping[str, Any]) -> FittedTask:
        """The fitted task of a model folder, from what `to_json` returned; ValueError where it is unsound."""

    @abstractmethod
    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """The label of each case as text: the column `label` of `predictions.csv`."""

    def truth(self, labels: pd.DataFrame) -> pd.DataFrame:
        """The columns of `predictions.csv` that hold the truth of labelled cases: `label` and `truth_columns`."""
        return labels[list(self.truth_columns)].assign(label=self.describe(labels))

    def summary(self, labels: pd.DataFrame) -> str:
        """The labels of a run in a few words, for the terminal; may be empty."""
        return ""

    def on_cases(self, labels: pd.DataFrame, labelled: Collection[str], *, endpoint: str) -> list[str]:
        """Sentences on the cases that are used, for the terminal; those that begin with "warning: " are doubts.

        Args:
            labels: of every case of the input, prepared.
            labelled: ids of the usable cases with a label.
            endpoint: survival endpoint of the recognised columns.
        """
        return []

    @abstractmethod
    def worth_explaining(self, predictions: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
        """Kinds of cases from which most is learned about a model, each with its case ids, the foremost first.

        Args:
            predictions: of the task, indexed by case id, one row per case; truth columns may be missing.
        """

    def certainty(self, predictions: pd.DataFrame) -> pd.Series:
        """How sure each prediction is, 0 to 1; NaN for a task that has no such number."""
        return pd.Series(float("nan"), predictions.index)

    def require_cases(self, n: int, folds: int) -> None:
        """Raise InputError if there are fewer labelled cases than folds."""
        if n < folds:
            raise InputError(
                f"task {self.name}: {count(n, 'case')} with a label for {folds} folds; give fewer with --folds, or more cases"
            )
