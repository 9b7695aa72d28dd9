"""Tasks: what a label column means to a model, from fitting on training cases to decoding its outputs.

A task is a name and a definition (`TaskSpec`): columns, a kind, and how values are read. A new kind is one module with a
`Task` and a `FittedTask`, and one entry of `KINDS`.
"""

from collections.abc import Mapping
from typing import Any

from models.registry import Registry
from pipeline.metrics import CaseMetrics
from pipeline.tasks.base import OUTCOME, FittedTask, PredictionSets, Task
from pipeline.tasks.classification import Classification
from pipeline.tasks.multilabel import Multilabel
from pipeline.tasks.ordinal import Ordinal
from pipeline.tasks.regression import Regression
from pipeline.tasks.spec import TaskSpec, parse_task
from pipeline.tasks.survival import Survival

# A definition without a kind gets the first that recognises its columns.
KINDS: Registry[type[Task]] = Registry(
    "kind of task", {kind.kind: kind for kind in (Survival, Multilabel, Classification, Ordinal, Regression)}
)

# `diagnosis` is built from markers (WHO 2021) and close to `subtype`: it is learned only when requested by name.
BY_DEFAULT = ("survival", "grade", "subtype")
# By WHO 2021 grade, subtype and diagnosis define one another: none of them is an input of a model of another.
BUILT_IN: Mapping[str, TaskSpec] = {
    "survival": TaskSpec(column=OUTCOME, kind="survival"),
    "grade": TaskSpec(
        column=("grade",), kind="classification", excludes=("subtype", "diagnosis"), defined_by="who2021_grade"
    ),
    "subtype": TaskSpec(
        column=("subtype",), kind="classification", excludes=("grade", "diagnosis"), defined_by="who2021"
    ),
    "diagnosis": TaskSpec(
        column=("diagnosis",), kind="classification", excludes=("grade", "subtype"), defined_by="who2021"
    ),
}


def make_task(name: str, spec: TaskSpec) -> Task:
    """The task of a definition whose kind is known."""
    return KINDS[str(spec.kind)](name, spec)


def restore_task(described: Mapping[str, Any]) -> Task:
    """The task that `Task.to_json` described; ValueError where it is unsound."""
    content = {name: value for name, value in described.items() if name != "name"}
    return make_task(str(described["name"]), TaskSpec(**content))


TASKS: Registry[Task] = Registry("task", {name: make_task(name, spec) for name, spec in BUILT_IN.items()})


def metrics_types() -> dict[str, type[CaseMetrics]]:
    """The metrics of each kind of task, to read `metrics.json` with."""
    return {name: kind.metrics_type for name, kind in KINDS.items()}


__all__ = [
    "BUILT_IN",
    "BY_DEFAULT",
    "KINDS",
    "TASKS",
    "Classification",
    "FittedTask",
    "Multilabel",
    "Ordinal",
    "PredictionSets",
    "Regression",
    "Survival",
    "Task",
    "TaskSpec",
    "make_task",
    "metrics_types",
    "parse_task",
    "restore_task",
]
