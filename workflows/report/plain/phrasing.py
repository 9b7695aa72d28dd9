"""Metrics in words. A difference is called significant only where its 95% confidence interval excludes 0."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.baselines import BASELINES
from pipeline.metrics import Metric, TaskReport
from pipeline.metrics.report import metric_name
from pipeline.run.formatting import number

COLUMNS = {  # display names of columns of CSV files; in others, underscores become spaces
    "cross_validation": "cross-validation",
    "ensemble_sd": "ensemble SD",
    "is_female": "female",
    "set_90": "90% prediction set",
    "survival_months": "survival (months)",
    "who2021_rule": "WHO 2021 rule",
    "who_grade": "WHO grade",
}
MODALITIES = {"all": "all modalities", "both": "slides and genes", "slides": "slides only", "genes": "genes only"}
GOOD, BAD, OPEN = "good", "bad", "open"


@dataclass(frozen=True)
class Verdict:
    """The main result of a task.

    Attributes:
        metric: display name of the headline metric.
        value: the headline metric of the model.
        mark: good: significantly better than every comparator; bad: significantly worse than at least one; open: neither.
        summary: the conclusion in a few words.
        sentences: the comparison with chance, then one sentence for each comparator and baseline.
    """

    metric: str
    value: Metric
    mark: str
    summary: str
    sentences: tuple[str, ...]


def signed(value: float) -> str:
    """Format with two significant digits and a typographic sign."""
    return f"{value:+.2g}".replace("-", "−")


def p_value(metric: Metric) -> str:
    """Format the p-value of a test, as p = 0.027 or p < 0.001; the metric must have a value."""
    value = number(metric)
    return "p < 0.001" if value == "0.000" else f"p = {value}"


def column_name(name: str) -> str:
    """Display name of a column of a CSV file."""
    return COLUMNS.get(name, name.replace("_", " "))


def comparator_name(key: str) -> str:
    """Display name of a comparator or baseline."""
    return BASELINES.get(key, key)


def verdict_of(report: TaskReport[Any]) -> Verdict:
    """Summarise how the model of a task compares with chance, comparators and baselines."""
    key, model, others = report.headline, report.model_name, report.others()
    value = report.model.pooled.scalar(key)
    differences = {other: report.differences[other] for other in others if other in report.differences}
    metric = f"{metric_name(key)} on {report.model.pooled.basis()}"
    sentences = [_compare_with_chance(key, f"{model}: {metric}", value, report.chance)]
    sentences += [
        _compare(model, comparator_name(other), others[other].pooled.scalar(key), difference)
        for other, difference in differences.items()
    ]
    mark, summary = _summary(differences)
    if value.value is None:
        mark, summary = OPEN, f"not computed: {value.reason}"
    elif value.low is None and value.reason:
        mark, summary = OPEN, value.reason
    return Verdict(metric_name(key), value, mark, summary, tuple(sentences))


def is_better(difference: Metric) -> bool:
    """Whether the model is significantly better: the confidence interval of the difference lies above 0."""
    return difference.low is not None and difference.low > 0


def is_worse(difference: Metric) -> bool:
    """Whether the model is significantly worse: the confidence interval of the difference lies below 0."""
    return difference.high is not None and difference.high < 0


def is_below(key: str, value: Metric, chance: float | None) -> bool:
    """Whether a headline metric is significantly worse than chance: its confidence interval lies below it.

    R² never is: predictions unrelated to the label have an R² below 0, the further the more they differ from one another.
    """
    return key != "r2" and value.high is not None and chance is not None and value.high < chance


def _summary(differences: Mapping[str, Metric]) -> tuple[str, str]:
    better = [comparator_name(other) for other, difference in differences.items() if is_better(difference)]
    worse = [comparator_name(other) for other, difference in differences.items() if is_worse(difference)]
    if not differences:
        return OPEN, "no comparator"
    if worse:
        return BAD, f"significantly worse than {listed(worse)}"
    if len(better) == len(differences):
        return GOOD, "significantly better than every comparator"
    if better:
        return OPEN, f"significantly better than {listed(better)}; no significant difference from the others"
    return OPEN, "no significant difference from any comparator"


def _compare_with_chance(key: str, name: str, value: Metric, chance: float | None) -> str:
    if value.value is None:
        return f"{name} not computed ({value.reason})."
    result = f"{name}: {number(value)}"
    if value.low is None:
        return f"{result}; {value.reason or 'no confidence interval'}."
    if chance is None:
        return f"{result}."
    if is_below(key, value, chance):
        return f"{result}; significantly below chance ({chance:g})."
    what = "0, the value for the mean of the labels" if key == "r2" else f"chance ({chance:g})"
    return f"{result}; {'' if value.low > chance else 'not '}significantly above {what}."


def _compare(model: str, comparator: str, value: Metric, difference: Metric) -> str:
    if difference.value is None:
        return f"{comparator}: no comparison ({difference.reason})."
    result = f"{comparator}: {number(value)}"
    if is_better(difference):
        return f"{result}; {model} is significantly better, difference {number(difference)}."
    if is_worse(difference):
        return f"{result}; {model} is significantly worse, difference {number(difference)}."
    if difference.low is None and difference.reason:
        return f"{result}; {difference.reason}."
    if difference.low == difference.high == 0:
        return f"{result}; identical to {model} in every bootstrap resample."
    if difference.value < 0:
        return f"{result}; {model} is lower (difference not significant): {number(difference)}."
    return f"{result}; no significant difference: {number(difference)}."


def listed(names: list[str]) -> str:
    """Join names as "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def reason_category(reason: str) -> str:
    """Reduce the reason why a case is excluded to its category: without the slides and files named in brackets."""
    depth, kept = 0, []
    for letter in reason:
        depth += letter == "("
        if depth == 0:
            kept.append(letter)
        depth -= letter == ")" and depth > 0
    return re.sub(r"\s+", " ", "".join(kept)).replace(" ,", ",").strip() or "no reason given"
