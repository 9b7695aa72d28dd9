"""Drafts: files and folders that are being written. Each appears whole under its name, or not at all.

A draft's name says whose it is, so that what a dead process left is told from what a living one is at.
"""

import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from preprocessing.io.errors import RunError

REMEDY = "make room or give the right to write, and the same command goes on from what is finished"


def draft_name() -> str:
    """A name that no other draft has: HOST-PROCESS-… of this process."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"


def sweep(paths: Iterable[Path]) -> None:
    """Removes those of the paths that are drafts of processes of this machine which are dead."""
    own = re.compile(rf"(?:\..*\.)?{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{32}}")
    for path in paths:
        process = own.fullmatch(path.name)
        if process and not _is_writing(int(process[1]), path):
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # it was a folder, or another run was a moment faster
                path.unlink()


def _is_writing(process: int, draft: Path) -> bool:
    """Whether the process lives, and is not another that was given the same number later on."""
    if not psutil.pid_exists(process):
        return False
    try:
        return psutil.Process(process).create_time() <= draft.stat().st_mtime
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turns an error of the system in writing `what` into a RunError that names it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} cannot be written ({error.strerror or error}); {REMEDY}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft to be written, which then becomes the file; raises RunError where the system does not let it."""
    draft = _beside(path)
    with writing(path):
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to be filled, which then takes the folder's place; raises RunError where the system does not let it."""
    draft = _beside(folder)
    with writing(folder):
        draft.mkdir(parents=True)
        try:
            yield draft
            if folder.exists():
                shutil.rmtree(folder)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{draft_name()}")


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
