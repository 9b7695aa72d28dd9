"""A process that reads tiles of slides into memory that it shares with the process that started it; see `tile_readers`.

It imports what reading takes, and not torch, so that it starts in a fraction of a second.
"""

import os
import threading
import traceback
from contextlib import ExitStack, suppress
from mmap import mmap
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import UInt8

from preprocessing.io.errors import SlideError, unexpected
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.slide_tiles import SlideTiles

SENDABLE = ("builtins", "openslide", "preprocessing.io.errors")  # modules of errors that have a text and nothing else
Request = tuple[range, int]  # indices of tiles within the band, and the offset of their pixels in the shared memory


def serve(connection_fd: int, memory_fd: int) -> None:
    """Answer until the parent is gone.

    A message is a band of a slide's tiles, the first one always, or a request for tiles of the band that came last. A request
    is answered, once the pixels are in the shared memory, with None or the error.

    Args:
        connection_fd: an end of a `multiprocessing.Pipe`.
        memory_fd: the file that is the shared memory.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    memory = np.frombuffer(mmap(memory_fd, 0), np.uint8)
    with suppress(EOFError, ConnectionError), Connection(connection_fd) as connection:
        band = _Band(connection.recv())
        while True:
            message: SlideTiles | Request = connection.recv()
            if isinstance(message, SlideTiles):
                band = _Band(message)
            else:
                connection.send(band.answer(message, memory))


def _end_with_parent() -> None:
    """End this process, even while a library reads or hangs, once the parent's end of standard input is closed."""
    while os.read(0, 1):
        pass
    os._exit(1)


class _Band:
    """Tiles of a slide, which is open from the first request to the last tile or an error."""

    def __init__(self, tiles: SlideTiles) -> None:
        self._tiles = tiles
        self._open = ExitStack()
        self._reader: SlideReader | None = None

    def answer(self, request: Request, memory: UInt8[np.ndarray, " bytes"]) -> Exception | None:
        """Read the tiles; return the error, whatever it is, which the parent raises."""
        try:
            self._read(*request, memory)
        except Exception as error:  # noqa: BLE001  # raised again by the process that waits for the batch
            self._close()
            error.add_note(f"In a process that reads tiles:\n{traceback.format_exc()}")
            return _sendable(error)
        return None

    def _read(self, rows: range, offset: int, memory: UInt8[np.ndarray, " bytes"]) -> None:
        shape = (len(rows), self._tiles.grid.tile_px, self._tiles.grid.tile_px, 3)
        pixels = np.ndarray(shape, np.uint8, memory, offset)
        reader = self._reader or self._open.enter_context(SlideReader(self._tiles.path))
        self._reader = reader
        for position, row in enumerate(rows):
            pixels[position] = self._tiles.read(reader, row)
        if rows.stop == len(self._tiles.grid):
            self._close()

    def _close(self) -> None:
        self._reader = None
        self._open.close()


def _sendable(error: Exception) -> Exception:
    """The error itself where any process can make it from what is sent; else one with its text."""
    if type(error).__module__.startswith(SENDABLE):
        return error
    return SlideError(str(error)) if isinstance(error, SlideError) else RuntimeError(unexpected(error))
