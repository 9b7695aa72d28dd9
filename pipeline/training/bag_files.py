"""Bags that memory has no room for, as flat files that all processes of a machine map: the system keeps one copy for them all."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32

from preprocessing.io.atomic import temporary_name, writing

log = logging.getLogger(__name__)
ARRAYS = ("features", "cells")
LEFT_FREE = 2 << 30  # bytes of the disk, for what else a run writes


@dataclass(frozen=True)
class BagFiles:
    """A folder of bags; each is written by the process that first lets go of it.

    Attributes:
        folder: of `bag_folder`.
    """

    folder: Path

    def read(self, keys: Sequence[str]) -> tuple[Float[np.ndarray, "N P"], Int32[np.ndarray, "N 3"]] | None:
        """Map a bag into memory: features and cells, as they were written; None where they were not.

        Args:
            keys: the feature groups of the case.
        """
        try:
            # c: copy on write; torch warns of arrays that cannot be written
            features, cells = (np.load(path, mmap_mode="c", allow_pickle=False) for path in self._paths(keys))
        except OSError:  # not written yet, or not to be mapped: the store has it
            return None
        return features, cells

    def write(self, keys: Sequence[str], bag: tuple[Float[np.ndarray, "N P"], Int32[np.ndarray, "N 3"]]) -> None:
        """Write a bag, unless it is there or empty, or the disk has no room for it: then it is read from the store again.

        Args:
            keys: the feature groups of the case.
            bag: its features and cells.
        """
        paths = self._paths(keys)
        if not len(bag[0]) or paths[-1].exists():
            return
        try:
            if shutil.disk_usage(self.folder).free - sum(array.nbytes for array in bag) < LEFT_FREE:
                _warn_of_slow_reading(f"{self.folder.parent} has less than {LEFT_FREE >> 30} GiB left")
                return
            for path, array in zip(paths, bag, strict=True):
                _save(path, array)
        except OSError as error:
            paths[0].unlink(missing_ok=True)  # features without their cells
            _warn_of_slow_reading(f"{self.folder.parent}: {error.strerror or error}")

    def _paths(self, keys: Sequence[str]) -> list[Path]:
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()
        return [self.folder / f"{name}.{array}.npy" for array in ARRAYS]


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f"{temporary_name()}.npy")
    try:
        np.save(temporary, array)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # where the disk, or a quota, was full


@cache
def _warn_of_slow_reading(reason: str) -> None:
    log.warning(
        "bags beyond the memory of a worker are read from the feature store again in each epoch, which takes longer, as "
        "there is no room for them on the disk (%s)",
        reason,
    )


@contextmanager
def bag_folder(beside: Path) -> Iterator[Path]:
    """Make a folder for the bags of a training, and remove it in the end; after a kill, the next training does.

    Args:
        beside: the folder in which it is made, locked by this run: another such folder in it is of a run that was killed.
    """
    for left in beside.glob(".bags.*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = beside / f".bags.{temporary_name()}"
    with writing(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
