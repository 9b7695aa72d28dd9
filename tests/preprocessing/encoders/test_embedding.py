import threading
from contextlib import nullcontext
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from preprocessing.encoders import embedding, tile_readers
from preprocessing.encoders.config import CPU_TILES
from preprocessing.encoders.embedding import embed_tiles
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.io.errors import SlideError
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.slide_tiles import SlideTiles
from preprocessing.tiling.tiles import TileConfig, read_tile, tile_slide
from tests.late_streams import computed, late_streams
from tests.odd_tiles import CrashingTiles, OnceCrashingTiles

FLOAT32 = 1e-5  # of the largest number: where in a batch a tile lies may change the last digits


@pytest.fixture(scope="module")
def grid(corner_slide):
    """35 tiles."""
    return tile_slide(corner_slide, TileConfig(tile_px=64)).grid


@pytest.fixture(scope="module")
def encoder(tiny_vit):
    return load_encoder(EncoderConfig(name=f"local-dir:{tiny_vit}", precision="float32"))


@pytest.fixture(scope="module")
def pixels(corner_slide, grid):
    """Every tile, read one by one."""
    with SlideReader(corner_slide.path) as reader:
        return np.stack([read_tile(reader, grid, row) for row in range(len(grid))])


class TestOnTheCPU:
    def embed(self, slide, grid, encoder, rows):
        return embed_tiles(SlideTiles(slide.path, grid), encoder, rows, gpu_tiles=0, readers=0)

    def test_features_are_those_of_each_tile_in_order(self, corner_slide, grid, encoder, pixels):
        features = self.embed(corner_slide, grid, encoder, range(35))
        assert features.dtype == np.float32
        one_by_one = np.concatenate([encoder.embed(tile[None]) for tile in pixels])
        np.testing.assert_allclose(features, one_by_one, rtol=0, atol=FLOAT32 * np.abs(features).max())
        assert np.abs(np.diff(features, axis=0)).max(1).min() > 0.02  # so that an exchange would be seen

    @pytest.mark.parametrize("border", [1, CPU_TILES, 33])
    def test_parts_have_the_features_of_the_whole(self, corner_slide, grid, encoder, border):
        parts = [self.embed(corner_slide, grid, encoder, rows) for rows in (range(border), range(border, 35))]
        whole = self.embed(corner_slide, grid, encoder, range(35))
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=FLOAT32 * np.abs(whole).max())


class Stream:
    """Writes down what is queued, in place of a stream of CUDA."""

    events: ClassVar[list[str]] = []

    def synchronize(self):
        self.events.append("arrived")

    def wait_stream(self, other):
        pass

    def record_event(self):
        return self


def test_the_next_batch_is_queued_before_the_last_is_fetched(corner_slide, grid, pixels, monkeypatch):
    """With streams that only write down what is queued; where there is no pinned memory, in ordinary memory."""
    Stream.events.clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)

    class Encoder:
        device, dim = torch.device("meta"), 3

        def __call__(self, tiles, *, at_once):
            Stream.events.append("queued")
            return tiles.float().mean((1, 2))

    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: x.clone())
    tiles = SlideTiles(corner_slide.path, grid)
    found = embed_tiles(tiles, Encoder(), range(35), gpu_tiles=10, readers=1)
    monkeypatch.undo()
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)
    assert Stream.events.count("queued") == 4
    assert Stream.events[:3] == ["queued", "arrived", "queued"]  # the copy of the first batch; nothing is fetched yet
    assert Stream.events[3:5] == ["arrived", "arrived"]  # the first batch's features, the second's copy


class Means:
    """An encoder on a GPU of `late_streams`; features are the means of the channels."""

    device, dim = torch.device("cuda"), 3

    def __call__(self, tiles, *, at_once):
        return computed(lambda x: x.mean((1, 2)), tiles)


@pytest.mark.parametrize("early", ["", "copying", "computing"])
def test_on_a_gpu_every_wait_that_features_need_is_there(early, corner_slide, grid, pixels, monkeypatch):
    """With streams that copy and compute as late or as early as they may: see `tests.late_streams`."""
    monkeypatch.setattr(embedding, "pinned_empty", torch.empty)
    monkeypatch.setattr(tile_readers, "pin_in_place", lambda x: False)
    with late_streams(monkeypatch, early=early):
        found = embed_tiles(SlideTiles(corner_slide.path, grid), Means(), range(35), gpu_tiles=2, readers=2)
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)


def test_one_thread_computes_for_all_slides_whatever_thread_reads_them(corner_slide, grid, monkeypatch):
    """CUDA's libraries prepare their kernels anew in each thread; and a batch is as large as memory allows, or not full."""
    monkeypatch.setattr(embedding, "pinned_empty", torch.empty)
    monkeypatch.setattr(tile_readers, "pin_in_place", lambda x: False)
    monkeypatch.setattr(tile_readers, "MAX_BYTES", 4 * 3 * 16 * 64**2)  # of 16 tiles in each of four batches
    seen = set()

    class Noting(Means):
        def __call__(self, tiles, *, at_once):
            seen.add((threading.current_thread(), at_once))
            return super().__call__(tiles, at_once=at_once)

    def embed():
        embed_tiles(SlideTiles(corner_slide.path, grid), Noting(), range(35), gpu_tiles=20, readers=2)

    with late_streams(monkeypatch):
        for _ in range(2):
            thread = threading.Thread(target=embed)
            thread.start()
            thread.join()
    assert len(seen) == 1
    assert {at_once for _, at_once in seen} == {16}


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_slide_that_crashes_a_process_is_read_once_more(
    crashes, corner_slide, grid, pixels, tmp_path, monkeypatch, caplog
):
    kind = {1: partial(OnceCrashingTiles, mark=tmp_path / "crashed"), 2: CrashingTiles}[crashes]
    tiles = kind(corner_slide.path, grid, torn=tuple(grid.coords[20]))
    calls = []
    read = {"gpu_tiles": 2, "readers": 2, "all_read": lambda: calls.append(1)}
    monkeypatch.setattr(embedding, "pinned_empty", torch.empty)
    monkeypatch.setattr(tile_readers, "pin_in_place", lambda x: False)
    fails = pytest.raises(SlideError, match=r"reading it crashed the process \(SIGKILL\)")
    with late_streams(monkeypatch), nullcontext() if crashes == 1 else fails:
        found = embed_tiles(tiles, Means(), range(35), **read)
        np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)
    assert len(calls) == 2 - crashes
    assert caplog.text.count("corner.svs: reading it crashed the process (SIGKILL)") == 1
