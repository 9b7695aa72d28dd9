"""The pipeline from Python: cohorts, feature stores, runs and trained models, in scripts and notebooks.

    from workflows.api import open_cohort, open_model, open_run, open_store, run

The names of `__all__` are stable: they change only with a new minor version, which the changelog announces. Everything that
takes long to import is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.api.cohorts import InputCohort, open_cohort
    from workflows.api.datasets import SlideDataset
    from workflows.api.runs import Model, RunResults, open_model, open_run, run
    from workflows.api.stores import SlideFeatures, Store, open_store

__all__ = [
    "InputCohort",
    "Model",
    "RunResults",
    "SlideDataset",
    "SlideFeatures",
    "Store",
    "open_cohort",
    "open_model",
    "open_run",
    "open_store",
    "run",
]
MODULES = {
    "cohorts": ("InputCohort", "open_cohort"),
    "datasets": ("SlideDataset",),
    "runs": ("Model", "RunResults", "open_model", "open_run", "run"),
    "stores": ("SlideFeatures", "Store", "open_store"),
}


def __getattr__(name: str) -> Any:
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(f"workflows.api.{module}"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return __all__
