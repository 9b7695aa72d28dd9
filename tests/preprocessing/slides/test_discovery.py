import ctypes
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from pipeline.cluster.worker_processes import start_server
from preprocessing.io.errors import InputError, SlideError
from preprocessing.slides.discovery import (
    SlideFile,
    doubtful_resolutions,
    find_slides,
    probe_slide,
    probe_slides,
    resolve_mpp,
    same_scans,
    select_kind,
)
from workflows.demo import write_svs

SLIDES = Path(__file__).parents[3].parent / "shared" / "data" / "slides"
needs_data = pytest.mark.skipif(not SLIDES.is_dir(), reason="real and broken slides are not at ../shared/data")
UUID = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def small_svs(path, *, grey=200, mpp=0.5, power=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_svs(path, np.full((64, 96, 3), grey, np.uint8), mpp=mpp, power=power, levels=(1,))
    return path


def manifest(folder, text):
    path = folder / "manifest.csv"
    path.write_text(text)
    return path


def probe_but(file, *, default_mpp):
    """As `probe_slide`, where a library does not do by some slides what it should."""
    if file.slide_id == "odd":
        raise KeyError("odd")
    if file.slide_id == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if file.slide_id == "hangs":
        ctypes.PyDLL(None).sleep(60)
    return probe_slide(file, default_mpp=default_mpp)


def series_but(path):
    if path.stem == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    return path.stem.partition("_")[0]


@pytest.fixture(scope="module", autouse=True)
def server():
    """As a run starts it."""
    start_server()


class TestFolder:
    def test_is_searched_below_and_sorted_by_id(self, tmp_path):
        touch(tmp_path, "z/deep/a.svs", "b.SVS", "c.ndpi", "y/d.tiff")
        assert [file.slide_id for file in find_slides(tmp_path)] == ["a", "b", "c", "d"]
        assert find_slides(tmp_path)[0].path == tmp_path / "z/deep/a.svs"

    def test_hidden_and_foreign_files_are_passed_over(self, tmp_path):
        touch(
            tmp_path, "a.svs", "._a.svs", ".trash/b.svs", "x/.cache/deep/c.svs", "notes.txt", "a.svs.part", "genes.csv"
        )
        (tmp_path / "folder.svs").mkdir()
        assert [file.slide_id for file in find_slides(tmp_path)] == ["a"]

    def test_may_itself_lie_below_a_hidden_folder(self, tmp_path):
        touch(tmp_path, ".data/slides/a.svs")
        assert [file.slide_id for file in find_slides(tmp_path / ".data/slides")] == ["a"]

    def test_a_link_to_a_slide_counts_and_a_dead_one_is_told(self, tmp_path):
        real = small_svs(tmp_path / "store" / "0001.svs")
        (tmp_path / "slides").mkdir()
        (tmp_path / "slides/good.svs").symlink_to(real)
        (tmp_path / "slides/dead.svs").symlink_to(tmp_path / "nowhere.svs")
        usable, left_out = probe_slides(find_slides(tmp_path / "slides"), default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["good"]
        assert [(gone.file.slide_id, gone.status) for gone in left_out] == [("dead", "failed")]
        assert "does not exist" in left_out[0].reason

    def test_without_slides_is_refused_with_what_was_looked_for(self, tmp_path):
        touch(tmp_path, "readme.txt")
        with pytest.raises(InputError, match=rf"no slide in {re.escape(str(tmp_path))} or below; looked for .*\.svs"):
            find_slides(tmp_path)

    def test_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="nowhere does not exist; give a folder, a slide or a manifest CSV"):
            find_slides(tmp_path / "nowhere")

    @needs_data
    def test_a_dicom_series_is_one_slide(self):
        found = find_slides(SLIDES / "openslide" / "dicom")
        assert [file.slide_id for file in found] == ["boxes_0"]


def test_one_slide_may_be_given(tmp_path):
    touch(tmp_path, "a.svs", "b.svs")
    assert [file.slide_id for file in find_slides(tmp_path / "a.svs")] == ["a"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    touch(tmp_path, "a.docx")
    with pytest.raises(InputError, match=r"a\.docx is neither a folder nor a manifest CSV nor a slide"):
        find_slides(tmp_path / "a.docx")


def test_case_of_a_tcga_slide_is_the_start_of_its_barcode_and_of_another_its_stem(tmp_path):
    touch(tmp_path, f"TCGA-06-0125-01Z-00-DX1.{UUID}.svs", "H12-345.svs")
    cases = {file.slide_id: file.case_id for file in find_slides(tmp_path)}
    assert cases == {f"TCGA-06-0125-01Z-00-DX1.{UUID}": "TCGA-06-0125", "H12-345": "H12-345"}


class TestManifest:
    def test_gives_ids_cases_and_mpp_and_paths_from_its_own_folder(self, tmp_path):
        absolute = tmp_path / "elsewhere" / "c.svs"
        text = f"slide_id,path,case_id,mpp\n007,sub/a.svs,011,0.25\n,b.svs,,\n,{absolute},,\n"
        found = find_slides(manifest(tmp_path, text))
        assert found == [
            SlideFile("007", "011", tmp_path / "sub/a.svs", 0.25),
            SlideFile("b", "b", tmp_path / "b.svs", None),
            SlideFile("c", "c", absolute, None),
        ]

    def test_case_may_be_written_as_a_longer_barcode(self, tmp_path):
        text = "path,case_id\na.svs,TCGA-06-0125-01Z\n"
        assert find_slides(manifest(tmp_path, text))[0].case_id == "TCGA-06-0125"

    def test_columns_may_be_spelt_in_capitals_and_with_blanks(self, tmp_path):
        (found,) = find_slides(manifest(tmp_path, "Path,Slide ID,caseid,MPP,remark\na.svs,s,p1,0.25,x\n"))
        assert found == SlideFile("s", "p1", tmp_path / "a.svs", 0.25)

    def test_case_follows_from_a_tcga_slide_id(self, tmp_path):
        text = "path,slide_id\na.svs,TCGA-06-0125-01Z-00-DX1\n"
        assert find_slides(manifest(tmp_path, text))[0].case_id == "TCGA-06-0125"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "slide_id,file\na,a.svs\n",
                r"manifest\.csv has no column `path`; it has slide_id, file; call the files path",
            ),
            (
                "path,patient\na.svs,p1\n",
                "has no column `case_id`; it has path, patient; call patient case_id, or leave it",
            ),
            ("path,mpp_x\na.svs,0.5\n", "has no column `mpp`; it has path, mpp_x; call mpp_x mpp, or leave it out"),
            ("path,mpp,MPP\na.svs,0.5,0.25\n", "has the column mpp more than once, as mpp, MPP; keep one"),
            ("path;mpp\na.svs;0,5\n", 'line 2: mpp "0,5" is not a number .decimals take a point'),
            ("# by hand\n\npath,mpp\na.svs,0.5\n\nb.svs,x\n", 'line 6: mpp "x" is not a number'),
            ("path,mpp\na.svs,0.5\nb.svs,half\n", r'line 3: mpp "half" is not a number'),
            ("path,mpp\na.svs,250\n", r"line 2: mpp 250\.0 lies outside 0\.05–5\.0 µm"),
            ("path,mpp\na.svs,-0.5\n", r"line 2: mpp -0\.5 lies outside"),
            ("slide_id,path\na,a.svs\nb,\n", r"line 3: no path"),
        ],
    )
    def test_mistakes_are_told_with_their_place(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message):
            find_slides(manifest(tmp_path, text))

    def test_a_slide_that_is_not_there_fails_alone(self, tmp_path):
        small_svs(tmp_path / "a.svs")
        files = find_slides(manifest(tmp_path, "path\na.svs\nlost.svs\n"))
        usable, left_out = probe_slides(files, default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["a"]
        assert [(gone.status, gone.reason) for gone in left_out] == [
            ("failed", f"{tmp_path / 'lost.svs'} does not exist")
        ]


class TestKind:
    IDS = ("TCGA-06-0125-01Z-00-DX2", "TCGA-06-0125-01A-01-TS1", "TCGA-06-0125-01A-01-BS1", "H12-345")

    def files(self):
        return [SlideFile(name, name[:12], Path(f"{name}.svs")) for name in self.IDS]

    def test_diagnostic_slides_and_those_of_no_known_kind_stay(self):
        kept, left_out = select_kind(self.files(), "DX")
        assert [file.slide_id for file in kept] == [self.IDS[0], self.IDS[3]]
        assert [(gone.file.slide_id, gone.status) for gone in left_out] == [
            (self.IDS[1], "excluded"),
            (self.IDS[2], "excluded"),
        ]
        assert left_out[0].reason == "slide kind TS, only DX is used; --slide-kind all takes every slide"

    def test_all_takes_every_slide(self):
        kept, left_out = select_kind(self.files(), "all")
        assert (len(kept), left_out) == (4, [])


class TestDuplicates:
    def test_a_copy_is_excluded_with_the_path_of_the_other(self, tmp_path):
        first = small_svs(tmp_path / "a" / "s.svs")
        (tmp_path / "b").mkdir()
        shutil.copy(first, tmp_path / "b" / "s.svs")
        usable, left_out = probe_slides(find_slides(tmp_path), default_mpp=None)
        assert [slide.path for slide in usable] == [first]
        assert [(gone.file.path, gone.status, gone.reason) for gone in left_out] == [
            (tmp_path / "b" / "s.svs", "excluded", f"a copy of {first}")
        ]

    def test_different_slides_of_one_id_are_refused(self, tmp_path):
        small_svs(tmp_path / "a" / "s.svs", grey=200)
        small_svs(tmp_path / "b" / "s.svs", grey=100)
        with pytest.raises(
            InputError, match=r"a/s\.svs and .*b/s\.svs are different, but both are called s; rename one"
        ):
            probe_slides(find_slides(tmp_path), default_mpp=None)

    @pytest.mark.parametrize("rows", ["s.svs,s,c1,\ns.svs,s,c2,", "s.svs,s,c1,0.25\ns.svs,s,c1,0.5"])
    def test_one_slide_of_two_cases_or_resolutions_is_refused(self, tmp_path, rows):
        small_svs(tmp_path / "s.svs", mpp=None)
        files = find_slides(manifest(tmp_path, f"path,slide_id,case_id,mpp\n{rows}\n"))
        with pytest.raises(InputError, match="both are called s"):
            probe_slides(files, default_mpp=0.5)

    def test_a_broken_twin_does_not_hide_the_good_one(self, tmp_path):
        touch(tmp_path, "a/s.svs")
        good = small_svs(tmp_path / "b" / "s.svs")
        usable, left_out = probe_slides(find_slides(tmp_path), default_mpp=None)
        assert [slide.path for slide in usable] == [good]
        assert [gone.status for gone in left_out] == ["failed"]

    def test_slides_in_linked_folders_are_found_once(self, tmp_path):
        kept = small_svs(tmp_path / "elsewhere" / "s.svs")
        folder = tmp_path / "slides"
        folder.mkdir()
        (folder / "batch").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(folder)  # a way round in a circle
        found = find_slides(folder)
        assert [file.slide_id for file in found] == ["s"]
        assert found[0].path.resolve() == kept

    def test_a_resolution_that_something_speaks_against_is_told(self, tmp_path):
        path = small_svs(tmp_path / "a.svs")
        (good,), _ = probe_slides([SlideFile("a", "c1", path)], default_mpp=None)
        assert doubtful_resolutions([good]) == []
        mpp_xy, source = resolve_mpp(METADATA | POWER, manifest_mpp=None, default_mpp=None)
        (told,) = doubtful_resolutions([good, replace(good, slide_id="b", mpp_xy=mpp_xy, mpp_source=source)])
        assert told.startswith("warning: of 1 slides something speaks against the resolution in their metadata")
        assert "b (0.252 µm, metadata (doubtful: objective power 20x));" in told

    @pytest.mark.parametrize(("start", "what"), [(b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff\xe0", "JPEG")])
    def test_a_picture_under_the_name_of_a_slide_is_told(self, tmp_path, start, what):
        (tmp_path / "a.svs").write_bytes(start + bytes(1000))
        _, (gone,) = probe_slides([SlideFile("a", "c", tmp_path / "a.svs")], default_mpp=None)
        assert gone.reason.startswith(f"not a slide that OpenSlide can read: it is a picture ({what})")

    def test_one_scan_under_two_ids_is_told(self, tmp_path):
        path = small_svs(tmp_path / "a.svs")
        files = [SlideFile("a", "c1", path), SlideFile("b", "c2", path), SlideFile("a2", "c1", path)]
        one, other, again = probe_slides(files, default_mpp=None)[0]
        (told,) = same_scans([one, other])
        assert "as a, b: of different cases, so that folds are not independent" in told
        assert "its tiles count as often" in same_scans([one, again])[0]
        assert same_scans([one]) == []


class TestProbe:
    def test_tells_size_resolution_and_case(self, tmp_path):
        path = small_svs(tmp_path / "s.svs", mpp=0.2512)
        slide = probe_slide(SlideFile("id", "case", path), default_mpp=None)
        assert (slide.slide_id, slide.case_id, slide.path) == ("id", "case", path)
        assert slide.size_px == (96, 64)
        assert slide.mpp_xy == pytest.approx((0.2512, 0.2512))
        assert slide.mpp_source == "metadata"

    def test_mpp_is_the_mean_of_both_directions(self, corner_slide):
        from dataclasses import replace

        assert replace(corner_slide, mpp_xy=(0.25, 0.5)).mpp == 0.375

    def test_objective_power_in_the_file_stands_in_for_mpp(self, tmp_path):
        path = small_svs(tmp_path / "s.svs", mpp=None, power=40)
        slide = probe_slide(SlideFile("s", "s", path), default_mpp=None)
        assert (slide.mpp_xy, slide.mpp_source) == ((0.25, 0.25), "objective power 40x")

    def test_a_size_that_no_glass_has_is_refused(self, tmp_path):
        path = small_svs(tmp_path / "s.svs")
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags["ImageWidth"].overwrite(5_964_296)
        with pytest.raises(
            SlideError, match=r"absurd size: 5964296 × 64 pixels of 0\.5 × 0\.5 µm \(metadata\) are 2,982 × 0"
        ):
            probe_slide(SlideFile("s", "s", path), default_mpp=None)

    @pytest.mark.parametrize("name", [b"\xb5m", b"Wei\xdf"])
    def test_a_property_whose_name_is_no_utf8_is_passed_over(self, tmp_path, name):
        path = small_svs(tmp_path / "s.svs", power=40)
        data = path.read_bytes()
        assert b"AppMag = 40" in data
        path.write_bytes(data.replace(b"AppMag = 40", (name + b" = 1").ljust(11)))
        with pytest.raises(KeyError), openslide.OpenSlide(str(path)) as slide:
            dict(slide.properties)
        assert probe_slide(SlideFile("s", "s", path), default_mpp=None).mpp_xy == pytest.approx((0.5, 0.5))

    @pytest.mark.parametrize("apart", [False, True])
    def test_what_a_library_raises_fails_the_slide_alone(self, tmp_path, monkeypatch, caplog, apart):
        files = [SlideFile(name, name, small_svs(tmp_path / f"{name}.svs")) for name in ("odd", "good")]
        monkeypatch.setattr("preprocessing.slides.discovery.probe_slide", probe_but)
        with caplog.at_level("DEBUG", "preprocessing.slides.discovery"):
            usable, left_out = probe_slides(files, default_mpp=None, apart=apart)
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

    def test_slides_that_crash_or_hang_what_opens_them_fail_alone(self, tmp_path, monkeypatch):
        names = ("a", "crashes", "b", "hangs", "c")
        files = [SlideFile(name, name, small_svs(tmp_path / f"{name}.svs")) for name in names]
        monkeypatch.setattr("preprocessing.slides.discovery.probe_slide", probe_but)
        monkeypatch.setattr("preprocessing.slides.discovery.OPENING_MINUTES", 0.05)
        usable, left_out = probe_slides(files, default_mpp=None, apart=True)
        assert {slide.slide_id for slide in usable} == {"a", "b", "c"}
        reasons = {gone.file.slide_id: gone.reason for gone in left_out if gone.status == "failed"}
        assert reasons.keys() == {"crashes", "hangs"}
        assert reasons["crashes"].startswith("its process died while it was opened (SIGSEGV)")
        assert reasons["hangs"].startswith("took longer than 0.05 minutes to be opened")

    def test_a_dicom_file_that_crashes_what_opens_it_stands_for_itself(self, tmp_path, monkeypatch):
        touch(tmp_path, "crashes.dcm", "x_1.dcm", "x_2.dcm")
        monkeypatch.setattr("preprocessing.slides.discovery._series_of", series_but)
        assert [file.slide_id for file in find_slides(tmp_path, apart=True)] == ["crashes", "x_1"]

    def test_an_error_of_the_disk_fails_the_slide_alone(self, tmp_path, monkeypatch):
        files = [SlideFile(name, name, small_svs(tmp_path / f"{name}.svs")) for name in ("bad", "good")]
        from preprocessing.slides import discovery as module

        original = module.slide_fingerprint

        def stale(path):
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
        usable, left_out = probe_slides(find_slides(tmp_path), default_mpp=None)
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


METADATA = {"openslide.mpp-x": "0.2521", "openslide.mpp-y": "0.2519"}
POWER = {"openslide.objective-power": "20"}


class TestResolveMpp:
    @pytest.mark.parametrize(
        ("properties", "manifest_mpp", "default_mpp", "expected"),
        [
            (METADATA, 0.25, 0.3, ((0.2521, 0.2519), "metadata")),
            (METADATA, 0.4, 0.3, ((0.2521, 0.2519), "metadata (doubtful: the manifest says 0.4)")),
            (METADATA | POWER, 0.25, 0.3, ((0.2521, 0.2519), "metadata (doubtful: objective power 20x)")),
            (POWER, 0.4, 0.3, ((0.4, 0.4), "manifest")),
            (POWER, None, 0.3, ((0.5, 0.5), "objective power 20x")),
            ({}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.mpp-x": "0.25"}, None, 0.3, ((0.25, 0.25), "metadata")),
            ({"openslide.mpp-x": "0", "openslide.mpp-y": "0"}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.mpp-x": "?", "openslide.mpp-y": "?"}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.objective-power": "0.1"}, None, 0.3, ((0.3, 0.3), "default")),
            ({"openslide.mpp-x": "25400", "openslide.mpp-y": "25400"}, 0.4, None, ((0.4, 0.4), "manifest")),
        ],
    )
    def test_order_is_metadata_manifest_objective_power_default(self, properties, manifest_mpp, default_mpp, expected):
        assert resolve_mpp(properties, manifest_mpp=manifest_mpp, default_mpp=default_mpp) == expected

    @pytest.mark.parametrize("mpp", ["25400", "0.001", "-0.25", "nan", "inf"])
    def test_absurd_metadata_are_not_replaced_by_a_guess(self, mpp):
        properties = {"openslide.mpp-x": mpp, "openslide.mpp-y": mpp} | POWER
        with pytest.raises(
            SlideError, match=r"absurd resolution .*outside 0\.05–5\.0 µm; give the right one in the man"
        ):
            resolve_mpp(properties, manifest_mpp=None, default_mpp=0.5)

    def test_one_absurd_direction_is_enough(self):
        with pytest.raises(SlideError, match="absurd"):
            resolve_mpp({"openslide.mpp-x": "0.25", "openslide.mpp-y": "25"}, manifest_mpp=None, default_mpp=0.5)

    def test_without_any_the_ways_out_are_named(self):
        with pytest.raises(SlideError, match=r"no microns per pixel .*--default-mpp or an mpp column in the manifest"):
            resolve_mpp({}, manifest_mpp=None, default_mpp=None)
