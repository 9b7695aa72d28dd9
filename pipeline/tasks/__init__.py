"""Tasks: what a label column means to a model, from fitting on training cases to decoding its outputs."""

from models.registry import Registry
from pipeline.metrics import CaseMetrics
from pipeline.tasks.base import FittedTask, PredictionSets, Task, TaskBaselines
from pipeline.tasks.classification import Classification
from pipeline.tasks.survival import Survival

# `diagnosis` is built from markers (WHO 2021) and close to `subtype`: it is learned only when asked for by name.
BY_DEFAULT = ("survival", "grade", "subtype")

TASKS: Registry[Task] = Registry(
    "task",
    {
        "survival": Survival(),
        "grade": Classification("grade"),
        "subtype": Classification("subtype"),
        "diagnosis": Classification("diagnosis"),
    },
)


def metrics_types() -> dict[str, type[CaseMetrics]]:
    """The metrics of each kind of task, to read `metrics.json` with."""
    return {task.kind: task.metrics_type for task in TASKS.values()}


__all__ = [
    "BY_DEFAULT",
    "TASKS",
    "Classification",
    "FittedTask",
    "PredictionSets",
    "Survival",
    "Task",
    "TaskBaselines",
    "metrics_types",
]
