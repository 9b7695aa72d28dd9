"""The question of each task and its answer, in words that need no statistics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.metrics import Metric, TaskReport
from pipeline.metrics.report import CohortShift, metric_name
from pipeline.run.finished import FinishedRun
from pipeline.run.formatting import decimal
from preprocessing.io.errors import count
from workflows.report.plain.phrasing import BAD, GOOD, OPEN, is_below, verdict_of

UNSURE = "unsure"
SMALL_COHORT = 50  # cases; below it, bootstrap intervals are approximate
PAIRS = {  # metrics that are a share of pairs of cases
    "c_index": "Of two patients, the model gives the one with the earlier event the higher risk",
    "macro_auc": "Of two cases, one in a class and one not, the model gives the former the higher probability of the class",
    "micro_auc": "Of two pairs of case and class, one true and one not, the model gives the former the higher probability",
}
GLOSSARY = {  # of headings and terms, on hover
    "c-index": "concordance index: share of pairs of patients whose events are ranked in the right order; 0.5 is chance, 1 perfect",
    "Uno's c-index": "concordance index that does not depend on how many patients were censored",
    "integrated Brier score": "mean squared error of the predicted survival curve over time; lower is better",
    "macro AUC": "area under the ROC curve, averaged over the classes; 0.5 is chance, 1 perfect",
    "micro AUC": "area under the ROC curve over all pairs of case and class; 1 is perfect, chance is what the row “trivial” has",
    "accuracy": "share of cases that are predicted correctly",
    "balanced accuracy": "accuracy averaged over the classes, so that rare ones count as much as frequent ones",
    "macro F1": "harmonic mean of precision and recall, averaged over the classes",
    "Brier score": "mean squared error of the predicted probabilities; lower is better",
    "expected calibration error": "mean difference between predicted probability and observed frequency; lower is better",
    "calibration slope": "slope of true against predicted values; 1 is perfect, below 1 predictions are too extreme",
    "D-calibration p-value": "test of whether survival curves fit the observed times; a small p-value means that they do not",
    "R²": "share of the label's variance that is explained; 0 is what predicting the mean gives, 1 perfect",
    "Spearman's ρ": "rank correlation of predicted and true numbers within folds; 0 is chance, 1 perfect",
    "mean absolute error": "mean distance of the predicted from the true number, in the label's unit; lower is better",
    "mean rank error": "mean number of classes by which the prediction is off; lower is better",
    "quadratic weighted κ": "agreement of predicted and true classes beyond chance; distant classes count more; 1 is perfect",
    "all labels right": "share of cases for which every label is predicted correctly",
    "labels right": "share of all labels that are predicted correctly",
    "ensemble SD": "disagreement between the models of the ensemble, in the unit of the prediction; no confidence interval",
    "90% prediction set": "conformal set: classes or range that contain the truth in at least 90 of 100 cases like the training "
    "cases",
    "distribution shift": "how unlike the training cohort a case is: in-distribution, borderline or out-of-distribution",
    "modalities": "what the prediction used: slides, genes or both",
    "fold": "the part of the cohort that was left out when the model of this prediction was trained",
    "risk": "relative hazard of the event (death, or progression); higher is worse",
    "cross-validation": "performance of the model on left-out training cases with these modalities",
}


@dataclass(frozen=True)
class Answer:
    """The result of a task in plain words.

    Attributes:
        question: what the task is about, and for whom.
        answer: how well the model does, and how sure that is.
        against: how simpler models do.
        mark: good: better than every simpler model; open: better than chance; bad: worse than a simpler model, or than
            chance; unsure: chance cannot be excluded, or there is no interval to judge by.
        headline: the answer in a few words.
        caution: what limits the conclusion; empty where nothing does.
    """

    question: str
    answer: str
    against: str
    mark: str
    headline: str
    caution: str


def answer_of(run: FinishedRun, name: str, report: TaskReport[Any]) -> Answer:
    """Answer the question of a task from its metrics."""
    verdict = verdict_of(report)
    above = verdict.value.low is not None and report.chance is not None and verdict.value.low > report.chance
    below = is_below(report.headline, verdict.value, report.chance)
    mark = BAD if below else verdict.mark if above or verdict.mark == BAD else UNSURE
    headline = (
        "no: significantly worse than chance"
        if below
        else {
            GOOD: "yes, and better than every simpler model",
            OPEN: "yes, but not better than every simpler model",
            BAD: "a simpler model does better",
            UNSURE: "unclear: perhaps no better than the mean of the labels"
            if report.headline == "r2"
            else "unclear: chance cannot be excluded",
        }[mark]
    )
    inputs = " and ".join(word for key, word in (("slides", "slides"), ("genes", "genes")) if run.config.get(key))
    where = " of a new cohort" if report.new_cohort else " that the model was not trained on"
    if mark == UNSURE and verdict.value.low is None:
        headline = "unclear: not measured" if verdict.value.value is None else "unclear: no verdict without an interval"
    return Answer(
        question=f"Can {inputs or 'the input'} predict {name.replace('_', ' ')}? Tested on {count(report.n, 'case')}{where}.",
        answer=_sentence(report.headline, verdict.value, report.chance),
        against=f"Compared with simpler models: {verdict.summary}.",
        mark=mark,
        headline=headline,
        caution=" ".join(_cautions(run, report, is_below_chance=below)),
    )


def describe_shift(shift: CohortShift | None) -> tuple[str, str] | None:
    """The colour and the words for how many cases of a new cohort are unlike the training cohort; None: not assessed."""
    if shift is None or not shift.n:
        return None
    n_out, n_borderline = shift.n_out_of_distribution, shift.n_borderline
    limit = f"; {shift.limit()}" if shift.limit() else ""
    if not n_out and not n_borderline:
        return OPEN if limit else GOOD, f"distribution shift: none of {count(shift.n, 'case')}{limit}"
    of_all = f"of {count(shift.n, 'case')}"
    parts = [f"{n_out} {of_all} out of distribution"] if n_out else []
    if n_borderline:
        parts.append(f"{n_borderline} {'' if parts else of_all + ' '}borderline")
    found = f"distribution shift: {', '.join(parts)}"
    return (BAD, found) if n_out > shift.n / 2 else (OPEN, found + limit)


def _cautions(run: FinishedRun, report: TaskReport[Any], *, is_below_chance: bool) -> Iterator[str]:
    """What limits the conclusion, a sentence each."""
    if report.n < SMALL_COHORT:
        yield f"Only {count(report.n, 'case')}: too few for a reliable result."
    if is_below_chance:
        scale = "whether the genes are on the scale of the training cohort, and " if _has_new_genes(run, report) else ""
        yield (
            "Predictions are consistently wrong, which chance alone does not explain: "
            f"check {scale}whether labels or events are inverted or belong to other cases."
        )


def _has_new_genes(run: FinishedRun, report: TaskReport[Any]) -> bool:
    return report.new_cohort and bool(run.config.get("genes"))


def _sentence(key: str, value: Metric, chance: float | None) -> str:
    if value.value is None:
        return f"It could not be measured: {value.reason}."
    if key not in PAIRS:
        by_chance = f"; {decimal(chance)} by chance" if chance is not None else ""
        by_chance = (
            "; 0 is what the mean of the labels gives, and unrelated predictions lie below"
            if key == "r2"
            else by_chance
        )
        sure = (
            ""
            if value.low is None or value.high is None
            else f" (95% interval {decimal(value.low)} to {decimal(value.high)})"
        )
        return f"The {metric_name(key)} is {decimal(value.value)}{sure}{by_chance}."
    sure = (
        ""
        if value.low is None or value.high is None
        else f" (95% interval: {_of_100(value.low)} to {_of_100(value.high)})"
    )
    return f"{PAIRS[key]} in {_of_100(value.value)} of 100 pairs{sure}; chance is 50."


def _of_100(share: float) -> str:
    return f"{100 * share:.0f}"
