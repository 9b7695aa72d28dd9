"""Embedding: the tiles of a slide become patch features.

On the CPU, reading and computing share the cores: one thread alternates between them, in one process per core. On a GPU
they overlap: threads read ahead into pinned memory, and a separate stream copies the next batch to the GPU while the
current one is computed. Once all tiles of a slide are read, the caller may begin the next slide, whose reading overlaps with
the last batches of this one.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import numpy as np
import torch
from jaxtyping import Float, UInt8

from models.layers.devices import pinned_empty
from preprocessing.encoders.config import CPU_TILES
from preprocessing.encoders.encoder import Encoder
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.stain import Normaliser
from preprocessing.tiling.tiles import TileGrid, read_tile

WAITING_BATCHES = 2  # per reading thread, full or being filled
COMPUTING = threading.Lock()  # of two slides that overlap, one at a time needs memory of the GPU


@dataclass(frozen=True)
class SlideTiles:
    """The tiles of a slide as an encoder gets them.

    Attributes:
        path: the slide.
        grid: its tiles.
        normalise: stain normaliser, applied to each tile; None: pixels as they are.
    """

    path: Path
    grid: TileGrid
    normalise: Normaliser | None = None

    def read(self, reader: SlideReader, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the tile with this index, RGB uint8.

        Args:
            reader: of the slide, open.
            row: index of the tile in the grid.
        """
        tile = read_tile(reader, self.grid, row)
        return tile if self.normalise is None else self.normalise(tile)


def embed_tiles(
    slide: SlideTiles,
    encoder: Encoder,
    rows: range,
    *,
    gpu_tiles: int,
    readers: int,
    all_read: Callable[[], None] | None = None,
) -> Float[np.ndarray, "N D"]:
    """Return the patch features, float32, of the selected tiles of a slide, in the order of `rows`.

    Args:
        slide: all of its tiles.
        encoder: on its device.
        rows: indices of the selected tiles.
        gpu_tiles: tiles per batch on a GPU.
        readers: reading threads for a GPU.
        all_read: for a GPU, called when the last tile is read; the last batches may still be on their way.
    """
    if encoder.device.type == "cpu":
        return _embed_alternately(slide, encoder, rows)
    with closing(
        read_ahead(slide, rows, at_once=gpu_tiles, readers=readers, pinned=True, all_read=all_read)
    ) as batches:
        return _embed_ahead(batches, encoder, rows)


def _embed_alternately(slide: SlideTiles, encoder: Encoder, rows: range) -> Float[np.ndarray, "N D"]:
    features = np.empty((len(rows), encoder.dim), np.float32)
    tiles = np.empty((CPU_TILES, slide.grid.tile_px, slide.grid.tile_px, 3), np.uint8)
    with SlideReader(slide.path) as reader:
        for start in range(0, len(rows), CPU_TILES):
            batch = rows[start : start + CPU_TILES]
            for position, row in enumerate(batch):
                tiles[position] = slide.read(reader, row)
            features[start : start + len(batch)] = encoder.embed(tiles[: len(batch)])
    return features


def _embed_ahead(
    batches: Iterable[tuple[range, UInt8[torch.Tensor, "B H W 3"]]], encoder: Encoder, rows: range
) -> Float[np.ndarray, "N D"]:
    features = np.empty((len(rows), encoder.dim), np.float32)
    copying = torch.cuda.Stream()
    previous: _Embedded | None = None
    for batch, tiles in batches:
        embedded = _Embedded.queue(batch, tiles, encoder, copying)
        if previous is not None:  # the GPU has the next batch already, and does not wait for the host
            previous.fetch(features, rows)
        previous = embedded
        copying.synchronize()  # the buffer can be filled again
    if previous is not None:
        previous.fetch(features, rows)
    return features


@dataclass(frozen=True)
class _Embedded:
    """A batch on its way through the GPU and back.

    Attributes:
        batch: indices of its tiles.
        features: where its features arrive, in pinned memory.
        arrived: when they have.
    """

    batch: range
    features: torch.Tensor
    arrived: torch.cuda.Event

    @classmethod
    def queue(cls, batch: range, tiles: torch.Tensor, encoder: Encoder, copying: torch.cuda.Stream) -> "_Embedded":
        """Queue the copy to the GPU, the computation and the copy back; wait for none of them."""
        computing = torch.cuda.current_stream()
        with torch.cuda.stream(copying):
            on_gpu = tiles.to(encoder.device, non_blocking=True)
        computing.wait_stream(copying)
        on_gpu.record_stream(computing)
        with COMPUTING:
            embedded = encoder(on_gpu)
        features = pinned_empty(*embedded.shape, dtype=embedded.dtype)
        features.copy_(embedded, non_blocking=True)
        return cls(batch, features, computing.record_event())

    def fetch(self, features: np.ndarray, rows: range) -> None:
        """Wait for the batch, and put its features in their place."""
        self.arrived.synchronize()
        start = self.batch.start - rows.start
        features[start : start + len(self.batch)] = self.features.numpy()


def read_ahead(
    slide: SlideTiles,
    rows: range,
    *,
    at_once: int,
    readers: int,
    pinned: bool,
    all_read: Callable[[], None] | None = None,
) -> Generator[tuple[range, UInt8[torch.Tensor, "B H W 3"]], None, None]:
    """Yield batches of tiles with their indices as they become ready; a batch is valid until the next one is requested.

    Each thread reads its own band of the slide, so that no native tile is decoded twice. Memory is bounded by
    `WAITING_BATCHES` per thread.

    Args:
        slide: its tiles.
        rows: indices of the selected tiles.
        at_once: tiles per batch.
        readers: number of threads.
        pinned: whether batches lie in pinned memory, from which a GPU copies asynchronously; in ordinary memory where
            there is none left.
        all_read: called when the last tile is read.

    Yields:
        Indices of the tiles, and the tiles, RGB; height H and width W are the grid's `tile_px`.
    """
    at_once = min(at_once, len(rows))
    work = _Reading(slide, at_once)
    allocate = pinned_empty if pinned else torch.empty
    for _ in range(WAITING_BATCHES * readers):
        work.free.put(allocate(at_once, slide.grid.tile_px, slide.grid.tile_px, 3, dtype=torch.uint8))
    bands = [rows[len(rows) * i // readers : len(rows) * (i + 1) // readers] for i in range(readers)]
    with ThreadPoolExecutor(readers) as pool:
        threads = [pool.submit(work.read, band) for band in bands]
        running, announce = readers, all_read
        try:
            while running:
                filled = work.ready.get()
                if isinstance(filled, Exception):
                    raise filled
                if filled is None:
                    running -= 1
                    continue
                if announce and all(thread.done() for thread in threads):
                    announce()
                    announce = None
                batch, buffer = filled
                yield batch, buffer[: len(batch)]
                work.free.put(buffer)
            if announce:
                announce()
        finally:
            work.stopped.set()
            for _ in bands:
                work.free.put(torch.empty(0))  # wakes a waiting thread, which then stops


@dataclass(frozen=True)
class _Reading:
    """State shared by the threads that read one slide."""

    slide: SlideTiles
    at_once: int
    free: "Queue[torch.Tensor]" = field(default_factory=Queue)
    ready: "Queue[tuple[range, torch.Tensor] | Exception | None]" = field(default_factory=Queue)
    stopped: threading.Event = field(default_factory=threading.Event)

    def read(self, band: range) -> None:
        """Put one band's batches into `ready`, and after them None or the error."""
        try:
            with SlideReader(self.slide.path) as reader:
                for start in range(0, len(band), self.at_once):
                    batch, buffer = band[start : start + self.at_once], self.free.get()
                    if self.stopped.is_set():
                        return
                    pixels = buffer.numpy()
                    for position, row in enumerate(batch):
                        pixels[position] = self.slide.read(reader, row)
                    self.ready.put((batch, buffer))
        except Exception as error:  # noqa: BLE001  # raised again by the thread that waits for the batches
            self.ready.put(error)
        else:
            self.ready.put(None)
