"""Messages about a configuration that does not validate, each with its key, value and remedy."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from models.registry import UnknownNameError, nearest
from preprocessing.io.errors import InputError


def describe_problems(error: ValidationError, root: type[BaseModel], *, prefix: str = "") -> str:
    """Describe each problem of a configuration in a line.

    Args:
        error: raised by the class of the configuration.
        root: that class, whose keys are suggested for an unknown one.
        prefix: dotted key of the class in the configuration of the run.
    """
    return "\n".join(_describe(problem, root, prefix) for problem in error.errors())


def _describe(problem: Any, root: type[BaseModel], prefix: str) -> str:
    where = [str(part) for part in problem["loc"]]
    key = ".".join([prefix, *where] if prefix else where)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f'configuration: unknown key "{key}": {nearest(where[-1], _known_keys(root, where[:-1]))}'
    if problem["type"] == "missing":
        return f"configuration: {key} is missing; usage: run_pipeline SLIDES GENES [options]"
    if problem["type"] == "value_error":
        is_complete = isinstance(problem["ctx"]["error"], UnknownNameError | InputError)
        return message if is_complete else f"configuration: {key}: {message}"
    return f"configuration: {key} = {problem['input']!r}: {message}"


def _known_keys(root: type[BaseModel], parents: Iterable[str]) -> list[str]:
    for name in parents:
        annotation = root.model_fields[name].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        root = annotation
    return list(root.model_fields)
