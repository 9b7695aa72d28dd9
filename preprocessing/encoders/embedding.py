"""Embedding: the tiles of a slide become patch features.

On the CPU, reading and computing share the cores: one thread alternates between them, in one process per core. On a GPU
they overlap: processes read ahead into pinned memory, and a separate stream copies the next batch to the GPU while the
current one is computed. Once all tiles of a slide are read, the caller may begin the next slide, in another thread, whose reading
overlaps with the last batches of this one.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8

from models.layers.devices import pinned_empty
from preprocessing.encoders.config import CPU_TILES
from preprocessing.encoders.encoder import Encoder
from preprocessing.encoders.tile_readers import CrashError, affordable, read_ahead
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.slide_tiles import SlideTiles

log = logging.getLogger(__name__)
# Computes for all slides: cuDNN prepares its kernels separately in each thread, and of two slides that
# overlap, one at a time needs memory of the GPU.
_gpu = ThreadPoolExecutor(1, thread_name_prefix="gpu")


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
        readers: reading processes for a GPU.
        all_read: for a GPU, called when the last tile is read; the last batches may still be on their way.
    """
    if encoder.device.type == "cpu":
        return _embed_alternately(slide, encoder, rows)

    at_once = affordable(gpu_tiles, readers=readers, tile_px=slide.grid.tile_px)

    def embedded() -> Float[np.ndarray, "N D"]:
        with closing(
            read_ahead(slide, rows, at_once=at_once, readers=readers, pinned=True, all_read=all_read)
        ) as batches:
            return _embed_ahead(batches, encoder, rows, at_once=at_once)

    try:
        return embedded()
    except CrashError as error:  # where memory is short, the kernel may have killed it for what another has allocated
        log.warning("%s: %s; trying again", slide.path.name, error)
    return embedded()


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
    batches: Iterable[tuple[range, UInt8[torch.Tensor, "B H W 3"]]], encoder: Encoder, rows: range, *, at_once: int
) -> Float[np.ndarray, "N D"]:
    features = np.empty((len(rows), encoder.dim), np.float32)
    copying = _copying_stream(encoder)
    previous: _Embedded | None = None
    for batch, tiles in batches:
        embedded = _Embedded.queue(batch, tiles, encoder, copying, at_once=at_once)
        if previous is not None:  # the GPU has the next batch already, and does not wait for the host
            previous.fetch(features, rows)
        previous = embedded
        copying.synchronize()  # the buffer can be filled again
    if previous is not None:
        previous.fetch(features, rows)
    return features


@lru_cache(maxsize=1)
def _copying_stream(_: Encoder) -> torch.cuda.Stream:
    """The same for all slides: memory that is freed is used again by its own stream alone."""
    return torch.cuda.Stream()


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
    def queue(
        cls, batch: range, tiles: torch.Tensor, encoder: Encoder, copying: torch.cuda.Stream, *, at_once: int
    ) -> "_Embedded":
        """Queue the copy to the GPU, the computation and the copy back; wait for none of them."""
        computing = torch.cuda.current_stream()
        with torch.cuda.stream(copying):
            on_gpu = tiles.to(encoder.device, non_blocking=True)
        computing.wait_stream(copying)
        on_gpu.record_stream(computing)
        embedded = _gpu.submit(encoder, on_gpu, at_once=at_once).result()
        features = pinned_empty(*embedded.shape, dtype=embedded.dtype)
        features.copy_(embedded, non_blocking=True)
        return cls(batch, features, computing.record_event())

    def fetch(self, features: np.ndarray, rows: range) -> None:
        """Wait for the batch, and put its features in their place."""
        self.arrived.synchronize()
        start = self.batch.start - rows.start
        features[start : start + len(self.batch)] = self.features.numpy()
