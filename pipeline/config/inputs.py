"""The inputs of a run, SLIDES and GENES, checked for what they cannot be before anything is read."""

from glob import glob
from pathlib import Path
from typing import Any

from preprocessing.io.errors import InputError
from preprocessing.slides.names import SUFFIXES, foreign_address, unusable_name


def read_slides(value: Any) -> Any:
    """Return SLIDES as a path, a tuple of several paths, or None for "none"; `~` is the home folder.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if isinstance(value, str) and set("*?[") & set(value) and not Path(value).exists():
        value = sorted(glob(value, recursive=True)) or value  # in quotes, no shell has expanded it
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
