"""Messages about a configuration that does not validate, each with its key, value and remedy."""

from collections.abc import Iterable, Sequence
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
    problems = error.errors()
    inner = {problem["loc"][:length] for problem in problems for length in range(1, len(problem["loc"]))}
    if absent := [
        name for name in ("slides", "genes") if ((name,), "missing") in [(one["loc"], one["type"]) for one in problems]
    ]:
        return _missing_inputs(absent)
    return "\n".join(_describe(problem, root, prefix) for problem in problems if problem["loc"] not in inner)


def _missing_inputs(names: Sequence[str]) -> str:
    """The message where SLIDES, GENES or both are not given."""
    words = (
        "SLIDES and GENES are missing"
        if len(names) > 1
        else f"{names[0].upper()} is missing (none: without {names[0]})"
    )
    return f"{words}; usage: run_pipeline SLIDES GENES [options]; run_pipeline --help explains them"


def _describe(problem: Any, root: type[BaseModel], prefix: str) -> str:
    where = [str(part) for part in problem["loc"]]
    key = ".".join([prefix, *where] if prefix else where)
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if problem["type"] == "extra_forbidden":
        return f'configuration: unknown key "{key}": {nearest(where[-1], _known_keys(root, where[:-1]))}'
    if problem["type"] == "missing":
        return f"configuration: {key} is missing"
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
