"""Tasks: what a label column means to a model, from fitting on training cases to decoding its outputs."""

from models.registry import Registry
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

__all__ = ["BY_DEFAULT", "TASKS", "Classification", "FittedTask", "PredictionSets", "Survival", "Task", "TaskBaselines"]
