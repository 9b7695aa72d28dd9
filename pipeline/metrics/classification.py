"""Metrics of predicted class probabilities.

A class that no case belongs to leaves the averages over classes undefined: they are None with that reason, never a mean
over the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.metrics.bootstrap import (
    BOOTSTRAP,
    Bootstrap,
    Draws,
    Metric,
    Statistic,
    Weights,
    agreement,
    divide,
    mean_area,
    measure,
    not_finite,
    ratio_of_pairs,
    ratio_of_sums,
    undefined,
)
from pipeline.metrics.report import CaseMetrics, Part, PredictorReport, Trivial, report_by_fold
from pipeline.metrics.small_samples import is_cross_validated
from preprocessing.io.errors import count

CALIBRATION_BINS = 15  # Guo et al. 2017, section 4

Labels = Int[np.ndarray, " n"]
Probabilities = Float[np.ndarray, "n k"]


class ClassRates(Part):
    """One class against the others."""

    n: int
    sensitivity: Metric
    specificity: Metric


class ConfusionMatrix(Part):
    """How many cases of each class (rows) were predicted as each class (columns); None with the reason why."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...] | None
    reason: str | None = None


class ClassificationMetrics(CaseMetrics):
    """Metrics of classes.

    Attributes:
        accuracy: share of cases whose class is predicted.
        balanced_accuracy: mean sensitivity of the classes.
        macro_f1: mean F1 of the classes.
        macro_auc: mean of the classes' areas under the ROC curve, one against the rest; the headline, 0.5 is chance.
        micro_auc: area of all (case, class) entries; chance is above 0.5 where classes are not equally frequent.
        brier: 0 is best, 2 is worst.
        calibration_error: expected calibration error, 0 is best.
        macro_auc_across_folds: over all pairs, where the others are of pairs within a fold; else None.
        micro_auc_across_folds: likewise.
        per_class: by class.
        confusion: counts.
    """

    accuracy: Metric
    balanced_accuracy: Metric
    macro_f1: Metric
    macro_auc: Metric
    micro_auc: Metric
    brier: Metric
    calibration_error: Metric
    macro_auc_across_folds: Metric | None = None
    micro_auc_across_folds: Metric | None = None
    per_class: dict[str, ClassRates]
    confusion: ConfusionMatrix

    def basis(self) -> str:
        """Cases, and how many of each class."""
        return f"{count(self.n, 'case')}: " + ", ".join(
            f"{rates.n} of class {name}" for name, rates in self.per_class.items()
        )


def accuracy(labels: Labels, predicted: Labels) -> Statistic:
    """The share of cases whose class is the predicted one."""
    from sklearn.metrics import accuracy_score

    return replace(ratio_of_sums((labels == predicted).astype(float)), point=float(accuracy_score(labels, predicted)))


def balanced_accuracy(labels: Labels, predicted: Labels, classes: Sequence[str]) -> Statistic:
    """The mean of the classes' sensitivities; 1 / n_classes is chance. None if a class has no case."""

    def mean_recall(table: Float[np.ndarray, "b k k"]) -> Draws:
        return divide(np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2)).mean(axis=1)

    from sklearn.metrics import balanced_accuracy_score

    return _of_confusion(labels, predicted, classes, mean_recall, balanced_accuracy_score)


def macro_f1(labels: Labels, predicted: Labels, classes: Sequence[str]) -> Statistic:
    """The mean over classes of 2TP / (2TP + FP + FN). None if a class has no case."""

    def mean_f1(table: Float[np.ndarray, "b k k"]) -> Draws:
        hits = np.diagonal(table, axis1=1, axis2=2)
        scores = divide(2 * hits, table.sum(axis=2) + table.sum(axis=1))
        return np.where((table.sum(axis=2) > 0).all(axis=1), scores.mean(axis=1), np.nan)

    from sklearn.metrics import f1_score

    library = partial(f1_score, labels=np.arange(len(classes)), average="macro", zero_division=0)
    return _of_confusion(labels, predicted, classes, mean_f1, library)


def macro_auc(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    *,
    folds: Int[np.ndarray, " n"] | None = None,
) -> Statistic:
    """The mean over classes of the one-vs-rest area under the ROC curve; 0.5 is chance. Equal probabilities count half.

    Args:
        labels: class numbers.
        probabilities: of the classes.
        classes: their names.
        folds: compare pairs of cases of one fold only; None: all pairs.
    """
    n, n_classes = probabilities.shape
    reason = not_finite("probabilities", probabilities) or _class_missing(labels, classes)
    if reason:
        return undefined(n, reason)
    same = _same_fold(n, folds)
    agree = [agreement(probabilities[:, k], probabilities[:, k]) for k in range(n_classes)]
    pairs = [(labels == k)[:, None] * (labels != k)[None, :] * same for k in range(n_classes)]
    rarest = int(np.bincount(labels, minlength=n_classes).min())
    areas = list(zip(agree, pairs, strict=True))
    statistic = mean_area(areas, folds, positives=rarest, negatives=n - rarest, positive="case of the rarest class")
    if not np.isfinite(statistic.value):
        return undefined(n, "one of the classes never shares a fold with another")
    if folds is not None:
        return statistic
    from sklearn.metrics import roc_auc_score

    return replace(statistic, point=float(roc_auc_score(np.eye(n_classes)[labels], probabilities, average="macro")))


def micro_auc(
    labels: Labels,
    probabilities: Probabilities,
    *,
    folds: Int[np.ndarray, " n"] | None = None,
    majority: Labels | None = None,
) -> Statistic:
    """The area under the ROC curve of all (case, class) entries taken as one binary question.

    Chance is 0.5 where classes are equally frequent, and more elsewhere: of two classes of 80 and 20 % of the cases, 0.8 is
    reached by calling every case the more frequent one.

    Args:
        labels: class numbers.
        probabilities: of the classes.
        folds: compare entries of one fold only; None: all pairs.
        majority: the trivial prediction of each case, whose area is chance; None: chance is taken to be 0.5.
    """
    n, n_classes = probabilities.shape
    reason = not_finite("probabilities", probabilities)
    if reason:
        return undefined(n, reason)
    of_truth = probabilities[np.arange(n), labels]
    same = _same_fold(n, folds)
    wins = sum(agreement(of_truth, probabilities[:, k]) * (labels != k)[None, :] for k in range(n_classes))
    chance = None
    if is_cross_validated(folds):
        chance = 0.5 if majority is None else micro_auc(labels, np.eye(n_classes)[majority], folds=folds).value
    return replace(ratio_of_pairs(wins / (n_classes - 1), same), chance=chance, share_of=n)


def brier(labels: Labels, probabilities: Probabilities) -> Statistic:
    """Σ over classes of (probability − truth)², averaged over cases: 0 is best, 2 is worst (Brier 1950)."""
    reason = not_finite("probabilities", probabilities)
    if reason:
        return undefined(len(labels), reason)
    return ratio_of_sums(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))


def calibration_error(labels: Labels, probabilities: Probabilities) -> Statistic:
    """Expected calibration error: mean gap between the top class's probability and how often it is right; 0 is best.

    15 bins of equal width (Guo et al. 2017, equation 3). Small samples push it up, and resamples further still: its
    interval may lie above the value.
    """
    reason = not_finite("probabilities", probabilities)
    if reason:
        return undefined(len(labels), reason)
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    numbers = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.eye(CALIBRATION_BINS)[numbers] * gap[:, None]  # (n, bins)
    return Statistic(lambda weights: np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1), len(labels))


def classification_metrics(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    *,
    majority: Labels | None = None,
    folds: Int[np.ndarray, " n"] | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> ClassificationMetrics:
    """All classification metrics of n cases with 95 % intervals over cases.

    Args:
        labels: class numbers, 0…K−1.
        probabilities: of the K classes, rows add up to 1; NaN where a model failed makes the metrics None with that
            reason.
        classes: names.
        majority: for each case the most frequent class among the training cases of its model: the trivial prediction;
            None: no metrics of it.
        folds: given for pooled out-of-fold cases: AUCs compare pairs of cases within a fold only. Across folds a model
            that has learnt nothing but the classes' shares is below chance, since a fold rich in a class leaves few of
            it for training.
        bootstrap: resamples behind the intervals.
    """
    weights = bootstrap.weights(len(labels))
    reason = not_finite("probabilities", probabilities)
    predicted = np.zeros_like(labels) if reason else probabilities.argmax(axis=1)
    soft = {
        "macro_auc": macro_auc(labels, probabilities, classes, folds=folds),
        "micro_auc": micro_auc(labels, probabilities, folds=folds, majority=majority),
        "brier": brier(labels, probabilities),
        "calibration_error": calibration_error(labels, probabilities),
    }
    if folds is not None:
        chance = 0.5 if is_cross_validated(folds) else None
        soft["macro_auc_across_folds"] = replace(macro_auc(labels, probabilities, classes), chance=chance)
        soft["micro_auc_across_folds"] = replace(micro_auc(labels, probabilities), chance=soft["micro_auc"].chance)
    counts = None if reason else confusion(labels, predicted, len(classes)).tolist()
    return ClassificationMetrics(
        n=len(labels),
        trivial=None if majority is None else _trivial(labels, classes, majority, weights, folds),
        per_class={name: _per_class(labels == k, predicted == k, weights, reason) for k, name in enumerate(classes)},
        confusion=ConfusionMatrix(classes=tuple(classes), counts=counts, reason=reason),
        **_hard_metrics(labels, predicted, classes, weights, reason),
        **{name: measure(statistic, weights) for name, statistic in soft.items()},
    )


def classification_by_fold(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    folds: Int[np.ndarray, " n"],
    bootstrap: Bootstrap = BOOTSTRAP,
) -> PredictorReport[ClassificationMetrics]:
    """Classification metrics of each fold's test cases and of all out-of-fold cases pooled.

    The trivial prediction of a case is the most frequent class outside its own fold.

    Args:
        labels: class numbers.
        probabilities: out-of-fold, of the K classes.
        classes: names.
        folds: the fold in which each case was a test case.
        bootstrap: resamples behind the intervals.
    """
    majority = np.zeros_like(labels)
    for fold in np.unique(folds):
        majority[folds == fold] = most_frequent(labels[folds != fold])

    def compute(chosen: Bool[np.ndarray, " n"], fold: int | None) -> ClassificationMetrics:
        return classification_metrics(
            labels[chosen],
            probabilities[chosen],
            classes,
            majority=majority[chosen],
            folds=folds if fold is None else None,
            bootstrap=bootstrap,
        )

    return report_by_fold(compute, folds, headline="macro_auc")


def most_frequent(labels: Int[np.ndarray, " m"]) -> int:
    """The most frequent class; of several the first."""
    return int(np.bincount(labels).argmax()) if len(labels) else 0


def confusion(labels: Labels, predicted: Labels, n_classes: int) -> Int[np.ndarray, "k k"]:
    """How many cases of each class (rows) were predicted as each class (columns)."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predicted, labels=np.arange(n_classes))


def _hard_metrics(
    labels: Labels, predicted: Labels, classes: Sequence[str], weights: Weights, reason: str | None = None
) -> dict[str, Metric]:
    statistics = {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": balanced_accuracy(labels, predicted, classes),
        "macro_f1": macro_f1(labels, predicted, classes),
    }
    return {
        name: measure(undefined(len(labels), reason) if reason else statistic, weights)
        for name, statistic in statistics.items()
    }


def _per_class(
    truth: Bool[np.ndarray, " n"], predicted: Bool[np.ndarray, " n"], weights: Weights, reason: str | None
) -> ClassRates:
    def share(hit: Bool[np.ndarray, " n"], of: Bool[np.ndarray, " n"], whom: str) -> Metric:
        missing = reason or (None if of.any() else f"no case {whom} the class among {count(len(of), 'case')}")
        statistic = undefined(len(of), missing) if missing else ratio_of_sums((hit & of) * 1.0, of * 1.0)
        return measure(statistic, weights)

    return ClassRates(
        n=int(truth.sum()),
        sensitivity=share(predicted, truth, "of"),
        specificity=share(~predicted, ~truth, "outside"),
    )


def _trivial(
    labels: Labels, classes: Sequence[str], majority: Labels, weights: Weights, folds: Int[np.ndarray, " n"] | None
) -> Trivial:
    names = ", ".join(classes[k] for k in np.unique(majority))
    micro = micro_auc(labels, np.eye(len(classes))[majority], folds=folds, majority=majority)
    areas = {"macro_auc": Metric(0.5), "micro_auc": measure(micro, weights)}
    return Trivial(
        description=f"the most frequent class of the training cases ({names})",
        metrics={**_hard_metrics(labels, majority, classes, weights), **areas},
    )


def _of_confusion(
    labels: Labels,
    predicted: Labels,
    classes: Sequence[str],
    metric: Callable[[Float[np.ndarray, "b k k"]], Draws],
    library: Callable[[Labels, Labels], float],
) -> Statistic:
    """A statistic of the confusion matrices of b resamples, (b, truth, predicted); on all cases it equals scikit-learn's."""
    reason, n_classes = _class_missing(labels, classes), len(classes)
    if reason:
        return undefined(len(labels), reason)
    cells = np.eye(n_classes**2)[labels * n_classes + predicted]  # (n, k²)
    return Statistic(
        lambda weights: metric((weights @ cells).reshape(-1, n_classes, n_classes)),
        len(labels),
        point=float(library(labels, predicted)),
    )


def _class_missing(labels: Labels, classes: Sequence[str]) -> str | None:
    missing = [name for k, name in enumerate(classes) if not (labels == k).any()]
    return f"no case of class {', '.join(missing)} among {count(len(labels), 'case')}" if missing else None


def _same_fold(n: int, folds: Int[np.ndarray, " n"] | None) -> Float[np.ndarray, "n n"]:
    return np.ones((n, n)) if folds is None else (folds[:, None] == folds[None, :]).astype(float)
