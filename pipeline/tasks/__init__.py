"""Tasks: what a label column means to a model, from fitting on training cases to decoding its outputs."""

from models.registry import Registry
from pipeline.tasks.base import FittedTask, Task
from pipeline.tasks.classification import Classification
from pipeline.tasks.survival import Survival

TASKS: Registry[Task] = Registry(
    "task",
    {
        "survival": Survival(),
        "grade": Classification("grade"),
        "subtype": Classification("subtype"),
    },
)

__all__ = ["TASKS", "Classification", "FittedTask", "Survival", "Task"]
