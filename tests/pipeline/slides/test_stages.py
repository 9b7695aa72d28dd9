import hashlib
import re
import shutil
import threading
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from pipeline.cluster.mapping import Outcome
from pipeline.cluster.workers import Workers
from pipeline.slides import stages
from pipeline.slides.feature_recipe import FeatureRecipe
from pipeline.slides.stages import SlidePart, divide, embed, embed_all, join, tile, tile_all
from preprocessing.encoders import embedding, tile_readers
from preprocessing.encoders.config import CPU_TILES
from preprocessing.encoders.encoder import EncoderConfig, load_encoder
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import SlideError
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.reader import SlideReader
from preprocessing.slides.slide import Slide, SlideFile
from preprocessing.tiling.quality import QualityConfig
from preprocessing.tiling.stain import StainConfig
from preprocessing.tiling.tiles import TileConfig
from preprocessing.tiling.tissue import TissueConfig

CONFIG = TileConfig(tile_px=64)
OUTLINE = '{"type": "Polygon", "coordinates": [[[640, 0], [1152, 0], [1152, 384], [640, 384], [640, 0]]]}'
SLIDES = Path(__file__).parents[3].parent / "shared" / "data" / "slides"


@pytest.fixture(autouse=True)
def threads_stay():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder(tiny_vit):
    return EncoderConfig(name=f"local-dir:{tiny_vit}", precision="float32")


@pytest.fixture
def slide(corner_slide, tmp_path):
    """A copy that may be changed."""
    path = tmp_path / "S.svs"
    shutil.copy(corner_slide.path, path)
    return replace(corner_slide, path=path)


def recipe(store, encoder, *, config=CONFIG):
    return FeatureRecipe(str(store), config, encoder, "cpu", 8)


def whole(slide, n_tiles=35):
    return SlidePart(slide, range(n_tiles), n_tiles)


def run(slide, store, encoder, *, config=CONFIG):
    first = tile(slide, store=store, config=config)
    return first, embed(whole(slide, first.n_tiles), recipe=recipe(store, encoder, config=config))


def replaced_after(monkeypatch, name, path, *, module=stages):
    """The slide's file becomes another as soon as that function, as the stages call it, has read it."""
    work = getattr(module, name)

    def works(*args, **options):
        result = work(*args, **options)
        path.write_bytes(path.read_bytes() + b"another")
        return result

    monkeypatch.setattr(module, name, works)


class TestLook:
    def test_it_is_kept_beside_the_tiles(self, slide, tmp_path):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        look = FeatureStore(tmp_path / "store").read_slide_stats(tile_key(slide, CONFIG))
        assert look.tissue_mm2 == pytest.approx(450 * 320 * 0.25 / 1e6, rel=0.1)  # x 700–1150, y 60–380, at 0.5 µm/px

    def test_a_slide_that_was_tiled_before_is_looked_at_and_not_tiled_again(self, slide, tmp_path, monkeypatch):
        store = FeatureStore(tmp_path / "store")
        tile(slide, store=store.place, config=CONFIG)
        look = store.read_slide_stats(tile_key(slide, CONFIG))
        store.remove(f"slide_stats/{tile_key(slide, CONFIG)}")
        assert not store.has_slide_stats(tile_key(slide, CONFIG))
        monkeypatch.setattr(stages, "tile_slide", None)  # would be called
        assert tile(slide, store=store.place, config=CONFIG).n_tiles == 35
        assert store.read_slide_stats(tile_key(slide, CONFIG)) == look


class TestStain:
    def test_tiles_are_embedded_in_their_new_colours_and_the_group_says_so(self, slide, tmp_path, encoder, monkeypatch):
        config = CONFIG.model_copy(update={"stain": StainConfig(method="reinhard")})
        monkeypatch.setattr("preprocessing.tiling.tiles.fit_normaliser", lambda *_: (lambda tile: 255 - tile, ""))
        plain = run(slide, tmp_path, encoder)
        run(slide, tmp_path, encoder, config=config)
        store, mark = FeatureStore(tmp_path), load_encoder(encoder).fingerprint
        keys = [feature_key(slide, one, mark) for one in (CONFIG, config)]
        before, after = (store.read_features(key).features.astype(float) for key in keys)
        assert plain[0].n_tiles == len(before) == len(after)
        assert np.abs(after - before).mean() > 0.05
        assert store.attributes(f"features/{keys[1]}")["stain"]["method"] == "reinhard"
        assert "stain" not in store.attributes(f"features/{keys[0]}")

    def test_a_slide_whose_stain_stays_says_so_in_the_ledger_and_in_the_store(
        self, slide, tmp_path, encoder, monkeypatch
    ):
        config = CONFIG.model_copy(update={"stain": StainConfig(method="macenko")})
        monkeypatch.setattr(
            "preprocessing.tiling.tiles.fit_normaliser", lambda *_: (None, "stain not normalised: one colour")
        )
        _, outcome = run(slide, tmp_path, encoder, config=config)
        assert (outcome.status, outcome.reason) == ("done", "stain not normalised: one colour")
        key = feature_key(slide, config, load_encoder(encoder).fingerprint)
        assert FeatureStore(tmp_path).attributes(f"features/{key}")["stain"]["doubt"] == outcome.reason
        unchanged = feature_key(slide, CONFIG, load_encoder(encoder).fingerprint)
        run(slide, tmp_path, encoder)
        both = [FeatureStore(tmp_path).read_features(one).features for one in (key, unchanged)]
        np.testing.assert_array_equal(*both)

    def test_a_slide_that_is_embedded_in_parts_says_so_too(self, slide, tmp_path, encoder, monkeypatch):
        config = CONFIG.model_copy(update={"stain": StainConfig(method="macenko")})
        monkeypatch.setattr("preprocessing.tiling.tiles.fit_normaliser", lambda *_: (None, "one colour"))
        tile(slide, store=tmp_path, config=config)
        made, parts = recipe(tmp_path, encoder, config=config), [range(0, 16), range(16, 35)]
        for rows in parts:
            assert embed(SlidePart(slide, rows, 35), recipe=made).reason == "one colour"
        assert join(whole(slide), recipe=made, parts={"corner": parts}).reason == "one colour"
        key = feature_key(slide, config, load_encoder(encoder).fingerprint)
        assert FeatureStore(tmp_path).attributes(f"features/{key}")["stain"]["doubt"] == "one colour"


class TestTile:
    def test_stores_the_grid_and_reports_how_many(self, slide, tmp_path):
        outcome = tile(slide, store=tmp_path / "store", config=CONFIG)
        key = tile_key(slide, CONFIG)
        assert outcome == Outcome("corner", "done", n_tiles=35, tiles=key)  # 7 columns, 5 rows
        tiled = FeatureStore(tmp_path / "store").read_tiles(tile_key(slide, CONFIG))
        assert len(tiled.grid) == 35
        assert tiled.mask.shape == (round(700 / 16), round(1200 / 16))

    def test_reports_the_recipe_and_the_origin(self, slide, tmp_path):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        attributes = dict(zarr.open_group(tmp_path / "store" / "tiles" / tile_key(slide, CONFIG), mode="r").attrs)
        assert attributes["slide_id"] == "corner"
        assert attributes["slide_fingerprint"] == slide.fingerprint
        assert attributes["slide_mpp_xy"] == [0.5, 0.5]
        assert attributes["recipe"] == CONFIG.model_dump(mode="json")

    def test_reports_whose_mask_it_was_and_what_was_dropped(self, slide, tmp_path):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        group = tmp_path / "store" / "tiles"
        attributes = dict(zarr.open_group(group / tile_key(slide, CONFIG), mode="r").attrs)
        assert (attributes["tissue_mask"], attributes["dropped"]) == (None, {})
        (tmp_path / "corner.geojson").write_text(OUTLINE)
        config = TileConfig(
            tile_px=64, tissue=TissueConfig(masks=tmp_path), quality=QualityConfig(min_sharpness=1, max_empty=0.5)
        )
        outcome = tile(slide, store=tmp_path / "store", config=config)
        stored = zarr.open_group(group / tile_key(slide, config), mode="r")
        attributes = dict(stored.attrs)
        assert attributes["tissue_mask"] == {"corner.geojson": hashlib.sha256(OUTLINE.encode()).hexdigest()[:32]}
        assert attributes["dropped"]["empty"] > 0
        whole_tiles = (1152 // 64 - 640 // 64) * (384 // 64)  # columns 10–17, rows 0–5
        assert outcome.n_tiles + sum(attributes["dropped"].values()) == whole_tiles
        mask = np.asarray(stored["mask"][...])
        assert mask.shape == (44, 75)
        assert mask.sum() == 32 * 24  # 640 … 1152 by 0 … 384, in pixels of 16

    def test_a_changed_mask_makes_other_tiles_and_none_makes_none(self, slide, tmp_path):
        store, config = tmp_path / "store", TileConfig(tile_px=64, tissue=TissueConfig(masks=tmp_path))
        tile(slide, store=store, config=CONFIG)
        with pytest.raises(SlideError, match="no tissue mask in"):
            tile(slide, store=store, config=config)
        assert not FeatureStore(store).has_tiles(tile_key(slide, config))
        (tmp_path / "corner.geojson").write_text(OUTLINE)
        first = tile(slide, store=store, config=config)
        (tmp_path / "corner.geojson").write_text(OUTLINE.replace("384", "200"))
        assert not FeatureStore(store).has_tiles(tile_key(slide, config))
        assert tile(slide, store=store, config=config).n_tiles < first.n_tiles

    def test_refuses_a_slide_that_was_replaced_since_it_was_found(self, slide, tmp_path, paint, scan):
        other = scan(paint(700, 600, (0, 0, 500, 500)), slide_id="other")
        shutil.copy(other.path, slide.path)
        with pytest.raises(SlideError, match=r"S\.svs was replaced during the run; run again"):
            tile(slide, store=tmp_path / "store", config=CONFIG)
        assert not FeatureStore(tmp_path / "store").has_tiles(tile_key(slide, CONFIG))

    def test_refuses_a_slide_that_is_gone_since_it_was_found(self, slide, tmp_path):
        slide.path.unlink()
        with pytest.raises(SlideError, match=r"S\.svs was removed during the run; restore it and run again"):
            tile(slide, store=tmp_path / "store", config=CONFIG)


class TestEmbed:
    @pytest.mark.parametrize("name", ["tile_slide", "measure_slide"])
    def test_a_slide_that_is_replaced_while_it_is_tiled_is_not_stored(self, slide, tmp_path, monkeypatch, name):
        replaced_after(monkeypatch, name, slide.path)
        with pytest.raises(SlideError, match="was replaced during the run"):
            tile(slide, store=tmp_path / "store", config=CONFIG)
        assert not FeatureStore(tmp_path / "store").names("tiles")

    def test_the_store_says_how_long_the_tiles_of_a_whole_slide_took_and_on_what(self, slide, tmp_path, encoder):
        run(slide, tmp_path, encoder)
        key = feature_key(slide, CONFIG, load_encoder(encoder).fingerprint)
        timed = FeatureStore(tmp_path).attributes(f"features/{key}")["embedding"]
        assert timed == {"tiles": 35, "device": "cpu", "seconds": timed["seconds"]}
        assert timed["seconds"] > 0

    @pytest.mark.parametrize("n_rows", [35, 16])
    def test_a_slide_that_is_replaced_while_it_is_embedded_is_not_stored(
        self, slide, tmp_path, encoder, monkeypatch, n_rows
    ):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        replaced_after(monkeypatch, "embed_tiles", slide.path, module=embedding)
        with pytest.raises(SlideError, match="was replaced during the run"):
            embed(SlidePart(slide, range(n_rows), 35), recipe=recipe(tmp_path / "store", encoder))
        store = FeatureStore(tmp_path / "store")
        assert store.names("features") == store.names("parts") == []

    def test_stored_features_are_those_of_the_tiles_at_their_coordinates(self, slide, tmp_path, encoder):
        _, outcome = run(slide, tmp_path / "store", encoder)
        assert outcome == Outcome("corner", "done", n_tiles=35)
        backbone = load_encoder(encoder)
        bag = FeatureStore(tmp_path / "store").read_features(feature_key(slide, CONFIG, backbone.fingerprint))
        assert bag.features.shape == (35, 16)
        with SlideReader(slide.path) as reader:
            again = np.stack(
                [reader.read(x, y, level=0, span=(64.0, 64.0), size_px=(64, 64)) for x, y in bag.coords.tolist()]
            )
        np.testing.assert_allclose(bag.features, backbone.embed(again), atol=2e-3)
        np.testing.assert_array_equal(bag.coords, 64 * bag.cells)
        apart = np.abs(bag.features[1:].astype(float) - bag.features[:-1]).max(1)
        assert apart.min() > 0.02  # each tile has its own feature, so an exchange would be seen

    def test_reports_the_encoder_in_the_attributes(self, slide, tmp_path, encoder):
        run(slide, tmp_path / "store", encoder)
        backbone = load_encoder(encoder)
        group = zarr.open_group(
            tmp_path / "store" / "features" / feature_key(slide, CONFIG, backbone.fingerprint), mode="r"
        )
        assert group.attrs["encoder"] == backbone.describe()
        assert group.attrs["recipe"] == CONFIG.model_dump(mode="json")

    def test_a_slide_that_was_replaced_after_tiling_is_refused(self, slide, tmp_path, encoder, paint, scan):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        other = scan(paint(1200, 700, (0, 0, 500, 500)), slide_id="other")
        shutil.copy(other.path, slide.path)
        with pytest.raises(SlideError, match=r"S\.svs was replaced during the run; run again"):
            embed(whole(slide), recipe=recipe(tmp_path / "store", encoder))
        assert not (tmp_path / "store" / "features").exists()

    def test_tiles_that_are_damaged_since_are_made_again_by_the_same_settings(self, slide, tmp_path, encoder):
        """64 px, not the 256 that tiles have by default."""
        tile(slide, store=tmp_path / "store", config=CONFIG)
        key = tile_key(slide, CONFIG)
        expected = FeatureStore(tmp_path / "store").read_tiles(key).grid
        for chunk in (tmp_path / "store" / "tiles" / key / "coords").rglob("*"):
            if chunk.is_file() and chunk.name != "zarr.json":
                chunk.write_bytes(b"damaged")
        assert FeatureStore(tmp_path / "store").find_tiles(key) is None
        assert embed(whole(slide), recipe=recipe(tmp_path / "store", encoder)).status == "done"
        np.testing.assert_array_equal(FeatureStore(tmp_path / "store").read_tiles(key).grid.coords, expected.coords)

    def test_a_moved_slide_finds_its_features(self, slide, tmp_path, encoder):
        run(slide, tmp_path / "store", encoder)
        (tmp_path / "archive").mkdir()
        moved = Path(shutil.move(slide.path, tmp_path / "archive" / "corner.svs"))
        found = probe_slide(SlideFile("corner", "corner", moved), default_mpp=None)
        assert FeatureStore(tmp_path / "store").has_features(
            feature_key(found, CONFIG, load_encoder(encoder).fingerprint)
        )

    def test_features_that_are_not_finite_are_not_stored(self, slide, tmp_path, encoder, monkeypatch):
        monkeypatch.setattr(embedding, "embed_tiles", lambda tiles, *_, **__: np.full((len(tiles.grid), 16), np.nan))
        with pytest.raises(SlideError, match="not finite"):
            run(slide, tmp_path / "store", encoder)
        assert not (tmp_path / "store" / "features").exists()


class TestDivide:
    def slides(self, *n_tiles):
        names = [f"S{number}" for number in range(len(n_tiles))]
        slides = [Slide(name, name, Path(name), (0.5, 0.5), "metadata", (1, 1), "f" * 32) for name in names]
        return slides, dict(zip(names, n_tiles, strict=True))

    def test_many_slides_stay_whole(self):
        slides, n_tiles = self.slides(9000, 8000, 7000, 6000, 9000, 9000)
        parts = divide(slides, n_tiles, 2)
        assert [(part.slide, part.rows, part.n_tiles) for part in parts] == [
            (slide, range(n_tiles[slide.slide_id]), n_tiles[slide.slide_id]) for slide in slides
        ]
        assert all(part.is_whole for part in parts)

    def test_a_giant_is_shared_by_all_workers(self):
        slides, n_tiles = self.slides(40_000, 500)
        parts = divide(slides, n_tiles, 4)
        giant = [part for part in parts if part.slide_id == "S0"]
        assert len(parts) == len(giant) + 1
        assert len(giant) > 40
        assert [row for part in giant for row in part.rows] == list(range(40_000))
        assert all(part.n_tiles == 40_000 for part in giant)

    def test_parts_are_the_same_whatever_else_is_to_be_done_and_by_whom(self):
        slides, n_tiles = self.slides(40_000, *[900] * 10)
        first = [part.rows for part in divide(slides, n_tiles, 4) if part.slide_id == "S0"]
        later = [part.rows for part in divide(slides[:5], n_tiles, 2) if part.slide_id == "S0"]
        assert first == later

    def test_a_worker_that_is_alone_shares_nothing(self):
        slides, n_tiles = self.slides(40_000)
        assert len(divide(slides, n_tiles, 1)) == 1

    def test_little_work_is_not_cut_to_pieces(self):
        slides, n_tiles = self.slides(250)
        assert len(divide(slides, n_tiles, 64)) == 1


class TestShared:
    """A slide that several workers share."""

    @pytest.fixture
    def small_parts(self, monkeypatch):
        monkeypatch.setattr(stages, "PART_TILES", CPU_TILES)
        monkeypatch.setattr(Workers, "concurrency", lambda self: 2)

    def test_has_the_features_of_one_that_was_done_by_one(self, slide, tmp_path, encoder, small_parts):
        made = recipe(tmp_path / "store", encoder)
        tile(slide, store=made.store, config=CONFIG)
        with Workers(0, "cpu") as workers:
            (outcome,) = embed_all(workers, [slide], {"corner": 35}, recipe=made)
        assert (outcome.slide_id, outcome.status, outcome.n_tiles) == ("corner", "done", 35)
        run(slide, tmp_path / "other", encoder)
        key = feature_key(slide, CONFIG, load_encoder(encoder).fingerprint)
        shared, alone = (FeatureStore(tmp_path / name).read_features(key) for name in ("store", "other"))
        for name in ("features", "coords", "cells"):
            np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
        assert FeatureStore(tmp_path / "store").names("parts") == []

    def test_fails_with_its_part(self, slide, tmp_path, encoder, small_parts, monkeypatch):
        embed_tiles = embedding.embed_tiles

        def fails_late(tiles, backbone, rows, **options):
            if rows.start == 32:
                raise SlideError("the last tiles cannot be read")
            return embed_tiles(tiles, backbone, rows, **options)

        monkeypatch.setattr(embedding, "embed_tiles", fails_late)
        made = recipe(tmp_path / "store", encoder)
        tile(slide, store=made.store, config=CONFIG)
        with Workers(0, "cpu") as workers:
            (outcome,) = embed_all(workers, [slide], {"corner": 35}, recipe=made)
        assert (outcome.status, outcome.reason) == ("failed", "the last tiles cannot be read")
        assert not (tmp_path / "store" / "features").exists()

    def test_keeps_parts_that_are_done_for_the_next_run(self, slide, tmp_path, encoder, monkeypatch):
        made = recipe(tmp_path / "store", encoder)
        tile(slide, store=made.store, config=CONFIG)
        parts = [SlidePart(slide, range(0, 16), 35), SlidePart(slide, range(16, 35), 35)]
        for part in parts:
            embed(part, recipe=made)
        monkeypatch.setattr(embedding, "embed_tiles", None)  # would be called
        for part in parts:
            assert embed(part, recipe=made) == Outcome("corner", "done", n_tiles=len(part.rows))
        for _ in range(2):  # the second time as after a worker that died before it could tell
            join(whole(slide), recipe=made, parts={"corner": [part.rows for part in parts]})
        key = feature_key(slide, CONFIG, load_encoder(encoder).fingerprint)
        assert len(FeatureStore(made.store).read_features(key).features) == 35
        for part in parts:  # and of another run that began before this one ended
            assert embed(part, recipe=made) == Outcome("corner", "done", n_tiles=len(part.rows))

    def test_that_is_replaced_before_its_parts_are_joined_is_not_stored(self, slide, tmp_path, encoder):
        made = recipe(tmp_path / "store", encoder)
        tile(slide, store=made.store, config=CONFIG)
        parts = [range(0, 16), range(16, 35)]
        for rows in parts:
            embed(SlidePart(slide, rows, 35), recipe=made)
        slide.path.write_bytes(slide.path.read_bytes() + b"scanned again")
        with pytest.raises(SlideError, match="was replaced during the run"):
            join(whole(slide), recipe=made, parts={"corner": parts})
        assert FeatureStore(made.store).names("features") == []

    def test_done_whole_leaves_no_parts_of_an_earlier_run(self, slide, tmp_path, encoder):
        made = recipe(tmp_path / "store", encoder)
        tile(slide, store=made.store, config=CONFIG)
        embed(SlidePart(slide, range(0, 16), 35), recipe=made)
        embed(whole(slide), recipe=made)
        assert FeatureStore(tmp_path / "store").names("parts") == []


def test_bad_slides_fail_with_their_reason_and_the_others_go_on(slide, tmp_path, paint, scan, encoder):
    empty = scan(paint(600, 400), slide_id="empty")
    small = scan(paint(48, 48, (0, 0, 48, 48)), slide_id="small", levels=(1,))
    gone = replace(slide, slide_id="gone", path=tmp_path / "gone.svs")
    slides = [empty, small, gone, slide]
    store = tmp_path / "store"
    with Workers(0, "cpu") as workers:
        tiled = {o.slide_id: o for o in tile_all(workers, slides, store=str(store), config=CONFIG)}
        embedded = embed_all(workers, [slide], {"corner": 35}, recipe=recipe(store, encoder))
    assert {name: outcome.status for name, outcome in tiled.items()} == {
        "empty": "failed",
        "small": "failed",
        "gone": "failed",
        "corner": "done",
    }
    assert tiled["empty"].reason == "no tissue found"
    assert tiled["small"].reason.startswith("smaller than one tile: 48 × 48 pixels")
    assert "gone.svs" in tiled["gone"].reason
    assert [(outcome.slide_id, outcome.status, outcome.n_tiles) for outcome in embedded] == [("corner", "done", 35)]


class GPUEncoder:
    """A GPU by name, and its streams; the last batch of the first slide arrives when the next slide is being read."""

    device, dim, fingerprint = torch.device("cuda"), 3, "f" * 8

    def __init__(self):
        self.reading, self.batches, self.events = threading.Event(), 0, []

    def describe(self):
        return {"fingerprint": self.fingerprint}

    def __call__(self, tiles, *, at_once):
        self.batches += 1
        return tiles.float().mean((1, 2))

    def stream(self, *_):
        return SimpleNamespace(
            synchronize=lambda: None,
            wait_stream=lambda other: None,
            record_event=lambda: SimpleNamespace(synchronize=partial(self.arrive, self.batches)),
        )

    def arrive(self, batch):
        if batch == 4:
            assert self.reading.wait(20)
        self.events.append("arrived")


def test_on_a_gpu_the_next_slide_is_read_while_the_last_batches_are_computed(
    corner_slide, tmp_path, encoder, monkeypatch
):
    """One worker with one slot."""
    slides, store = [], tmp_path / "store"
    for name in ("first", "next"):
        (tmp_path / name).mkdir()
        slides.append(replace(corner_slide, slide_id=name, path=tmp_path / name / "S.svs"))
        shutil.copy(corner_slide.path, slides[-1].path)
        tile(slides[-1], store=str(store), config=CONFIG)
    gpu, answer, write = GPUEncoder(), tile_readers._Process.answer, FeatureStore.write_features
    events, answers = gpu.events, []

    def noted(self):
        answers.append(answer(self))
        if len(answers) == 5:
            events.append("next is read")
            gpu.reading.set()
        return answers[-1]

    monkeypatch.setattr(tile_readers._Process, "answer", noted)
    monkeypatch.setattr(FeatureStore, "write_features", lambda *a, **k: events.append("stored") or write(*a, **k))
    monkeypatch.setattr("preprocessing.encoders.encoder.load_encoder", lambda *_: gpu)
    monkeypatch.setattr(stages, "_readers", lambda device: 1)
    monkeypatch.setattr(embedding, "pinned_empty", torch.empty)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, gpu.stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: x.clone())
    made = replace(recipe(store, encoder), device="cuda", gpu_tiles=10)
    with Workers(0, "cpu") as workers:
        outcomes = embed_all(workers, slides, {"first": 35, "next": 35}, recipe=made)
    monkeypatch.undo()
    assert {one.slide_id: (one.status, one.reason) for one in outcomes} == dict.fromkeys(
        ("first", "next"), ("done", "")
    )
    assert events.index("next is read") <= 3  # of four batches
    assert events.index("stored") > 3
    keys = [feature_key(slide, CONFIG, gpu.fingerprint) for slide in slides]
    features = [FeatureStore(store).read_features(key).features for key in keys]
    np.testing.assert_array_equal(features[0], features[1])
    assert np.abs(np.diff(features[0], axis=0)).max() > 0


@pytest.mark.skipif(not SLIDES.is_dir(), reason="real and broken slides are not at ../shared/data")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken/openslide-unreadable.svs", r"OpenSlideError: \w+"),
        ("openslide/small.svs", "smaller than one tile: 16 × 16"),
        ("hs2p/test-mask.tif", "no tissue found"),
    ],
)
def test_real_files_that_cannot_be_tiled_fail_with_a_reason(tmp_path, name, reason):
    slide = probe_slide(SlideFile("bad", "bad", SLIDES / name), default_mpp=None)
    with Workers(0, "cpu") as workers:
        (outcome,) = tile_all(workers, [slide], store=str(tmp_path), config=TileConfig())
    assert (outcome.status, outcome.n_tiles) == ("failed", 0)
    assert re.match(reason, outcome.reason)


@pytest.mark.parametrize(
    ("cores", "workers", "gpus", "expected"),
    [(24, None, 2, 11), (24, None, 1, 16), (24, "8", 1, 2), (2, "8", 1, 1), (24, "", 4, 5)],
)
def test_the_cores_of_a_machine_are_shared_by_its_gpus_and_one_of_each_launches_kernels(
    monkeypatch, cores, workers, gpus, expected
):
    monkeypatch.setattr("dask.system.CPU_COUNT", cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("UMEML_PIPELINE_GPU_WORKERS", workers or "")
    assert stages._readers("cuda") == expected
    assert stages._readers("cpu") == 0
