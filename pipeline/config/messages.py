"""Messages about a configuration that does not validate: what the user gave, and what to give instead."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from models.registry import UnknownNameError, nearest
from pipeline.config.option_names import OPTIONS
from preprocessing.io.errors import InputError

PLAIN = {  # what pydantic writes, and what is meant
    "Value error, ": "",
    "Input should": "must",
    "be greater than or equal to": "be at least",
    "be less than or equal to": "be at most",
    "be a valid integer, unable to parse string as an integer": "be a whole number",
    "be a valid number, unable to parse string as a number": "be a number",
    "be a valid boolean, unable to interpret input": "be true or false",
    "be a valid dictionary": "be keys with values, as in models.umeml.hidden=64",
    "Tuple should have": "must have",
}


class SettingsError(InputError):
    """Settings of a model that do not validate.

    Args:
        error: raised by the class of the settings.
        root: that class.
        prefix: dotted key of the settings in the configuration of the run.
    """

    def __init__(self, error: ValidationError, root: type[BaseModel], prefix: str) -> None:
        super().__init__(describe_problems(error, root, prefix=prefix))
        self.error, self.root, self.prefix = error, root, prefix


def describe_problems(
    error: ValidationError, root: type[BaseModel], *, prefix: str = "", given: Mapping[str, str] | None = None
) -> str:
    """Describe each problem of a configuration in a line.

    Args:
        error: raised by the class of the configuration.
        root: that class, whose keys are suggested for an unknown one.
        prefix: dotted key of the class in the configuration of the run.
        given: what the user wrote for a dotted key, such as `--folds 1`; other keys are named as they are.
    """
    problems = error.errors()
    inner = {problem["loc"][:length] for problem in problems for length in range(1, len(problem["loc"]))}
    if absent := [
        name for name in ("slides", "genes") if ((name,), "missing") in [(one["loc"], one["type"]) for one in problems]
    ]:
        return _missing_inputs(absent)
    return "\n".join(
        _describe(problem, root, prefix, given or {}) for problem in problems if problem["loc"] not in inner
    )


def _missing_inputs(names: Sequence[str]) -> str:
    """The message where SLIDES, GENES or both are not given."""
    words = (
        "SLIDES and GENES are missing"
        if len(names) > 1
        else f"{names[0].upper()} is missing (none: without {names[0]})"
    )
    return f"{words}; usage: run_pipeline SLIDES GENES [options]; run_pipeline --help explains them"


def _describe(problem: Any, root: type[BaseModel], prefix: str, given: Mapping[str, str]) -> str:
    where = [str(part) for part in problem["loc"]]
    parts = [*([prefix] if prefix else []), *where]
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        at = next((text for name, text in given.items() if f"{name}.".startswith(f"{key}.")), "configuration")
        known = _further_down(root, where[0]) if len(where) == 1 else []
        meant = (
            f"did you mean {' or '.join(map(json.dumps, known))}?"
            if known
            else nearest(where[-1], _known_keys(root, where[:-1]))
        )
        return f'{at}: unknown key "{key}": {meant}'
    if problem["type"] == "missing":
        return f"configuration: {key} is missing"
    written = next((given[name] for name in _and_above(parts) if name in given), None)
    error = problem.get("ctx", {}).get("error")
    if isinstance(error, SettingsError):
        return describe_problems(error.error, error.root, prefix=error.prefix, given=given)
    message = _plain(problem["msg"])
    if isinstance(error, InputError) or (isinstance(error, UnknownNameError) and not written):
        return message  # it names what is wrong by itself
    if not written:
        written = f"configuration: {key}" if error else f"configuration: {key} = {problem['input']!r}"
    return f"{written}: {message}"


def _and_above(parts: Sequence[str]) -> Iterable[str]:
    """A key, and the keys above it."""
    return (".".join(parts[:length]) for length in range(len(parts), 0, -1))


def _plain(message: str) -> str:
    for theirs, ours in PLAIN.items():
        message = message.replace(theirs, ours)
    return message


def _further_down(root: type[BaseModel], name: str) -> list[str]:
    """The dotted keys below others that end with a name, or whose option has it: `train.epochs` for `epochs`."""
    options = {key for key, option in OPTIONS.items() if option == f"--{name.replace('_', '-')}"}
    return sorted({key for key in _dotted(root) if key.endswith(f".{name}") or key in options})


def _dotted(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in root.model_fields:
        yield f"{prefix}{name}"
        if inner := _inner(root, name):
            yield from _dotted(inner, f"{prefix}{name}.")


def _inner(root: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of the settings below a key; None where it is a value."""
    annotation = root.model_fields[name].annotation
    classes = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return next((one for one in classes if issubclass(one, BaseModel)), None)


def _known_keys(root: type[BaseModel], parents: Iterable[str]) -> list[str]:
    for name in parents:
        if name not in root.model_fields:
            continue  # a name of the user's, such as that of a cohort
        inner = _inner(root, name)
        if inner is None:
            break
        root = inner
    return list(root.model_fields)
