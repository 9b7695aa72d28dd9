"""What the numbers say, in words. A difference is called significant only where its whole interval is on one side of 0."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.baselines import BASELINES
from pipeline.metrics import Metric, TaskReport

METRICS = {  # how the page calls the keys of metrics.json
    "c_index": "c-index",
    "c_index_across_folds": "c-index, pairs across folds too",
    "uno_c_index": "Uno's c-index",
    "integrated_brier": "integrated Brier score",
    "macro_auc": "macro AUC",
    "macro_auc_across_folds": "macro AUC, pairs across folds too",
    "micro_auc": "micro AUC",
    "micro_auc_across_folds": "micro AUC, pairs across folds too",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
MODALITIES = {"both": "slides and genes", "slides": "slides only", "genes": "genes only"}
GOOD, BAD, OPEN = "good", "bad", "open"


@dataclass(frozen=True)
class Verdict:
    """What is to be known of a task first.

    Attributes:
        metric: the name of its headline metric.
        value: the model's.
        mark: good: significantly better than all that it was compared with; bad: significantly worse than one; open: neither.
        summary: in a few words.
        sentences: each comparison.
    """

    metric: str
    value: Metric
    mark: str
    summary: str
    sentences: tuple[str, ...]


def number(metric: Metric) -> str:
    """A value with its interval, as 0.853 (0.820–0.883); a dash where there is none."""
    if metric.value is None:
        return "–"
    if metric.low is None or metric.high is None:
        return plain(metric.value)
    dash = " to " if metric.low < 0 else "–"
    return f"{plain(metric.value)} ({plain(metric.low)}{dash}{plain(metric.high)})"


def plain(value: float) -> str:
    """Three decimals, less of them for what is large, and a real minus."""
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def p_value(metric: Metric) -> str:
    """Of a test that could be made, as p = 0.027 or p < 0.001."""
    value = number(metric)
    return "p < 0.001" if value == "0.000" else f"p = {value}"


def metric_name(key: str) -> str:
    """What the page calls a metric."""
    return METRICS.get(key, key.replace("_", " "))


def other_name(key: str) -> str:
    """What the page calls a comparator or a baseline."""
    return BASELINES.get(key, key)


def judge(report: TaskReport[Any]) -> Verdict:
    """The verdict on a task."""
    key, name, others = report.headline, report.model_name, report.others()
    value = report.model.pooled.scalar(key)
    differences = {other: report.differences[other] for other in others if other in report.differences}
    sentences = [_against_chance(name, metric_name(key), value, report.chance)]
    sentences += [
        _against(name, other_name(other), others[other].pooled.scalar(key), difference)
        for other, difference in differences.items()
    ]
    mark, summary = _summary(differences)
    if value.value is None:
        mark, summary = OPEN, f"no value: {value.reason}"
    return Verdict(metric_name(key), value, mark, summary, tuple(sentences))


def is_better(difference: Metric) -> bool:
    """Whether the model is significantly better: the whole interval of the difference is above 0."""
    return difference.low is not None and difference.low > 0


def is_worse(difference: Metric) -> bool:
    """Whether the model is significantly worse."""
    return difference.high is not None and difference.high < 0


def _summary(differences: Mapping[str, Metric]) -> tuple[str, str]:
    better = [other_name(other) for other, difference in differences.items() if is_better(difference)]
    worse = [other_name(other) for other, difference in differences.items() if is_worse(difference)]
    if not differences:
        return OPEN, "no comparator"
    if worse:
        return BAD, f"worse than {listed(worse)}"
    if len(better) == len(differences):
        return GOOD, "better than every comparator"
    if better:
        return OPEN, f"better than {listed(better)}; no significant difference from the others"
    return OPEN, "no significant difference from any comparator"


def _against_chance(name: str, metric: str, value: Metric, chance: float | None) -> str:
    if value.value is None:
        return f"The {metric} of {name} could not be computed: {value.reason}."
    if value.low is None:
        return f"{name} has a {metric} of {number(value)}; {value.reason or 'it has no interval'}."
    if chance is None:
        return f"{name} has a {metric} of {number(value)}."
    if value.low > chance:
        return f"{name} has a {metric} of {number(value)}: better than chance, which is {chance:g}."
    return f"{name} has a {metric} of {number(value)}: not significantly better than chance, which is {chance:g}."


def _against(name: str, other: str, value: Metric, difference: Metric) -> str:
    if difference.value is None:
        return f"No comparison with {other}: {difference.reason}."
    theirs = f"{other} has {number(value)}"
    if is_better(difference):
        return f"{theirs}: {name} is better by {number(difference)}."
    if is_worse(difference):
        return f"{theirs}: {name} is worse by {number(_reversed(difference))}."
    if difference.low == difference.high == 0:
        return f"{theirs}: the same in every resample; {name} adds nothing to it."
    if difference.value < 0:
        return f"{theirs}: {name} is lower (difference not significant), {number(difference)}."
    return f"{theirs}: no significant difference, {number(difference)}."


def _reversed(difference: Metric) -> Metric:
    low, high = difference.low or 0.0, difference.high or 0.0
    return Metric(-(difference.value or 0.0), -high, -low)


def listed(names: list[str]) -> str:
    """As "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def why_left_out(reason: str) -> str:
    """What kind of reason it is, of a case: without the slides and files that it names in brackets."""
    depth, kept = 0, []
    for letter in reason:
        depth += letter == "("
        if depth == 0:
            kept.append(letter)
        depth -= letter == ")" and depth > 0
    return re.sub(r"\s+", " ", "".join(kept)).replace(" ,", ",").strip() or "no reason given"
