"""What the numbers say, in words. A lead is only called one where its interval lies above 0."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.baselines import BASELINES

Told = Mapping[str, Any]  # a metric as metrics.json tells it: value, low, high, reason

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
SHOWN = {"both": "both", "slides": "slides alone", "genes": "genes alone"}
GOOD, BAD, OPEN = "good", "bad", "open"


@dataclass(frozen=True)
class Verdict:
    """What is to be known of a task first.

    Attributes:
        metric: the name of its headline metric.
        value: the model's, as metrics.json tells it.
        mark: good: certainly ahead of all that it was compared with; bad: certainly behind one; open: neither.
        summary: in a few words.
        sentences: each comparison.
    """

    metric: str
    value: Told
    mark: str
    summary: str
    sentences: tuple[str, ...]


def number(metric: Told) -> str:
    """A value with its interval, as 0.853 (0.820–0.883); a dash where there is none."""
    if metric.get("value") is None:
        return "–"
    if metric.get("low") is None:
        return plain(metric["value"])
    dash = " to " if metric["low"] < 0 else "–"
    return f"{plain(metric['value'])} ({plain(metric['low'])}{dash}{plain(metric['high'])})"


def plain(value: float) -> str:
    """Three decimals, less of them for what is large, and a real minus."""
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def p_value(metric: Told) -> str:
    """Of a test that could be made, as p = 0.027 or p < 0.001."""
    value = number(metric)
    return "p < 0.001" if value == "0.000" else f"p = {value}"


def metric_name(key: str) -> str:
    """What the page calls a metric."""
    return METRICS.get(key, key.replace("_", " "))


def other_name(key: str) -> str:
    """What the page calls a rival or a baseline."""
    return BASELINES.get(key, key)


def judge(task: Told) -> Verdict | None:
    """The verdict on a task; None where metrics.json tells no model."""
    if not task.get("model"):
        return None
    key, name = task["headline"], task["contender"]
    value = task["model"]["pooled"][key]
    others = compared(task)
    leads = {other: task["lead"][other] for other in others if other in task.get("lead", {})}
    sentences = [_against_chance(name, metric_name(key), value, task["chance"])]
    sentences += [
        _against(name, other_name(other), others[other]["pooled"][key], lead) for other, lead in leads.items()
    ]
    mark, summary = _summary(leads)
    if value.get("value") is None:
        mark, summary = OPEN, f"no value: {value.get('reason')}"
    return Verdict(metric_name(key), value, mark, summary, tuple(sentences))


def compared(task: Told) -> dict[str, Told]:
    """Rivals and baselines, by their keys."""
    return {**task.get("rivals", {}), **task.get("baselines", {})}


def is_lead(lead: Told) -> bool:
    """Whether the model is certainly ahead: its whole interval lies above 0."""
    return lead.get("low") is not None and lead["low"] > 0


def is_deficit(lead: Told) -> bool:
    """Whether the model is certainly behind."""
    return lead.get("high") is not None and lead["high"] < 0


def _summary(leads: Mapping[str, Told]) -> tuple[str, str]:
    ahead = [other_name(other) for other, lead in leads.items() if is_lead(lead)]
    behind = [other_name(other) for other, lead in leads.items() if is_deficit(lead)]
    if not leads:
        return OPEN, "compared with nothing"
    if behind:
        return BAD, f"behind {listed(behind)}"
    if len(ahead) == len(leads):
        return GOOD, "ahead of all it was compared with"
    if ahead:
        return OPEN, f"ahead of {listed(ahead)}; no certain lead over the others"
    return OPEN, "no certain lead over any comparison"


def _against_chance(name: str, metric: str, value: Told, chance: float | None) -> str:
    if value.get("value") is None:
        return f"The {metric} of {name} could not be computed: {value.get('reason')}."
    if value.get("low") is None:
        return f"{name} has a {metric} of {number(value)}; {value.get('reason') or 'it has no interval'}."
    if chance is None:
        return f"{name} has a {metric} of {number(value)}."
    if value["low"] > chance:
        return f"{name} has a {metric} of {number(value)}: better than chance, which is {chance:g}."
    return f"{name} has a {metric} of {number(value)}: not certainly better than chance, which is {chance:g}."


def _against(name: str, other: str, value: Told, lead: Told) -> str:
    if lead.get("value") is None:
        return f"Against {other} nothing can be said: {lead.get('reason')}."
    told = f"{other} has {number(value)}"
    if is_lead(lead):
        return f"{told}: {name} leads by {number(lead)}."
    if is_deficit(lead):
        return f"{told}: {name} is behind by {number({'value': -lead['value'], 'low': -lead['high'], 'high': -lead['low']})}."
    if lead["low"] == lead["high"] == 0:
        return f"{told}: the same in every resample; {name} adds nothing to it."
    if lead["value"] < 0:
        return f"{told}: {name} is lower, though not certainly, {number(lead)}."
    return f"{told}: no certain lead, {number(lead)}."


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
