"""Reading the configuration of a run from the command line and a YAML file."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.inputs import read_path, read_paths
from pipeline.config.messages import describe_problems
from pipeline.config.schema import Config
from preprocessing.io.errors import InputError
from preprocessing.io.files import read_text, why_no_file


def load_config(
    flags: Mapping[str, Any],
    *,
    file: Path | str | None = None,
    sets: Iterable[str] = (),
    options: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration: defaults < presets < `--config FILE` < flags < `--set`.

    Args:
        flags: values by dotted key ("tiles.mpp"), from the command line.
        file: a YAML file of the same keys, nested.
        sets: `key=value` texts, the value in YAML.
        options: the option by which the user gave a flag, by its key, for messages; of Python's callers, none.

    Raises:
        InputError: an unknown key, with the nearest known one, or a value that does not fit.
    """
    values = _read_yaml(read_path(file, "--config")) if file else {}
    given = {key: f"--config {file}: {key}: {value}" for key, value in leaves(values)}
    for key, value in flags.items():
        _put(values, key, value)
        given |= {key: f"{options[key]} {_text(value)}"} if options and key in options else {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: give it as key=value, as in --set train.epochs=10")
        _put(values, key.strip(), _read_value(text, value))
        given[key.strip()] = f"--set {text}"
    try:
        return Config(**read_paths(values, Config))
    except ValidationError as error:
        raise InputError(describe_problems(error, Config, given=given)) from None


def _read_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: the value is not YAML; put quotes around special characters") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    if problem := why_no_file(file):
        raise InputError(f"--config {file} {problem}")
    try:
        values = yaml.safe_load(read_text(file, as_table=False)) or {}
    except yaml.YAMLError as error:
        raise InputError(f"--config {file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {file}: expected keys and values, found {type(values).__name__}")
    return values


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f'configuration: "{dotted}": "{parent}" has no keys below it')
    values[last] = value


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values of nested settings by dotted key; an empty one below has no keys, and is a value itself."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
