import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from typing import ClassVar

import numpy as np
import openslide
import pytest
import torch

from preprocessing.encoders import embedding
from preprocessing.encoders.config import CPU_TILES
from preprocessing.encoders.embedding import WAITING_BATCHES, SlideTiles, embed_tiles, read_ahead
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.slides.reader import SlideReader
from preprocessing.tiling.tiles import TileConfig, read_tile, tile_slide
from tests.late_streams import computed, late_streams

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


class TestReadingAhead:
    @pytest.mark.parametrize(("readers", "at_once"), [(1, 4), (3, 4), (4, 100), (50, 1)])
    def test_brings_every_tile_once(self, corner_slide, grid, pixels, readers, at_once):
        seen = []
        for batch, tiles in read_ahead(
            SlideTiles(corner_slide.path, grid), range(2, 35), at_once=at_once, readers=readers, pinned=False
        ):
            assert 1 <= len(batch) == len(tiles) <= at_once
            np.testing.assert_array_equal(tiles, pixels[batch.start : batch.stop])
            seen += batch
        assert sorted(seen) == list(range(2, 35))

    def test_holds_no_more_than_a_few_batches(self, corner_slide, grid, monkeypatch):
        """With nobody taking them the threads read what there is room for, and wait."""
        read, waiting, before = [], threading.Event(), threading.active_count()

        def noted(reader, grid, row):
            read.append(row)
            if len(read) == 2 * WAITING_BATCHES * 3:
                waiting.set()
            return read_tile(reader, grid, row)

        monkeypatch.setattr(embedding, "read_tile", noted)
        with closing(
            read_ahead(SlideTiles(corner_slide.path, grid), range(35), at_once=3, readers=2, pinned=False)
        ) as batches:
            next(batches)
            assert waiting.wait(20)
            time.sleep(0.3)  # in which the threads would go on
            assert len(read) <= 2 * WAITING_BATCHES * 3
        assert threading.active_count() == before

    def test_the_end_of_reading_is_announced_once_and_before_the_last_batches_are_taken(
        self, corner_slide, grid, monkeypatch
    ):
        threads, seen = [], []

        class Pool(ThreadPoolExecutor):
            def submit(self, *work, **options):
                threads.append(super().submit(*work, **options))
                return threads[-1]

        monkeypatch.setattr(embedding, "ThreadPoolExecutor", Pool)
        for batch, _ in read_ahead(
            SlideTiles(corner_slide.path, grid),
            range(35),
            at_once=10,
            readers=2,
            pinned=False,
            all_read=lambda: seen.append("all read"),
        ):
            wait(threads, timeout=20)  # there is room for all batches
            seen.append(len(batch))
        assert sum(one for one in seen if one != "all read") == 35
        assert seen.count("all read") == 1
        assert seen.index("all read") <= 1

    @pytest.mark.parametrize(("readers", "at_once"), [(1, 4), (3, 4), (50, 1)])
    def test_the_end_of_reading_is_announced_however_slow_it_is(self, corner_slide, grid, readers, at_once):
        calls = []
        read = {"at_once": at_once, "readers": readers, "pinned": False, "all_read": lambda: calls.append(1)}
        assert len(list(read_ahead(SlideTiles(corner_slide.path, grid), range(35), **read))) >= 35 // at_once
        assert calls == [1]

    def test_an_error_in_a_thread_is_raised(self, corner_slide, grid, monkeypatch):
        def fails(reader, grid, row):
            if row == 30:
                raise openslide.OpenSlideError("torn tile")
            return read_tile(reader, grid, row)

        monkeypatch.setattr(embedding, "read_tile", fails)
        with pytest.raises(openslide.OpenSlideError, match="torn tile"):
            for _ in read_ahead(SlideTiles(corner_slide.path, grid), range(35), at_once=4, readers=3, pinned=False):
                pass


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

        def __call__(self, tiles):
            Stream.events.append("queued")
            return tiles.float().mean((1, 2))

    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: x.clone())
    found = embed_tiles(SlideTiles(corner_slide.path, grid), Encoder(), range(35), gpu_tiles=10, readers=1)
    monkeypatch.undo()
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)
    assert Stream.events.count("queued") == 4
    assert Stream.events[:3] == ["queued", "arrived", "queued"]  # the copy of the first batch; nothing is fetched yet
    assert Stream.events[3:5] == ["arrived", "arrived"]  # the first batch's features, the second's copy


@pytest.mark.parametrize("early", ["", "copying", "computing"])
def test_on_a_gpu_every_wait_that_features_need_is_there(early, corner_slide, grid, pixels, monkeypatch):
    """With streams that copy and compute as late or as early as they may: see `tests.late_streams`."""

    class Encoder:
        device, dim = torch.device("cuda"), 3

        def __call__(self, tiles):
            return computed(lambda x: x.mean((1, 2)), tiles)

    monkeypatch.setattr(embedding, "pinned_empty", torch.empty)
    with late_streams(monkeypatch, early=early):
        found = embed_tiles(SlideTiles(corner_slide.path, grid), Encoder(), range(35), gpu_tiles=2, readers=2)
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)
