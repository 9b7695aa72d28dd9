"""The inputs of a run, SLIDES and GENES, checked for what they cannot be before anything is read."""

import os
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.option_names import OPTIONS
from preprocessing.io.errors import InputError
from preprocessing.slides.names import SUFFIXES, foreign_address, unusable_name

_READ_BY_THEMSELVES = frozenset({"slides", "genes"})  # by validators of their own: none, several slides, swapped inputs


def read_slides(value: Any) -> Any:
    """Return SLIDES as a path, a tuple of several paths, or None for "none"; `~` is the home folder.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if isinstance(value, str) and set("*?[") & set(value) and not Path(value).exists():
        pattern, value = (
            value,
            sorted(glob(os.path.expanduser(value), recursive=True)),
        )  # in quotes, no shell has expanded it
        if not value:
            raise InputError(f"slides: no file matches {pattern}; give a folder, a slide or a manifest CSV")
    if isinstance(value, list | tuple):
        paths = tuple(read_slides(one) for one in value)
        return paths if len(paths) != 1 else paths[0]
    return read_path(value, "slides")


def read_path(value: Any, name: str) -> Any:
    """Return a path of the user, or None for "none"; `~` is the home folder.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if value is None or str(value).lower() == "none":
        return None
    if not str(value).strip():
        raise InputError(f"{name}: the path is empty; give a path, or none")
    if isinstance(value, str) and (problem := foreign_address(value)):
        raise InputError(f"{name}: {problem}")
    return Path(value).expanduser() if isinstance(value, str | Path) else value


def read_further_table(text: str) -> str:
    """Return `FILE` or `FILE:KIND` with the home folder for `~`.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if problem := foreign_address(text):
        raise InputError(f"--omics: {problem}")
    return os.path.expanduser(text)


def read_store(value: Any) -> Any:
    """Return the folder or URL of a store as text.

    Raises:
        InputError: a path of Windows, or a web page, which nothing can be written to.
    """
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and text.lower().startswith(("http://", "https://", "ftp://")):
        raise InputError(
            f"--store: {text} cannot be written to; give a folder, or an object store (s3://, gs://, az://)"
        )
    if isinstance(text, str) and "://" not in text and (problem := foreign_address(text)):
        raise InputError(f"--store: {problem}")
    return text


def read_paths(values: Mapping[str, Any], root: type[BaseModel], *, prefix: str = "") -> dict[str, Any]:
    """Return the values of a configuration with every path read by `read_path`, those of nested settings too.

    Args:
        values: as the user gave them, by key.
        root: the class of the configuration, whose annotations say which values are paths.
        prefix: dotted key of the class in the configuration of the run.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    return {key: _with_paths(value, root.model_fields.get(key), f"{prefix}{key}") for key, value in values.items()}


def _with_paths(value: Any, field: FieldInfo | None, key: str) -> Any:
    annotation = field.annotation if field else None
    if isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return read_paths(value, annotation, prefix=f"{key}.")
    if not isinstance(value, str) or Path not in get_args(annotation) or key in _READ_BY_THEMSELVES:
        return value
    if key == "out" and "://" in value:
        raise InputError(
            f"--out: {value} is not on a disk; a run folder is a local one, only --store may be an object store"
        )
    return read_path(value, OPTIONS.get(key, key))


def require_table(genes: Path) -> None:
    """Raise InputError where GENES is a folder or a slide: then SLIDES and GENES are probably swapped."""
    what = "a folder" if genes.is_dir() else "a slide" if _is_slide(genes) else None
    if what:
        raise InputError(
            f"GENES {genes} is {what}, but a table is expected: are SLIDES and GENES swapped, or is GENES missing? Usage: "
            "run_pipeline SLIDES GENES; none stands for a missing one"
        )


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or unusable_name(path.name) is not None
