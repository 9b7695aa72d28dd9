"""Recipes, each read from top to bottom: the run, the demo cohort."""

import importlib.util
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
for _name in ("pipeline", "preprocessing", "models"):
    _spec = importlib.util.find_spec(_name)
    _found = Path(_spec.origin).resolve().parent.parent if _spec and _spec.origin else None
    if _found != _ROOT:
        raise ImportError(
            f"the package `{_name}` is taken from {_found}, not from {_ROOT}: another package of that name shadows it; "
            "install this project into an environment of its own (make install)"
        )
