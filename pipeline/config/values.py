"""Values as a user writes them: lists in one text, groups within groups, tasks defined where they are requested."""

from collections.abc import Mapping
from typing import Any

from pipeline.tasks import TaskSpec, parse_task
from preprocessing.io.errors import InputError


def with_task_definitions(values: dict[str, Any]) -> dict[str, Any]:
    """Move each `NAME=COLUMN[:KIND]` among the requested tasks to the definitions, beside its further keys; leave its name."""
    given = values.get("task") or ()
    texts = [given] if isinstance(given, str) else [str(text) for text in given]
    parsed = [parse_task(name) for text in texts for name in ((text,) if "=" in text else split_text(text))]
    defined = {name: spec for name, spec in parsed if spec is not None}
    if not defined:
        return values
    earlier = values.get("tasks") or {}
    for name in sorted(defined.keys() & earlier.keys()):
        if not isinstance(earlier[name], dict) or earlier[name].keys() & {"column", "kind"}:
            raise InputError(f"--task {name}=…: tasks.{name} has a column or a kind, too; give one of them")
    if len(defined) < sum(spec is not None for _, spec in parsed):
        raise InputError("--task: two tasks have the same name; give each one of its own")
    return {
        **values,
        "task": [name for name, _ in parsed],
        "tasks": earlier | {name: earlier.get(name, {}) | _given(spec) for name, spec in defined.items()},
    }


def _given(spec: TaskSpec) -> dict[str, Any]:
    """The keys of a definition that are not the default."""
    return spec.model_dump(exclude_defaults=True)


def split_names(value: Any) -> tuple[str, ...]:
    """Split a text at commas, or each text of a list."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(name for item in items for name in split_text(item))


def split_text(value: Any, *, separator: str = ",") -> tuple[str, ...]:
    """Split a text at the separator; a list is taken as it is, since names in it may contain commas."""
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    return tuple(name.strip() for name in str(value or "").split(separator) if name.strip())


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested values; those of `high` win."""
    return {**low, **high} | {
        key: merge(low[key], high[key])
        for key in low.keys() & high.keys()
        if isinstance(low[key], dict) and isinstance(high[key], dict)
    }
