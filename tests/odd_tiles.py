"""Tiles whose reading is watched, or fails: processes that read them import no more than this."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import openslide

from preprocessing.tiling.slide_tiles import SlideTiles


@dataclass(frozen=True)
class NotedTiles(SlideTiles):
    """A line is added to a file for each tile that is read."""

    notes: Path = Path()

    def read(self, reader, row):
        with self.notes.open("a") as file:
            print(os.getpid(), file=file)
        return super().read(reader, row)


@dataclass(frozen=True)
class TornTiles(SlideTiles):
    """One tile cannot be read: that with this corner."""

    torn: tuple[int, int] = (0, 0)
    mark: Path = Path()  # a file that some write when that is tried

    def read(self, reader, row):
        if tuple(self.grid.coords[row]) == self.torn:
            self.fail()
        return super().read(reader, row)

    def fail(self):
        raise openslide.OpenSlideError("torn tile")


class TwoPartError(Exception):
    """One that cannot be unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first}, {second}")


class OddlyTornTiles(TornTiles):
    def fail(self):
        raise TwoPartError("torn", "tile")


class CrashingTiles(TornTiles):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


class OnceCrashingTiles(CrashingTiles):
    def fail(self):
        if not self.mark.exists():
            self.mark.touch()
            super().fail()


class HangingTiles(TornTiles):
    def fail(self):
        self.mark.touch()
        time.sleep(600)
