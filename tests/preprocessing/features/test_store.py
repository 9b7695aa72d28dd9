import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import zarr

from preprocessing.encoders.encoder import Encoder, EncoderConfig
from preprocessing.features.group_attributes import FORMAT
from preprocessing.features.keys import feature_key, tile_key
from preprocessing.features.store import Bag, FeatureStore
from preprocessing.io.errors import InputError, RunError, SlideError
from preprocessing.io.fingerprints import fingerprint
from preprocessing.slides.slide import Slide
from preprocessing.tiling.quality import QualityConfig
from preprocessing.tiling.stain import StainConfig
from preprocessing.tiling.tiles import TileConfig, TiledSlide, TileGrid
from preprocessing.tiling.tissue import ColourConfig, TissueConfig

SLIDE = Slide("S1", "C1", Path("/data/S1.svs"), (0.25, 0.25), "metadata", (1000, 800), "f" * 32)


def make_bag(n=5, dim=3, *, scale=1.0, dtype=np.float32):
    features = scale * np.random.default_rng(0).standard_normal((n, dim)).astype(dtype)
    cells = np.column_stack([np.arange(n), np.arange(n) // 2]).astype(np.int32)
    return Bag(features, 512 * cells, cells)


def make_tiled():
    cells = np.array([[3, 0], [4, 1]], np.int32)
    grid = TileGrid(cells * 513, cells, 1, (512.9, 513.1), (128.2, 128.3), 256, 0.5)
    return TiledSlide(grid, np.eye(4, 6, dtype=bool), 31.7, {"empty": 3, "blurred": 0})


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store, of small chunks."""
    monkeypatch.setattr("preprocessing.features.arrays.CHUNK_BYTES", 4096)
    return FeatureStore(tmp_path / "store")


class TestStore:
    def test_tiles_come_back_as_they_were(self, store):
        tiled = make_tiled()
        assert not store.has_tiles("k")
        store.write_tiles("k", tiled, {"slide_id": "S1"})
        assert store.has_tiles("k")
        assert store.count_tiles("k") == 2
        back = store.read_tiles("k")
        for name in ("coords", "cells"):
            np.testing.assert_array_equal(getattr(back.grid, name), getattr(tiled.grid, name))
            assert getattr(back.grid, name).dtype == np.int32
        assert replace(back.grid, coords=None, cells=None) == replace(tiled.grid, coords=None, cells=None)
        np.testing.assert_array_equal(back.mask, tiled.mask)
        assert (back.mask.dtype, back.mask_downsample) == (bool, 31.7)
        assert back.dropped == {"empty": 3, "blurred": 0}

    @pytest.mark.parametrize("n", [1, 5, 1300])  # 1300: more than one chunk
    def test_features_come_back_in_half_precision(self, store, n):
        bag = make_bag(n)
        assert not store.has_features("k")
        store.write_features("k", bag, {})
        assert store.has_features("k")
        back = store.read_features("k")
        assert back.features.dtype == np.float16
        np.testing.assert_array_equal(back.features, bag.features.astype(np.float16))
        np.testing.assert_array_equal(back.coords, bag.coords)
        np.testing.assert_array_equal(back.cells, bag.cells)

    def test_numbers_beyond_half_precision_are_stored_in_single(self, store):
        bag = make_bag()
        bag.features[2, 1] = -70_000  # float16 ends at 65,504
        store.write_features("k", bag, {})
        back = store.read_features("k")
        assert back.features.dtype == np.float32
        np.testing.assert_array_equal(back.features, bag.features)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_not_finite_are_refused(self, store, value):
        bag = make_bag()
        bag.features[4, 2] = value
        with pytest.raises(SlideError, match="features that are not finite"):
            store.write_features("k", bag, {})
        assert not store.has_features("k")

    def test_attributes_report_the_origin_in_a_plain_zarr_group(self, store):
        store.write_features("k", make_bag(), {"slide_id": "S1", "recipe": {"mpp": 0.5}})
        group = zarr.open_group(Path(store.place) / "features" / "k", mode="r")
        attributes = dict(group.attrs)
        assert attributes.pop("content")["files"] == 6  # three arrays, each a description and a chunk
        assert set(attributes.pop("checksums")) == {"features", "coords", "cells"}
        assert len(attributes.pop("own_checksum")) == 32
        assert attributes == {"format": FORMAT, "name": "features/k", "slide_id": "S1", "recipe": {"mpp": 0.5}}
        assert group.metadata.zarr_format == 3
        assert set(group) == {"features", "coords", "cells"}

    def test_parts_of_a_slide_come_back_one_behind_the_other(self, store):
        bag = make_bag(9)
        parts = [range(0, 4), range(4, 9)]
        for rows in reversed(parts):
            assert not store.has_part("k", rows)
            store.write_part("k", rows, bag.features[rows.start : rows.stop])
            assert store.has_part("k", rows)
        back = store.read_parts("k", parts)
        assert back.dtype == np.float32  # shortened once all are known
        np.testing.assert_array_equal(back, bag.features)
        assert not store.has_features("k")
        store.drop_parts("k")
        store.drop_parts("k")
        assert not store.has_part("k", parts[0])

    def test_a_part_that_is_not_whole_is_not_read(self, store):
        store.write_part("k", range(0, 5), make_bag().features)
        (Path(store.place) / "parts" / "k" / "0-5" / "features" / "c" / "0" / "0").unlink()
        with pytest.raises(SlideError, match="parts/k/0-5 is incomplete"):
            store.read_parts("k", [range(0, 5)])

    def test_tiles_and_features_of_one_key_are_two_things(self, store):
        store.write_tiles("k", make_tiled(), {})
        assert not store.has_features("k")

    def test_another_format_is_refused(self, store):
        store.write_features("k", make_bag(), {})
        group = zarr.open_group(Path(store.place) / "features" / "k", mode="r+")
        attributes = dict(group.attrs) | {"format": FORMAT + 1}
        del attributes["own_checksum"]
        group.attrs.update(attributes | {"own_checksum": fingerprint(attributes)})
        with pytest.raises(SlideError, match=rf"features/k has format {FORMAT + 1}, this version reads 2 to {FORMAT}"):
            store.read_features("k")

    @pytest.mark.parametrize("harm", ["lost", "cut"])
    def test_a_group_that_lost_a_part_is_not_there_and_is_made_anew(self, store, harm):
        bag = make_bag(1300)
        store.write_features("k", bag, {})
        chunk = Path(store.place) / "features" / "k" / "features" / "c" / "1" / "0"
        if harm == "lost":
            chunk.unlink()
        else:
            chunk.write_bytes(chunk.read_bytes()[:-7])
        assert not store.has_features("k")
        with pytest.raises(SlideError, match=r"features/k is incomplete \(.*\); run again"):
            store.read_features("k")
        store.write_features("k", bag, {})
        assert store.has_features("k")
        np.testing.assert_allclose(store.read_features("k").features, bag.features, rtol=1e-3)


class TestPlace:
    def test_a_new_store_says_what_it_holds(self, store):
        store.check()
        assert not Path(store.place).exists()
        for _ in range(2):
            store.prepare()
            store.check()
        attributes = dict(zarr.open_group(store.place, mode="r").attrs)
        assert attributes == {"content": "tiles and patch features of whole-slide images", "format": FORMAT}

    def test_a_store_of_a_later_format_is_refused(self, store):
        store.prepare()
        zarr.open_group(store.place, mode="r+").attrs["format"] = FORMAT + 1
        with pytest.raises(InputError, match=f"has format {FORMAT + 1}, and this version writes {FORMAT}"):
            store.check()

    def test_a_zarr_group_of_something_else_is_refused(self, store):
        zarr.create_group(store.place)
        with pytest.raises(InputError, match="is a Zarr group of something else; name another folder"):
            store.check()

    def test_a_folder_of_something_else_is_refused(self, store):
        Path(store.place).mkdir()
        (Path(store.place) / "thesis.docx").touch()
        with pytest.raises(InputError, match=r"holds something else \(thesis.docx\)"):
            store.check()

    @pytest.mark.parametrize("spelling", ["{}", "{}/", "file://{}"])
    def test_of_any_spelling_is_one(self, tmp_path, spelling):
        store = FeatureStore(spelling.format(tmp_path / "store"))
        store.prepare()
        store.write_features("k", make_bag(), {})
        assert FeatureStore(tmp_path / "store").has_features("k")

    def test_in_the_home_folder_is_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        FeatureStore("~/store").write_features("k", make_bag(), {})
        assert FeatureStore(tmp_path / "store").has_features("k")

    def test_a_file_is_refused(self, store):
        Path(store.place).touch()
        with pytest.raises(InputError, match="is a file; name a folder"):
            store.check()


class TestWriting:
    def everything(self, store):
        """Groups and temporary ones."""
        return sorted(name for kind in ("features", "temporary") for name in store.names(kind))

    def test_the_final_name_appears_last(self, store, monkeypatch):
        publish = FeatureStore._publish

        def checked(self, written, name):
            assert not Path(self.place, name).exists()
            temporary = zarr.open_group(Path(self.place, written), mode="r")
            np.testing.assert_array_equal(temporary["cells"][...], make_bag().cells)
            publish(self, written, name)

        monkeypatch.setattr(FeatureStore, "_publish", checked)
        store.write_features("k", make_bag(), {})
        assert self.everything(store) == ["k"]

    def test_an_interrupted_write_leaves_nothing(self, store, monkeypatch):
        def interrupted(self, written, name):
            raise KeyboardInterrupt

        monkeypatch.setattr(FeatureStore, "_publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.write_features("k", make_bag(), {})
        assert self.everything(store) == []

    def test_a_killed_writer_leaves_nothing_under_the_final_name(self, store):
        """A process that dies after the features, in the middle of the coordinates."""
        program = (
            "import os, sys, pathlib, zarr, numpy as np\n"
            "from preprocessing.features.store import Bag, FeatureStore\n"
            "create = zarr.create_array\n"
            "def dying(place, **rest):\n"
            "    if place.endswith('coords'): os._exit(9)\n"
            "    return create(place, **rest)\n"
            "zarr.create_array = dying\n"
            "cells = np.zeros((4, 2), np.int32)\n"
            "store = FeatureStore(pathlib.Path(sys.argv[1]))\n"
            "store.write_features('k', Bag(np.zeros((4, 3), np.float32), cells, cells), {})\n"
        )
        done = subprocess.run([sys.executable, "-c", program, store.place], cwd=Path(__file__).parents[3], check=False)
        assert done.returncode == 9
        assert len(self.everything(store)) == 1  # what it left, under another name
        assert not store.has_features("k")
        store.write_features("k", make_bag(), {})
        np.testing.assert_array_equal(store.read_features("k").cells, make_bag().cells)
        store.prepare()  # by the next run
        assert self.everything(store) == ["k"]

    def test_what_other_machines_have_begun_is_left_to_them(self, store, monkeypatch):
        drafts = Path(store.place) / "temporary"
        names = [f"vm-2-999999-{'a' * 32}", f"vm-2-999999.5-{'a' * 32}", f"other-999999-{'a' * 32}", "something-else"]
        recycled = f"vm-{os.getpid()}.1-{'b' * 32}"  # a process has its owner's number, but started later
        for name in [*names, f"vm-999999-{'a' * 32}", recycled]:
            (drafts / name).mkdir(parents=True)
        monkeypatch.setattr("socket.gethostname", lambda: "vm")
        store.prepare()
        assert store.names("temporary") == sorted(names)

    def test_what_living_writers_have_begun_is_left_to_them(self, store, monkeypatch):
        def during(self, written, name):
            FeatureStore(self.place).prepare()
            assert Path(self.place, written).exists()

        monkeypatch.setattr(FeatureStore, "_publish", during)
        store.write_features("k", make_bag(), {})

    def test_two_writers_of_one_key_both_succeed(self, store, monkeypatch):
        together, publish = threading.Barrier(2, timeout=20), FeatureStore._publish

        def at_once(*arguments):
            together.wait()
            publish(*arguments)

        monkeypatch.setattr(FeatureStore, "_publish", at_once)
        with ThreadPoolExecutor(2) as pool:
            writers = [pool.submit(store.write_features, "k", make_bag(), {}) for _ in range(2)]
        for writer in writers:
            writer.result()  # raises what went wrong in it
        assert self.everything(store) == ["k"]
        np.testing.assert_array_equal(store.read_features("k").coords, make_bag().coords)

    def test_a_store_that_cannot_be_written_says_so(self, store, monkeypatch):
        def full(temporary, final):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("preprocessing.features.groups.os.rename", full)
        with pytest.raises(
            RunError, match=r"store: features/k cannot be written \(No space left on device\); free some space"
        ):
            store.write_features("k", make_bag(), {})
        assert self.everything(store) == []


@pytest.mark.parametrize("slide_id", ["../../x", "/etc/passwd", "a/b\\c", "..", "", "ä" * 300, "a\nb", "."])
def test_any_slide_id_stays_inside_the_store(store, tmp_path, slide_id):
    key = feature_key(replace(SLIDE, slide_id=slide_id), TileConfig(), "e")
    store.write_features(key, make_bag(), {})
    assert [path.parent for path in tmp_path.rglob("zarr.json") if path.parent.name == key] == [
        Path(store.place) / "features" / key
    ]
    assert not [path for path in tmp_path.iterdir() if path != Path(store.place)]


# Another value for every field of a recipe. A field that is missing here fails `test_..._every_field`.
TILES = {
    **{"tile_px": 512, "mpp": 0.25, "min_tissue": 0.6, "stride_px": 128},
    **{"tissue": TissueConfig(mpp=4.0), "quality": QualityConfig(max_empty=0.5)},
}
TISSUE = {
    "masks": Path("masks"),
    "detector": "tiatoolbox",
    "mpp": 4.0,
    "settings": ColourConfig(min_hole_um2=1),
}
COLOUR = {"min_piece_um2": 10_001.0, "min_hole_um2": 10_001.0, "exclude_pen": False}
QUALITY = {"min_sharpness": 100.0, "max_empty": 0.5}
ENCODER = {"name": "other", "weights": Path("other.safetensors"), "pooling": "mean", "precision": "float32"}


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (TileConfig, TILES),
        (TissueConfig, TISSUE),
        (ColourConfig, COLOUR),
        (QualityConfig, QUALITY),
        (EncoderConfig, ENCODER),
    ],
)
def test_changes_are_listed_for_every_field(config, changes):
    elsewhere = {"stain", "outline_origin", "mask_values"}  # the first does not move tiles, the others only with masks
    assert changes.keys() == config.model_fields.keys() - elsewhere
    for name, value in changes.items():
        assert getattr(config(), name) != value, name


class TestKey:
    KEY = feature_key(SLIDE, TileConfig(), "encoder")

    @pytest.mark.parametrize("field", TILES)
    def test_every_field_of_the_tiles_changes_it(self, field):
        changed = TileConfig(**{field: TILES[field]})
        assert tile_key(SLIDE, changed) != tile_key(SLIDE, TileConfig())
        assert feature_key(SLIDE, changed, "encoder") != self.KEY

    def test_a_normalised_stain_changes_that_of_the_features_alone(self):
        changed = TileConfig(stain=StainConfig(method="macenko"))
        assert tile_key(SLIDE, changed) == tile_key(SLIDE, TileConfig())
        assert feature_key(SLIDE, changed, "encoder") != self.KEY

    @pytest.mark.parametrize("field", TISSUE)
    def test_every_field_of_the_tissue_changes_it(self, field):
        changed = TileConfig(tissue=TissueConfig(**{field: TISSUE[field]}))
        assert tile_key(SLIDE, changed) != tile_key(SLIDE, TileConfig())
        assert feature_key(SLIDE, changed, "encoder") != self.KEY

    @pytest.mark.parametrize("field", COLOUR)
    def test_every_setting_of_the_detector_changes_it(self, field):
        changed = TileConfig(tissue=TissueConfig(settings={field: COLOUR[field]}))
        assert tile_key(SLIDE, changed) != tile_key(SLIDE, TileConfig())

    def test_it_is_that_of_earlier_stores(self, tmp_path):
        """Computed once with the version whose `tiles.tissue` had all settings of the detector in one level."""
        (tmp_path / "S1.geojson").write_text("a")
        slide = Slide("S1", "C1", Path("S1.svs"), (0.25, 0.25), "file", (1000, 1000), "f" * 32)
        other = TissueConfig(settings={"exclude_pen": False, "min_piece_um2": 5})
        masks = TissueConfig(masks=tmp_path, outline_origin="slide", mpp=4)
        assert tile_key(slide, TileConfig()) == "S1-6302b948c22014b64c80a6056bed9c70"
        assert tile_key(slide, TileConfig(tissue=other)) == "S1-0d9d1978547dcecd75b78fec821b0f58"
        assert tile_key(slide, TileConfig(tissue=masks)) == "S1-edf95cde55c1b4ca4459c7c8df32fbc9"

    @pytest.mark.parametrize("field", QUALITY)
    def test_every_field_of_the_quality_changes_it(self, field):
        changed = TileConfig(quality=QualityConfig(**{field: QUALITY[field]}))
        assert tile_key(SLIDE, changed) != tile_key(SLIDE, TileConfig())
        assert feature_key(SLIDE, changed, "encoder") != self.KEY

    def test_a_mask_counts_by_its_bytes_not_by_where_it_lies(self, tmp_path):
        def key(folder, content=None):
            (tmp_path / folder).mkdir(exist_ok=True)
            if content:
                (tmp_path / folder / "S1.geojson").write_text(content)
            return tile_key(SLIDE, TileConfig(tissue=TissueConfig(masks=tmp_path / folder)))

        detected, missing, first = tile_key(SLIDE, TileConfig()), key("none"), key("one", "a")
        assert len({detected, missing, first}) == 3  # a slide without a mask is not one that the detector looked at
        assert key("other", "a") == first
        assert key("one", "b") != first
        assert key("one", "a") == first

    def test_a_mask_of_another_slide_does_not_change_it(self, tmp_path):
        config = TileConfig(tissue=TissueConfig(masks=tmp_path))
        before = tile_key(SLIDE, config)
        (tmp_path / "S2.geojson").write_text("a")
        assert tile_key(SLIDE, config) == before

    @pytest.mark.parametrize("field", ENCODER)
    def test_every_field_of_the_encoder_changes_it(self, field):
        """Weights count by what they are, not by where they lie."""

        def fingerprint(**settings):
            torch.manual_seed("weights" in settings)
            model = timm.create_model("test_vit", num_classes=0)
            config = EncoderConfig(**{"precision": "bfloat16"} | settings)
            return Encoder(model, config, config.pooling or "default").fingerprint

        assert fingerprint() == fingerprint()
        changed = feature_key(SLIDE, TileConfig(), fingerprint(**{field: ENCODER[field]}))
        assert changed != feature_key(SLIDE, TileConfig(), fingerprint())

    @pytest.mark.parametrize(
        "changed",
        [
            {"fingerprint": "e" * 32},
            {"mpp_xy": (0.2501, 0.25)},
            {"mpp_xy": (0.25, 0.2501)},
        ],
    )
    def test_the_slides_bytes_and_resolution_change_it(self, changed):
        assert feature_key(replace(SLIDE, **changed), TileConfig(), "encoder") != self.KEY

    @pytest.mark.parametrize(
        "changed", [{"path": Path("/mnt/new/S1.svs")}, {"case_id": "C2"}, {"mpp_source": "manifest"}]
    )
    def test_where_a_slide_lies_and_whose_it_is_do_not(self, changed):
        assert feature_key(replace(SLIDE, **changed), TileConfig(), "encoder") == self.KEY

    def test_pixels_stretched_along_x_and_along_y_are_two_things(self):
        one, other = (replace(SLIDE, mpp_xy=mpp_xy) for mpp_xy in ((0.25, 0.5), (0.5, 0.25)))
        assert tile_key(one, TileConfig()) != tile_key(other, TileConfig())

    def test_the_format_changes_it(self, monkeypatch):
        monkeypatch.setattr("preprocessing.features.keys.RECIPE_VERSION", FORMAT + 1)
        assert feature_key(SLIDE, TileConfig(), "encoder") != self.KEY

    def test_slides_whose_ids_look_alike_on_disk_do_not_share_it(self):
        one, other = replace(SLIDE, slide_id="a b"), replace(SLIDE, slide_id="a_b", fingerprint="e" * 32)
        assert tile_key(one, TileConfig()) != tile_key(other, TileConfig())


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_store_that_cannot_be_made_is_named_with_the_reason_of_the_system(tmp_path, monkeypatch, is_wrapped):
    def fail(store):
        error = OSError(28, "No space left on device", "/somewhere")
        if is_wrapped:
            raise RunError("zarr.json cannot be written") from error
        raise error

    monkeypatch.setattr(FeatureStore, "make_listable", fail)
    monkeypatch.setattr(FeatureStore, "_replace_attributes", lambda *_: None)
    with pytest.raises(InputError, match=r"--store .*store cannot be made \(No space left on device\); "):
        FeatureStore(tmp_path / "store").prepare()
