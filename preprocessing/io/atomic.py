"""Atomic writes: a file or folder appears complete under its name, or not at all, also after a power cut.

It is written under a temporary name, brought to the disk, and then renamed. The temporary name carries its owner (machine,
process, start of the process), so that what a dead process left behind is removed and what a living one writes is not.
"""

import errno
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from preprocessing.io.errors import RunError

REMEDY = "free some space or grant write permission; the same command continues from what is finished"
SYNCS_AT_ONCE = 8  # a journal commits several files in one step
NO_FOLDER_SYNC = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EBADF,
    errno.EACCES,
)  # of file systems that order renames themselves


def temporary_name() -> str:
    """A name that no other temporary file has: HOST-PROCESS.START-… of this process."""
    process = os.getpid()
    return f"{socket.gethostname()}-{process}.{process_start(process)}-{uuid.uuid4().hex}"


def process_start(process: int) -> int | None:
    """When a process of this machine started, on a clock that is never set; None: there is no such process.

    On Linux, clock ticks since boot. Elsewhere whole seconds since 1970.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])  # proc(5): field 22, behind a name that may contain anything
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        return int(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None


def is_abandoned(name: str) -> bool:
    """Whether a temporary file of that name belonged to a process of this machine that has ended.

    A process of another machine counts as living. So does one that has the number of the owner, where the name does not
    contain the start of its owner, as those of earlier versions do not.
    """
    owner = re.fullmatch(
        rf"(?:\..*\.)?{re.escape(socket.gethostname())}-(?P<process>\d+)(?:\.(?P<start>\d+))?-[0-9a-f]{{32}}", name
    )
    if owner is None:
        return False
    start = process_start(int(owner["process"]))
    return start is None or (owner["start"] is not None and owner["start"] != str(start))


def sweep(paths: Iterable[Path]) -> None:
    """Remove those of the paths that are temporary files or folders of processes of this machine that have ended."""
    for path in paths:
        if is_abandoned(path.name):
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # it was a folder, or another run was a moment faster
                path.unlink()


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn an error of the system while `what` is written into a RunError that names it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} cannot be written ({error.strerror or error}); {REMEDY}") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file; what is written there becomes the file.

    Raises:
        RunError: the system does not allow it.
    """
    temporary = _beside(path)
    with writing(path):
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; filled, it takes the folder's place.

    Raises:
        RunError: the system does not allow it.
    """
    temporary = _beside(folder)
    with writing(folder):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            sync_tree(temporary)
            before = _beside(folder)
            if folder.exists():
                folder.rename(before)
            temporary.rename(folder)
            sync(folder.parent)
            shutil.rmtree(before, ignore_errors=True)  # what is left of it is swept
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{temporary_name()}")


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Bring a folder and everything in it to the disk."""
    paths = [Path(parent, name) for parent, _, files in os.walk(folder) for name in ("", *files)]
    list(_syncing_threads().map(sync, paths))


@cache
def _syncing_threads() -> ThreadPoolExecutor:
    """The threads of this process: to start some for each folder takes as long as to sync a small one."""
    os.register_at_fork(after_in_child=_syncing_threads.cache_clear)  # a child has none of its parent's threads
    return ThreadPoolExecutor(SYNCS_AT_ONCE, "sync")
