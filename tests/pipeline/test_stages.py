import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from pipeline import stages
from pipeline.compute import Outcome, Workers, map_slides
from pipeline.stages import embed, embed_tiles, tile
from preprocessing.encoders import EncoderConfig, load_encoder
from preprocessing.errors import SlideError
from preprocessing.features import FeatureStore, feature_key, tile_key
from preprocessing.quality import QualityConfig
from preprocessing.reader import SlideReader
from preprocessing.slides import SlideFile, probe_slide
from preprocessing.tiles import TileConfig, read_tile
from preprocessing.tissue import TissueConfig

CONFIG = TileConfig(tile_px=64)
OUTLINE = '{"type": "Polygon", "coordinates": [[[640, 0], [1152, 0], [1152, 384], [640, 384], [640, 0]]]}'
SLIDES = Path(__file__).parents[2].parent / "shared" / "data" / "slides"


@pytest.fixture(autouse=True)
def threads_stay():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder(tiny_vit):
    return EncoderConfig(name=f"local-dir:{tiny_vit}")


@pytest.fixture
def slide(corner_slide, tmp_path):
    """A copy that may be changed."""
    path = tmp_path / "S.svs"
    shutil.copy(corner_slide.path, path)
    return replace(corner_slide, path=path)


def run(slide, store, encoder, *, batch_tiles=8, config=CONFIG):
    first = tile(slide, store=store, config=config)
    second = embed(slide, store=store, config=config, encoder=encoder, device="cpu", batch_tiles=batch_tiles)
    return first, second


class TestTile:
    def test_stores_the_grid_and_tells_how_many(self, slide, tmp_path):
        outcome = tile(slide, store=tmp_path / "store", config=CONFIG)
        assert outcome == Outcome("corner", "done", n_tiles=35)  # 7 columns, 5 rows
        tiled = FeatureStore(tmp_path / "store").read_tiles(tile_key(slide, CONFIG))
        assert len(tiled.grid) == 35
        assert tiled.mask.shape == (round(700 / 16), round(1200 / 16))

    def test_tells_the_recipe_and_the_origin(self, slide, tmp_path):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        attributes = dict(zarr.open_group(tmp_path / "store" / "tiles" / tile_key(slide, CONFIG), mode="r").attrs)
        assert attributes["slide_id"] == "corner"
        assert attributes["slide_fingerprint"] == slide.fingerprint
        assert attributes["slide_mpp_xy"] == [0.5, 0.5]
        assert attributes["recipe"] == CONFIG.model_dump(mode="json")

    def test_tells_whose_mask_it_was_and_what_was_dropped(self, slide, tmp_path):
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
        told = dict(stored.attrs)
        assert told["tissue_mask"] == {"corner.geojson": hashlib.sha256(OUTLINE.encode()).hexdigest()[:32]}
        assert told["dropped"]["empty"] > 0
        whole_tiles = (1152 // 64 - 640 // 64) * (384 // 64)  # columns 10–17, rows 0–5
        assert outcome.n_tiles + sum(told["dropped"].values()) == whole_tiles
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
        with pytest.raises(SlideError, match=r"S\.svs was replaced while the run was on; run again"):
            tile(slide, store=tmp_path / "store", config=CONFIG)
        assert not FeatureStore(tmp_path / "store").has_tiles(tile_key(slide, CONFIG))


class TestEmbed:
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

    def test_tells_the_encoder_in_the_attributes(self, slide, tmp_path, encoder):
        run(slide, tmp_path / "store", encoder)
        backbone = load_encoder(encoder)
        group = zarr.open_group(
            tmp_path / "store" / "features" / feature_key(slide, CONFIG, backbone.fingerprint), mode="r"
        )
        assert group.attrs["encoder"] == backbone.describe()
        assert group.attrs["recipe"] == CONFIG.model_dump(mode="json")

    def test_batch_size_changes_neither_key_nor_features(self, slide, tmp_path, encoder):
        bags = []
        key = feature_key(slide, CONFIG, load_encoder(encoder).fingerprint)
        for batch_tiles in (1, 7, 64):
            store = tmp_path / f"store-{batch_tiles}"
            run(slide, store, encoder, batch_tiles=batch_tiles)
            bags.append(FeatureStore(store).read_features(key).features)
        for other in bags[1:]:
            np.testing.assert_allclose(other, bags[0], atol=2e-3)

    def test_all_tiles_are_embedded_in_their_order(self, slide, tmp_path, encoder):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        grid = FeatureStore(tmp_path / "store").read_tiles(tile_key(slide, CONFIG)).grid
        backbone = load_encoder(encoder)
        with SlideReader(slide.path) as reader:
            features = embed_tiles(reader, grid, backbone, batch_tiles=8)  # 35 tiles: the last batch has three
            one_by_one = np.concatenate([backbone.embed(read_tile(reader, grid, i)[None].copy()) for i in range(35)])
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, one_by_one, atol=1e-5)

    def test_a_slide_that_was_replaced_after_tiling_is_refused(self, slide, tmp_path, encoder, paint, scan):
        tile(slide, store=tmp_path / "store", config=CONFIG)
        other = scan(paint(1200, 700, (0, 0, 500, 500)), slide_id="other")
        shutil.copy(other.path, slide.path)
        with pytest.raises(SlideError, match=r"S\.svs was replaced while the run was on; run again"):
            embed(slide, store=tmp_path / "store", config=CONFIG, encoder=encoder, device="cpu", batch_tiles=8)
        assert not (tmp_path / "store" / "features").exists()

    def test_a_moved_slide_finds_its_features(self, slide, tmp_path, encoder):
        run(slide, tmp_path / "store", encoder)
        (tmp_path / "archive").mkdir()
        moved = Path(shutil.move(slide.path, tmp_path / "archive" / "corner.svs"))
        found = probe_slide(SlideFile("corner", "corner", moved), default_mpp=None)
        assert FeatureStore(tmp_path / "store").has_features(
            feature_key(found, CONFIG, load_encoder(encoder).fingerprint)
        )

    def test_features_that_are_not_finite_are_not_stored(self, slide, tmp_path, encoder, monkeypatch):
        monkeypatch.setattr(stages, "embed_tiles", lambda reader, grid, *_, **__: np.full((len(grid), 16), np.nan))
        with pytest.raises(SlideError, match="not finite"):
            run(slide, tmp_path / "store", encoder)
        assert not (tmp_path / "store" / "features").exists()


def test_bad_slides_fail_with_their_reason_and_the_others_go_on(slide, tmp_path, paint, scan, encoder):
    empty = scan(paint(600, 400), slide_id="empty")
    small = scan(paint(48, 48, (0, 0, 48, 48)), slide_id="small", levels=(1,))
    gone = replace(slide, slide_id="gone", path=tmp_path / "gone.svs")
    slides = [empty, small, gone, slide]
    store = tmp_path / "store"
    with Workers(0, "cpu") as workers:
        tiled = {o.slide_id: o for o in map_slides(workers, tile, slides, stage="tiling", store=store, config=CONFIG)}
        options = {"store": store, "config": CONFIG, "encoder": encoder, "device": "cpu", "batch_tiles": 16}
        embedded = map_slides(workers, embed, [slide], stage="embedding", **options)
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
        (outcome,) = map_slides(workers, tile, [slide], stage="tiling", store=tmp_path, config=TileConfig())
    assert (outcome.status, outcome.n_tiles) == ("failed", 0)
    assert re.match(reason, outcome.reason)
