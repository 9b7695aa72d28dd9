import ctypes
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from pipeline.cluster.worker_processes import start_server
from preprocessing.features.keys import tile_key
from preprocessing.io.errors import InputError, SlideError
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slides.probing import probe_slide, probe_slides, same_scans
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling.masks import read_mask
from preprocessing.tiling.tiles import TileConfig
from preprocessing.tiling.tissue import TissueConfig
from tests.preprocessing.slides.small_files import manifest, small_svs, touch
from workflows.demo import write_svs

SLIDES = Path(__file__).parents[3].parent / "shared" / "data" / "slides"
needs_data = pytest.mark.skipif(not SLIDES.is_dir(), reason="real and broken slides are not at ../shared/data")


def probe_but(file, *, default_mpp, **_):
    """As `probe_slide`, where a library does not do by some slides what it should."""
    if file.slide_id == "odd":
        raise KeyError("odd")
    if file.slide_id == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if file.slide_id == "hangs":
        ctypes.PyDLL(None).sleep(60)
    return probe_slide(file, default_mpp=default_mpp)


@pytest.fixture(scope="module", autouse=True)
def server():
    """As a run starts it."""
    start_server()


class TestDuplicates:
    def test_a_copy_is_excluded_with_the_path_of_the_other(self, tmp_path):
        first = small_svs(tmp_path / "a" / "s.svs")
        (tmp_path / "b").mkdir()
        shutil.copy(first, tmp_path / "b" / "s.svs")
        usable, left_out = probe_slides(find_slides(tmp_path).files, default_mpp=None)
        assert [slide.path for slide in usable] == [first]
        assert [(gone.file.path, gone.status, gone.reason) for gone in left_out] == [
            (tmp_path / "b" / "s.svs", "excluded", f"a copy of {first}")
        ]

    def test_different_slides_of_one_id_are_refused(self, tmp_path):
        small_svs(tmp_path / "a" / "s.svs", grey=200)
        small_svs(tmp_path / "b" / "s.svs", grey=100)
        with pytest.raises(
            InputError, match=r"a/s\.svs and .*b/s\.svs are different, but both have the slide id s; rename one"
        ):
            probe_slides(find_slides(tmp_path).files, default_mpp=None)

    @pytest.mark.parametrize("rows", ["s.svs,s,c1,\ns.svs,s,c2,", "s.svs,s,c1,0.25\ns.svs,s,c1,0.5"])
    def test_one_slide_of_two_cases_or_resolutions_is_refused(self, tmp_path, rows):
        small_svs(tmp_path / "s.svs", mpp=None)
        files = find_slides(manifest(tmp_path, f"path,slide_id,case_id,mpp\n{rows}\n")).files
        with pytest.raises(InputError, match="both have the slide id s"):
            probe_slides(files, default_mpp=0.5)

    def test_a_broken_twin_does_not_hide_the_good_one(self, tmp_path):
        touch(tmp_path, "a/s.svs")
        good = small_svs(tmp_path / "b" / "s.svs")
        usable, left_out = probe_slides(find_slides(tmp_path).files, default_mpp=None)
        assert [slide.path for slide in usable] == [good]
        assert [gone.status for gone in left_out] == ["failed"]

    def test_slides_in_linked_folders_are_found_once(self, tmp_path):
        kept = small_svs(tmp_path / "elsewhere" / "s.svs")
        folder = tmp_path / "slides"
        folder.mkdir()
        (folder / "batch").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(folder)  # a way round in a circle
        found = find_slides(folder).files
        assert [file.slide_id for file in found] == ["s"]
        assert found[0].path.resolve() == kept

    @pytest.mark.parametrize(("start", "what"), [(b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff\xe0", "JPEG")])
    def test_a_picture_named_as_a_slide_is_recognised(self, tmp_path, start, what):
        (tmp_path / "a.svs").write_bytes(start + bytes(1000))
        _, (gone,) = probe_slides([SlideFile("a", "c", tmp_path / "a.svs")], default_mpp=None)
        assert gone.reason.startswith(f"not a slide that OpenSlide can read: it is a picture ({what})")

    def test_one_scan_under_two_ids_is_warned_of(self, tmp_path):
        path = small_svs(tmp_path / "a.svs")
        files = [SlideFile("a", "c1", path), SlideFile("b", "c2", path), SlideFile("a2", "c1", path)]
        one, other, again = probe_slides(files, default_mpp=None)[0]
        (warning,) = same_scans([one, other])
        assert "2 slides are the same scan: a, b; they belong to different cases, so that folds are not" in warning
        assert "its tiles are counted repeatedly" in same_scans([one, again])[0]
        assert same_scans([one]) == []

    def test_two_patients_on_one_glass_are_two_slides_where_each_has_its_mask(self, tmp_path):
        """One file under two ids: without masks a warning of folds that are not independent, with masks none, and other tiles."""
        small_svs(tmp_path / "glass.svs")
        text = "slide_id,path,case_id\nleft,glass.svs,P1\nright,glass.svs,P2\n"
        slides, left_out = probe_slides(find_slides(manifest(tmp_path, text)).files, default_mpp=None)
        assert ([slide.case_id for slide in slides], left_out) == (["P1", "P2"], [])
        assert len(same_scans(slides)) == 1
        masks = tmp_path / "masks"
        masks.mkdir()
        assert len(same_scans(slides, masks=masks)) == 1
        for name, x in (("left", 0), ("right", 48)):
            ring = [[x, 0], [x + 48, 0], [x + 48, 64], [x, 64]]
            (masks / f"{name}.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
        assert same_scans(slides, masks=masks) == []
        left, right = (read_mask(slide, masks, (4, 6), corner_px=(0, 0)) for slide in slides)
        assert left[:, :3].all()
        assert not (left & right).any()
        config = TileConfig(tile_px=16, tissue=TissueConfig(masks=masks))
        assert tile_key(slides[0], config) != tile_key(slides[1], config)


class TestProbe:
    def test_returns_size_resolution_and_case(self, tmp_path):
        path = small_svs(tmp_path / "s.svs", mpp=0.2512)
        slide = probe_slide(SlideFile("id", "case", path), default_mpp=None)
        assert (slide.slide_id, slide.case_id, slide.path) == ("id", "case", path)
        assert slide.size_px == (96, 64)
        assert slide.mpp_xy == pytest.approx((0.2512, 0.2512))
        assert slide.mpp_source == "metadata"

    def test_mpp_is_the_mean_of_both_directions(self, corner_slide):

        assert replace(corner_slide, mpp_xy=(0.25, 0.5)).mpp == 0.375

    def test_objective_power_in_the_file_stands_in_for_mpp(self, tmp_path):
        path = small_svs(tmp_path / "s.svs", mpp=None, power=40)
        slide = probe_slide(SlideFile("s", "s", path), default_mpp=None)
        assert (slide.mpp_xy, slide.mpp_source) == ((0.25, 0.25), "objective power 40x")

    def test_an_impossible_size_is_refused(self, tmp_path):
        path = small_svs(tmp_path / "s.svs")
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags["ImageWidth"].overwrite(5_964_296)
        with pytest.raises(
            SlideError, match=r"absurd size: 5964296 × 64 pixels of 0\.5 × 0\.5 µm \(metadata\) are 2,982 × 0"
        ):
            probe_slide(SlideFile("s", "s", path), default_mpp=None)

    @pytest.mark.parametrize("name", [b"\xb5m", b"Wei\xdf"])
    def test_a_property_whose_name_is_not_utf8_is_ignored(self, tmp_path, name):
        path = small_svs(tmp_path / "s.svs", power=40)
        data = path.read_bytes()
        assert b"AppMag = 40" in data
        path.write_bytes(data.replace(b"AppMag = 40", (name + b" = 1").ljust(11)))
        with pytest.raises(KeyError), openslide.OpenSlide(str(path)) as slide:
            dict(slide.properties)
        assert probe_slide(SlideFile("s", "s", path), default_mpp=None).mpp_xy == pytest.approx((0.5, 0.5))

    @pytest.mark.parametrize("isolated", [False, True])
    def test_what_a_library_raises_fails_the_slide_alone(self, tmp_path, monkeypatch, caplog, isolated):
        files = [SlideFile(name, name, small_svs(tmp_path / f"{name}.svs")) for name in ("odd", "good")]
        monkeypatch.setattr("preprocessing.slides.probing.probe_slide", probe_but)
        with caplog.at_level("DEBUG", "preprocessing.slides.probing"):
            usable, left_out = probe_slides(files, default_mpp=None, isolated=isolated)
        assert [slide.slide_id for slide in usable] == ["good"]
        assert [(gone.file, gone.status, gone.reason) for gone in left_out] == [(files[0], "failed", "KeyError: 'odd'")]
        assert "Traceback" in caplog.text  # for whoever is to mend it

    @pytest.mark.parametrize(("height", "sound"), [(160, True), (164, True), (1 << 24, False), (40, False)])
    def test_a_level_of_other_proportions_is_refused(self, tmp_path, height, sound):
        path = tmp_path / "s.svs"
        write_svs(path, np.full((640, 520, 3), 200, np.uint8), mpp=0.5, power=None, levels=(1, 4))
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            next(page for page in tiff.pages[1:] if page.is_tiled).tags["ImageLength"].overwrite(height)
        if sound:
            assert probe_slide(SlideFile("s", "s", path), default_mpp=None).size_px == (520, 640)
            return
        message = rf"level 1 has other proportions than the slide \(130 × {height} and 520 × 640 pixels\)"
        with pytest.raises(SlideError, match=message):
            probe_slide(SlideFile("s", "s", path), default_mpp=None)

    def test_slides_that_crash_or_hang_the_library_fail_alone(self, tmp_path, monkeypatch):
        names = ("a", "crashes", "b", "hangs", "c")
        files = [SlideFile(name, name, small_svs(tmp_path / f"{name}.svs")) for name in names]
        monkeypatch.setattr("preprocessing.slides.probing.probe_slide", probe_but)
        monkeypatch.setattr("preprocessing.slides.isolated.MINUTES", 0.05)
        usable, left_out = probe_slides(files, default_mpp=None, isolated=True)
        assert {slide.slide_id for slide in usable} == {"a", "b", "c"}
        reasons = {gone.file.slide_id: gone.reason for gone in left_out if gone.status == "failed"}
        assert reasons.keys() == {"crashes", "hangs"}
        assert reasons["crashes"].startswith("opening it crashed the process (SIGSEGV)")
        assert reasons["hangs"].startswith("opening took longer than 0.05 minutes")

    def test_an_error_of_the_disk_fails_the_slide_alone(self, tmp_path, monkeypatch):
        files = [SlideFile(name, name, small_svs(tmp_path / f"{name}.svs")) for name in ("bad", "good")]
        from preprocessing.slides import probing as module

        original = module.slide_fingerprint

        def stale(path, *_):
            if path.stem == "bad":
                raise OSError(116, "Stale file handle")
            return original(path)

        monkeypatch.setattr(module, "slide_fingerprint", stale)
        usable, left_out = probe_slides(files, default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["good"]
        assert "cannot be opened: " in left_out[0].reason
        assert "Stale file handle" in left_out[0].reason

    @needs_data
    def test_broken_slides_fail_with_a_reason_and_the_others_go_on(self, tmp_path):
        for path in (SLIDES / "broken").iterdir():
            os.symlink(path, tmp_path / path.name)
        small_svs(tmp_path / "good.svs")
        usable, left_out = probe_slides(find_slides(tmp_path).files, default_mpp=None)
        reasons = {gone.file.slide_id: gone.reason for gone in left_out}
        assert {gone.status for gone in left_out} == {"failed"}
        assert reasons.keys() == {"histolab-broken", "openslide-unopenable"}
        assert reasons["histolab-broken"].startswith("not a slide that OpenSlide can read: it is text")
        assert reasons["openslide-unopenable"].startswith("cannot be opened: ")
        # The third opens; its pixels cannot be read, which is found when it is tiled.
        assert [slide.slide_id for slide in usable] == ["good", "openslide-unreadable"]

    @needs_data
    def test_a_slide_with_absurd_metadata_fails_and_the_manifest_can_help(self):
        path = SLIDES / "openslide" / "boxes.tiff"
        with pytest.raises(SlideError, match=r"absurd resolution .* 352\.778 × 352\.778"):
            probe_slide(SlideFile("boxes", "boxes", path), default_mpp=0.5)
        slide = probe_slide(SlideFile("boxes", "boxes", path, mpp=2.0), default_mpp=0.5)
        assert (slide.mpp_xy, slide.mpp_source) == ((2.0, 2.0), "manifest")
