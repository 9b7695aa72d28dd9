"""Classes: tumour grade, WHO subtype, or any other column of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from models.loss_config import LossConfig
from pipeline.baselines.class_baselines import ClassBaselines
from pipeline.baselines.genomic import GeneScores, omics_logits
from pipeline.baselines.predictors import NotConvergedError
from pipeline.metrics import (
    Bootstrap,
    CaseMetrics,
    ClassificationMetrics,
    PredictorReport,
    Statistic,
    classification_by_fold,
    classification_metrics,
    macro_auc,
)
from pipeline.metrics.conformal import contains, prediction_sets
from pipeline.tasks.base import FittedTask, PredictionSets, Task
from preprocessing.io.errors import InputError, count, some
from preprocessing.labels.columns import LabelTable, text_of
from preprocessing.labels.spelling import misspelt, perhaps_missing, require_one_spelling
from preprocessing.tables.missing_codes import describe_missing_code
from preprocessing.tables.reading import read_number

if TYPE_CHECKING:  # a plan needs no torch, which takes seconds to import
    from torch import Tensor

log = logging.getLogger(__name__)
PROBABILITY = "probability_"  # and the class: a column of predictions.csv
ALL_LOST = 3  # cases of a class at least, before its loss is warned of
MOST_CLASSES = 12  # that numbers are taken for, where no kind is given
MANY_MORE = 5  # times the cases of a class has the class of which it may be a misspelling
_NUMBER_LIKE = re.compile(r"[-+<>~]?[.,]?\d")


@dataclass(frozen=True)
class FittedClassification(FittedTask):
    """Classes and how many training cases each has.

    Attributes:
        column: the label's column.
        classes: in the order of the model's outputs.
        counts: training cases of each class.
        weighted: whether the loss weighs classes; of no account once the model is trained.
    """

    column: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    weighted: bool = True

    headline: ClassVar[str] = "macro_auc"
    chance: ClassVar[float | None] = 0.5

    @property
    def n_outputs(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of each class in the loss, inverse to its share of the training cases; mean 1 over those cases.

        A class without training cases has weight 1, which is never used; so has each class of an unweighted loss.
        """
        if not self.weighted:
            return (1.0,) * len(self.counts)
        n, present = sum(self.counts), sum(count > 0 for count in self.counts)
        return tuple(float(n / (present * count)) if count else 1.0 for count in self.counts)

    @property
    def columns(self) -> list[str]:
        """Those of the classes' probabilities."""
        return [f"{PROBABILITY}{name}" for name in self.classes]

    def encode(self, labels: pd.DataFrame) -> Float[np.ndarray, "n 1"]:
        """The number of each case's class."""
        return self._numbers(labels[self.column])[:, None].astype(float)

    def loss(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
        """Cross-entropy, weighted unless set otherwise, divided by the number of cases: a case weighs the same in any batch."""
        import torch
        import torch.nn.functional as F

        from models.layers.devices import on_device

        weights = on_device(torch.tensor(self.weights, dtype=logits.dtype), logits.device)
        return F.cross_entropy(logits, targets[:, 0].long(), weight=weights, reduction="sum") / len(logits)

    def trained_with(self, loss: LossConfig) -> FittedClassification:
        """With or without class weights."""
        return replace(self, weighted=loss.class_weights)

    def score(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B 1"]) -> float:
        """The probabilities of the true classes, summed over the batch."""
        return float(logits.detach().float().softmax(1).gather(1, targets.long()).sum())

    def calibrated(self, logits: Float[np.ndarray, "n K"], labels: pd.DataFrame | None) -> FittedClassification:
        """The same: outputs of training cases add nothing."""
        return self

    def gene_scores(self, genes: Float[np.ndarray, "n g"], labels: pd.DataFrame, *, seed: int) -> GeneScores | None:
        """The logits of a ridge logistic model."""
        try:
            return omics_logits(genes, self._numbers(labels[self.column]), self.classes, seed=seed)
        except NotConvergedError as failure:
            log.warning("%s: the model has no linear logits of the genes: %s", self.column, failure)
            return None

    def to_json(self) -> dict[str, Any]:
        """Column, classes and counts."""
        return {"column": self.column, "classes": self.classes, "counts": self.counts}

    def decode(self, logits: Float[np.ndarray, "n K"]) -> pd.DataFrame:
        """The likeliest class and the probability of each."""
        from scipy.special import softmax

        probabilities = softmax(logits.astype(float), axis=1)
        columns = {name: probabilities[:, k] for k, name in enumerate(self.columns)}
        return pd.DataFrame({"prediction": np.array(self.classes)[probabilities.argmax(1)], **columns})

    def disagreement(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> Float[np.ndarray, " n"]:
        """Standard deviation over the members of the predicted class's probability."""
        predicted = self._numbers(predictions["prediction"])
        rows = np.arange(len(predictions))
        each = np.stack([self._probabilities(one)[rows, predicted] for one in members])
        return each.std(axis=0, ddof=1)

    def joined(self, others: Sequence[FittedTask]) -> FittedClassification:
        """With the training cases of all models."""
        counts = np.array([one.counts for one in (self, *others) if isinstance(one, FittedClassification)])
        return replace(self, counts=tuple(int(n) for n in counts.sum(axis=0)))

    def mean_prediction(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean probabilities and the likeliest class by them."""
        mean = pd.DataFrame(np.mean([self._probabilities(part) for part in parts], axis=0), columns=self.columns)
        mean.insert(0, "prediction", np.array(self.classes)[mean.to_numpy().argmax(axis=1)])
        return mean

    def agrees_with(self, other: FittedTask) -> bool:
        """Whether the other has the same classes."""
        return isinstance(other, FittedClassification) and other.classes == self.classes

    def evaluable(self, predictions: pd.DataFrame) -> pd.Series:
        """True where the label is one of the classes."""
        return predictions["label"].isin(self.classes)

    def evaluate(
        self,
        cases: pd.DataFrame,
        predictions: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> PredictorReport[Any]:
        """See `classification_by_fold`; without folds the trivial prediction is the training cases' most frequent class."""
        truth, probabilities = self._numbers(cases["label"]), self._probabilities(predictions)
        if folds is not None:
            return classification_by_fold(truth, probabilities, self.classes, folds, bootstrap)
        majority = np.full(len(truth), int(np.argmax(self.counts)))
        pooled = classification_metrics(truth, probabilities, self.classes, majority=majority, bootstrap=bootstrap)
        return PredictorReport(pooled=pooled, folds=())

    def headline_statistic(
        self, cases: pd.DataFrame, predictions: pd.DataFrame, *, folds: Int[np.ndarray, " n"] | None
    ) -> Statistic:
        """The macro AUC."""
        return macro_auc(self._numbers(cases["label"]), self._probabilities(predictions), self.classes, folds=folds)

    @property
    def sets(self) -> ClassSets:
        """Sets of classes."""
        return ClassSets(self)

    def fit_baselines(
        self,
        train: pd.DataFrame,
        genes: Float[np.ndarray, "m g"] | None,
        slides: pd.DataFrame | None,
        *,
        seed: int,
    ) -> ClassBaselines:
        """Logistic models of clinical columns and of genes."""
        return ClassBaselines.fit(self.classes, train, self._numbers(train[self.column]), genes, seed=seed)

    def restore_baselines(self, described: Mapping[str, Any]) -> ClassBaselines:
        """From a model folder."""
        return ClassBaselines.from_json(self.classes, described)

    def evidence(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The logit of the class over the mean of all classes': what all classes gain alike is no evidence."""
        return logits[:, int(of.argmax())] - logits.mean(1)

    def output(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The probability of the class."""
        return logits.softmax(1)[:, int(of.argmax())]

    def _numbers(self, labels: pd.Series) -> Int[np.ndarray, " n"]:
        """The number of each label's class; −1 for one that is none of them."""
        return pd.Index(self.classes).get_indexer(pd.Index(labels.astype(str))).astype(np.int64)

    def _probabilities(self, predictions: pd.DataFrame) -> Float[np.ndarray, "n K"]:
        return predictions[self.columns].to_numpy(float)


@dataclass(frozen=True)
class ClassSets(PredictionSets):
    """Sets of classes; the score of a class is 1 − its probability. A set is text: its classes, the likeliest first, with `;`."""

    task: FittedClassification

    method: ClassVar[str] = "LAC, calibrated on out-of-fold predictions"

    def scores(self, cases: pd.DataFrame) -> Float[np.ndarray, " n"]:
        """1 − the probability of each case's own class, 0 to 1."""
        truth = self.task._numbers(cases["label"])
        return 1 - self.task._probabilities(cases)[np.arange(len(cases)), truth]

    def sets(self, predictions: pd.DataFrame, thresholds: Float[np.ndarray, " n"]) -> list[str]:
        """Classes whose score is at most the threshold; never empty."""
        return prediction_sets(self.task._probabilities(predictions), thresholds, self.task.classes)

    def covered(self, sets: Sequence[str], cases: pd.DataFrame) -> Bool[np.ndarray, " n"]:
        """Whether each set contains the case's class."""
        return np.array(
            [contains(one, label) for one, label in zip(sets, cases["label"].astype(str), strict=True)], bool
        )

    def sizes(self, sets: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Number of classes in each set."""
        return np.array([one.count(";") + 1 for one in sets], float)


def why_no_classes(values: pd.Series) -> str:
    """Return why the values of a column are no classes, which a user did not name as such; "" where they may be.

    Args:
        values: of the cases, as written.
    """
    there = values.dropna().map(class_name)
    found = there.nunique()
    words = there[there.map(read_number).isna()]
    if found <= MOST_CLASSES or words.empty:
        return ""
    if there.str.match(_NUMBER_LIKE).mean() > 0.5:
        return f'"{words.iloc[0]}" of case {words.index[0]} is not a plain number (use a decimal point)'
    if found > len(there) / 2:
        return f'{found} different words in {len(there)} cases, as "{words.iloc[0]}", are free text or ids'
    return ""


class Classification(Task):
    """A column of classes."""

    kind = "classification"
    fitted_type: ClassVar[type[FittedClassification]] = FittedClassification
    metrics_type: ClassVar[type[CaseMetrics]] = ClassificationMetrics
    summary_metrics = ("macro_auc", "accuracy", "balanced_accuracy")
    output_name = "the probability of the class that is predicted from all inputs"
    evidence_name = "the evidence for the predicted class"
    evidence_definition = "the logit of the predicted class minus the mean of all classes' logits"
    evidence_effect = "supports the predicted class against the others"

    @classmethod
    def recognise(cls, columns: pd.DataFrame) -> str | None:
        """One column of words, or of few whole numbers."""
        values = columns.iloc[:, 0].dropna().map(class_name)
        found = values.nunique()
        if columns.shape[1] > 1 or not found or why_no_classes(columns.iloc[:, 0]):
            return None
        if any(read_number(value) is None for value in values):
            return f"{found} different words" if found > 1 else "one word"
        whole = values.map(lambda value: float(value).is_integer()).all()
        return f"{found} different whole numbers" if whole and found <= MOST_CLASSES else None

    def read(self, table: LabelTable) -> pd.DataFrame:
        """The class of each case as text; missing for a class that is not among those of the definition."""
        (column,) = self.spec.column
        values = table.frame[column].map(class_name, na_action="ignore").astype("string")
        wanted = self.spec.classes
        require_one_spelling(values, f"task {self.name}: column {column} of {table.source}", known=wanted)
        if unknown := sorted(set(wanted) - set(values.dropna())):
            there = some(sorted(values.dropna().unique()))
            raise InputError(
                f"task {self.name}: no case has the class {some(unknown)} in column {column} of {table.source}, which has {there}; "
                f"correct tasks.{self.name}.classes"
            )
        return pd.DataFrame({self.name: values.where(values.isin(wanted)) if wanted else values})

    def class_names(self, labels: pd.DataFrame) -> dict[str, str]:
        """The class of each labelled case by its id."""
        known = labels[self.name].dropna() if self.name in labels else pd.Series(dtype=object)
        return {str(case): class_name(value) for case, value in known.items()}

    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Warn of classes with fewer cases than folds; raise InputError if there is one class only."""
        counts = labels[self.name].astype(str).value_counts()
        self.require_cases(len(labels), folds)
        if len(counts) < 2:
            raise InputError(
                f'task {self.name}: every one of the {len(labels)} labelled cases is "{counts.index[0]}": nothing to learn; '
                "leave the task out by naming the others with --task"
            )
        if single := [name for name, n in counts.items() if n == 1]:
            likely = misspelt(str(single[0]), list(map(str, counts.index)))
            raise InputError(
                f'task {self.name}: class "{single[0]}" has one case, which cannot be both learned and tested; '
                f"{f'correct it if it is meant as {likely}, ' if likely else ''}merge the class "
                f"with another, or leave it empty (of a task of your own, name the classes to be used as tasks.{self.name}.classes)"
            )
        few = [
            f'task {self.name}: class "{name}" has {n} cases for {folds} folds, so some folds test none of it; '
            "use fewer folds (--folds) or merge classes"
            for name, n in counts.items()
            if n < folds
        ]
        numbers = labels[self.name].astype(str).map(read_number)
        code = "" if self.spec.classes or numbers.isna().any() else describe_missing_code(numbers)
        coded = [f"task {self.name}: {code}"] if code else []
        return few + coded + self._misspelt(counts) + self._perhaps_missing(counts)

    def _misspelt(self, counts: pd.Series) -> list[str]:
        """A warning of a class that may be a misspelling of one with many more cases."""
        found = []
        for name, n in counts.items():
            if likely := misspelt(str(name), [str(other) for other, m in counts.items() if m >= MANY_MORE * n]):
                found.append(
                    f'task {self.name}: class "{name}" ({count(int(n), "case")}) is spelt almost like "{likely}" '
                    f"({count(int(counts[likely]), 'case')}); correct it if they are the same"
                )
        return found

    def _perhaps_missing(self, counts: pd.Series) -> list[str]:
        """A warning of each class that may stand for a missing value, unless the definition lists the classes."""
        doubtful = [] if self.spec.classes else perhaps_missing({str(name): int(n) for name, n in counts.items()})
        return [
            f'task {self.name}: class "{name}" ({count(int(counts[name]), "case")}) may stand for a missing value; leave the cell '
            f"empty if it does, or list the classes in tasks.{self.name}.classes"
            for name in doubtful
        ]

    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Raise InputError if all training cases are of one class; warn of classes that are tested, but not trained on."""
        trained, tested = (set(labels[self.name].astype(str)) for labels in (train, test))
        if len(trained) < 2:
            raise InputError(
                f'task {self.name}: every training case of fold {number} is "{min(trained)}"; use other splits, or fewer folds'
            )
        return [
            f'task {self.name}: class "{name}" has no training case in fold {number}, so its test cases of this class cannot be '
            "predicted correctly"
            for name in sorted(tested - trained)
        ]

    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """The class."""
        return labels[self.name].astype(str)

    def vocabulary(self, labels: pd.DataFrame) -> tuple[str, ...]:
        """The classes in the order of the definition, else sorted; of two, the positive one last."""
        classes = list(self.spec.classes or sorted(labels[self.name].dropna().astype(str).unique(), key=_order))
        if (positive := self.spec.positive) is None:
            return tuple(classes)
        if positive not in classes or len(classes) != 2:
            raise InputError(
                f'task {self.name}: positive class "{positive}" needs two classes, of which it is one; there are '
                f"{', '.join(classes)}"
            )
        return (*(name for name in classes if name != positive), positive)

    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedClassification:
        """The classes with their number of training cases."""
        counts = labels[self.name].astype(str).value_counts()
        return self.fitted_type(self.name, vocabulary, tuple(int(counts.get(name, 0)) for name in vocabulary))

    def restore(self, fitted: Mapping[str, Any]) -> FittedClassification:
        """From a model folder."""
        classes, counts = tuple(map(str, fitted["classes"])), tuple(map(int, fitted["counts"]))
        if fitted["column"] != self.name or len(set(classes)) != len(counts) or len(classes) < 2:
            raise ValueError(f"{len(classes)} classes of {fitted['column']} with {len(counts)} counts")
        if min(counts) < 0 or sum(counts) == 0:
            raise ValueError(f"training cases of the classes: {counts}")
        return self.fitted_type(self.name, classes, counts)

    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """The class."""
        return labels[self.name].astype("string")

    def summary(self, labels: pd.DataFrame) -> str:
        """The classes."""
        return f"classes {', '.join(self.vocabulary(labels))}"

    def on_cases(self, labels: pd.DataFrame, labelled: Collection[str], *, endpoint: str) -> list[str]:
        """A warning of classes that the tables have and the used cases have not."""
        every = labels[self.name].dropna()
        there = set(every.loc[every.index.isin(list(labelled))])
        gone = {name: n for name, n in every.value_counts().items() if name not in there and n >= ALL_LOST}
        if not gone:
            return []
        classes = ", ".join(f"{name} ({count(n, 'case')})" for name, n in gone.items())
        return [
            f"warning: task {self.name}: every case of {classes} is left out or lacks inputs: nothing of the class is left"
        ]

    def worth_explaining(self, predictions: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
        """The most and the least certain cases, among those that are right and those that are wrong where that is known."""
        by_certainty = self.certainty(predictions).sort_values(ascending=False, kind="stable").index
        groups = {"": by_certainty}
        if "label" in predictions:
            labelled = predictions.loc[by_certainty].dropna(subset=["label"])
            is_right = labelled["label"].astype(str) == labelled["prediction"].astype(str)
            groups = {", right": labelled.index[is_right], ", wrong": labelled.index[~is_right]}
        for verdict, cases in groups.items():
            yield f"most certain{verdict}", list(cases)
            yield f"least certain{verdict}", list(cases[::-1])

    def certainty(self, predictions: pd.DataFrame) -> pd.Series:
        """The probability of the likeliest class of each row."""
        columns = [name for name in map(str, predictions.columns) if name.startswith(PROBABILITY)]
        return predictions[columns].max(axis=1)


def class_name(value: object) -> str:
    """A cell as the name of a class: whole numbers without a point, so that 1.0 is "1"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return text_of(value)


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, before words."""
    number = read_number(name)
    return (float("inf") if number is None else number), name
