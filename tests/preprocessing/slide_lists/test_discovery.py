import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipeline.cluster.worker_processes import start_server
from preprocessing.io.errors import InputError
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slide_lists.selection import SlideOptions, select_slides
from preprocessing.slides.dicom import DicomHeader
from preprocessing.slides.names import address_name, slide_name
from preprocessing.slides.probing import probe_slides
from preprocessing.slides.slide import SlideFile
from preprocessing.tables.identity import IdentityScheme, identity_scheme
from tests.preprocessing.slides.small_files import small_svs, touch

SLIDES = Path(__file__).parents[3].parent / "shared" / "data" / "slides"
needs_data = pytest.mark.skipif(not SLIDES.is_dir(), reason="real and broken slides are not at ../shared/data")
DICOM = SLIDES / "openslide" / "dicom"
UUID = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"


def header_but(path):
    if path.stem == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    return DicomHeader(path.stem.partition("_")[0], True, "SM", "", "")


@pytest.fixture(scope="module", autouse=True)
def server():
    """As a run starts it."""
    start_server()


class TestFolder:
    def test_is_searched_below_and_sorted_by_id(self, tmp_path):
        touch(tmp_path, "z/deep/a.svs", "b.SVS", "c.ndpi", "y/d.tiff")
        assert [file.slide_id for file in find_slides(tmp_path).files] == ["a", "b", "c", "d"]
        assert find_slides(tmp_path).files[0].path == tmp_path / "z/deep/a.svs"

    def test_hidden_and_other_files_are_ignored(self, tmp_path):
        touch(
            tmp_path, "a.svs", "._a.svs", ".trash/b.svs", "x/.cache/deep/c.svs", "notes.txt", "a.svs.part", "genes.csv"
        )
        (tmp_path / "folder.svs").mkdir()
        assert [file.slide_id for file in find_slides(tmp_path).files] == ["a"]

    def test_may_lie_below_a_hidden_folder(self, tmp_path):
        touch(tmp_path, ".data/slides/a.svs")
        assert [file.slide_id for file in find_slides(tmp_path / ".data/slides").files] == ["a"]

    def test_a_link_to_a_slide_is_followed_and_a_broken_one_is_reported(self, tmp_path):
        real = small_svs(tmp_path / "store" / "0001.svs")
        (tmp_path / "slides").mkdir()
        (tmp_path / "slides/good.svs").symlink_to(real)
        (tmp_path / "slides/dead.svs").symlink_to(tmp_path / "nowhere.svs")
        usable, left_out = probe_slides(find_slides(tmp_path / "slides").files, default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["good"]
        assert [(gone.file.slide_id, gone.status) for gone in left_out] == [("dead", "failed")]
        assert "does not exist" in left_out[0].reason

    def test_without_slides_is_refused_with_the_known_suffixes(self, tmp_path):
        touch(tmp_path, "readme.txt")
        with pytest.raises(InputError, match=rf"no slide in {re.escape(str(tmp_path))} or below \(formats: .*\.svs"):
            find_slides(tmp_path)

    def test_that_does_not_exist_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="nowhere does not exist; give a folder, a slide or a manifest CSV"):
            find_slides(tmp_path / "nowhere")

    def test_a_dicom_file_that_crashes_the_library_is_a_slide_of_its_own(self, tmp_path, monkeypatch):
        touch(tmp_path, "crashes.dcm", "x_1.dcm", "x_2.dcm")
        monkeypatch.setattr("preprocessing.slides.dicom.read_header", header_but)
        assert [file.slide_id for file in find_slides(tmp_path, isolated=True).files] == ["crashes", "x_1"]

    @needs_data
    def test_a_dicom_series_is_one_slide(self):
        found = find_slides(SLIDES / "openslide" / "dicom").files
        assert [file.slide_id for file in found] == ["boxes_0"]


def test_a_word_before_the_slides_that_is_no_file_does_not_exist(tmp_path):
    (tmp_path / "slides").mkdir()
    with pytest.raises(InputError, match=r"train does not exist"):
        find_slides((tmp_path / "train", tmp_path / "slides"))
    with pytest.raises(InputError, match=r"slide does not exist; did you mean .*slides\?"):
        find_slides(tmp_path / "slide")


def test_a_folder_of_features_leads_to_their_import(tmp_path):
    (tmp_path / "S1.h5").write_bytes(b"\x89HDF")
    with pytest.raises(InputError, match="precomputed features are imported with run_pipeline import"):
        find_slides(tmp_path)


def test_one_slide_may_be_given(tmp_path):
    touch(tmp_path, "a.svs", "b.svs")
    assert [file.slide_id for file in find_slides(tmp_path / "a.svs").files] == ["a"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    touch(tmp_path, "a.docx")
    with pytest.raises(InputError, match=r"a\.docx is neither a folder nor a manifest CSV nor a slide"):
        find_slides(tmp_path / "a.docx")


def test_case_of_a_tcga_slide_is_the_start_of_its_barcode_and_of_another_its_stem(tmp_path):
    touch(tmp_path, f"TCGA-06-0125-01Z-00-DX1.{UUID}.svs", "H12-345.svs")
    cases = {file.slide_id: file.case_id for file in find_slides(tmp_path).files}
    assert cases == {f"TCGA-06-0125-01Z-00-DX1.{UUID}": "TCGA-06-0125", "H12-345": "H12-345"}


class TestKind:
    IDS = ("TCGA-06-0125-01Z-00-DX2", "TCGA-06-0125-01A-01-TS1", "TCGA-06-0125-01A-01-BS1", "H12-345")

    def files(self):
        return [SlideFile(name, name[:12], Path(f"{name}.svs")) for name in self.IDS]

    def test_diagnostic_slides_and_those_of_no_known_kind_stay(self):
        kept, left_out = select_slides(self.files(), SlideOptions(), IdentityScheme())
        assert [file.slide_id for file in kept] == [self.IDS[0], self.IDS[3]]
        assert [(gone.file.slide_id, gone.status) for gone in left_out] == [
            (self.IDS[1], "excluded"),
            (self.IDS[2], "excluded"),
        ]
        assert left_out[0].reason == "slide kind TS; only DX slides are used (--slide-kind all uses every slide)"

    def test_all_takes_every_slide(self):
        kept, left_out = select_slides(self.files(), SlideOptions(kind="all"), IdentityScheme())
        assert (len(kept), left_out) == (4, [])


class TestNothingIsInvisible:
    def test_files_that_look_like_slides_are_named_with_the_remedy_and_others_counted(self, tmp_path):
        small_svs(tmp_path / "good.svs")
        touch(
            tmp_path,
            "a.vsi",
            "b.isyntax",
            "c.svs.partial",
            "d.ndpi.gz",
            "e.QPTIFF",
            "f.sdpc",
            "g.ome.zarr/0/0",
            "x.ndpis",
        )
        touch(
            tmp_path,
            "readme.txt",
            "t.csv",
            "u.csv",
            "noise",
            "logs/c.svs.parcel",
            "mirax/Slidedat.ini",
            "mirax/Data0.dat",
        )
        found = find_slides(tmp_path)
        assert [file.slide_id for file in found.files] == ["good"]
        reasons = {gone.file.slide_id: (gone.status, gone.reason) for gone in found.left_out}
        expected = {
            "a": "only a.vsi: an Olympus slide (VSI)",
            "b": "only b.isyntax: a Philips slide",
            "c": "only c.svs.partial: an incomplete download; resume it",
            "d": "only d.ndpi.gz: a compressed slide; unpack it",
            "e": "only e.QPTIFF: an Akoya slide",
            "f": "only f.sdpc: a Sqray slide",
            "g": "only g.ome.zarr: an OME-Zarr image",
            "mirax": "only mirax: the data folder of a MIRAX slide without its file mirax.mrxs",
            "x": "a list of .ndpi files",
        }
        assert reasons.keys() == expected.keys()
        for name, start in expected.items():
            assert reasons[name][1].startswith(start), reasons[name]
            assert reasons[name][0] == ("excluded" if name == "x" else "failed")
        (note,) = found.notes
        assert note == "5 files ignored that are no slide: 2 .csv, 1 .parcel, 1 .txt, 1 without suffix"

    @pytest.mark.parametrize("name", ["S1.svs (1)", "S1.svs.1", "S1.svs~", "S1.svs_old", "S1.ndpi.bak", "S1.tiff.orig"])
    def test_a_copy_under_another_suffix_is_named_and_read_if_it_is_a_slide(self, tmp_path, name):
        small_svs(tmp_path / "good.svs")
        touch(tmp_path, name, "S1.svs.md5")
        (gone,) = find_slides(tmp_path).left_out
        assert gone.file.slide_id == "S1"
        assert gone.reason == (
            f"only {name}: named like a copy or an older version of a slide, but no format that OpenSlide reads; remove it"
        )
        shutil.copy(tmp_path / "good.svs", tmp_path / name)
        assert [file.slide_id for file in find_slides(tmp_path).files] == ["S1", "good"]

    def test_downloads_of_gdc_client_and_tcia_are_read_as_they_lie(self, tmp_path):
        """Folders named by uuid with logs and annotations, a broken download, TCIA's series and licence, litter of systems."""
        name = "TCGA-06-{}-{}.3C2E2C5B"
        small_svs(tmp_path / "1f4bb6e" / f"{name.format('0125', '01Z-00-DX1')}.svs")
        small_svs(tmp_path / "2f4bb6e" / f"{name.format('0126', '02Z-00-DX1')}.svs")
        small_svs(tmp_path / "GBM" / "C3L-00104-21.svs")
        touch(
            tmp_path,
            f"1f4bb6e/logs/{name.format('0125', '01Z-00-DX1')}.svs.parcel",
            "1f4bb6e/annotations.txt",
            f"3f4bb6e/{name.format('0127', '01Z-00-DX1')}.svs.partial",
            "MANIFEST.txt",
            "metadata.csv",
            "manifest-1.tcia",
            "GBM/LICENSE",
            "._C3L-00104-21.svs",
            "Thumbs.db",
        )
        if DICOM.is_dir():
            shutil.copytree(DICOM, tmp_path / "CPTAC" / "C3L-00105" / "01-01-2000-NA" / "1.000000-SM-1")
        found = find_slides(tmp_path)
        cases = {file.case_id for file in found.files}
        assert {"TCGA-06-0125", "TCGA-06-0126", "C3L-00104"} <= cases
        assert len(found.files) == 3 + DICOM.is_dir()
        (gone,) = found.left_out
        assert (gone.file.case_id, gone.status) == ("TCGA-06-0127", "failed")
        assert "resume it" in gone.reason

    def test_leftovers_of_a_complete_slide_do_not_fail(self, tmp_path):
        """As gdc-client leaves a download, and a user a packed copy."""
        name = "TCGA-06-0125-01Z-00-DX1.x"
        small_svs(tmp_path / "uuid" / f"{name}.svs")
        touch(tmp_path, f"uuid/logs/{name}.svs.parcel", "uuid/annotations.txt", f"packed/{name}.svs.gz")
        found = find_slides(tmp_path)
        assert [file.slide_id for file in found.files] == [name]
        assert [(gone.status, gone.reason) for gone in found.left_out] == [
            ("excluded", f"{name}.svs.gz: {name}.svs is used instead")
        ]
        assert found.notes == ("2 files ignored that are no slide: 1 .parcel, 1 .txt",)

    def test_what_openslide_recognises_is_a_slide_whatever_its_name(self, tmp_path):
        for name in ("a.image", "b", "c.qptiff"):
            shutil.copy(small_svs(tmp_path / "x.svs"), tmp_path / name)
        (tmp_path / "x.svs").unlink()
        found = find_slides(tmp_path)
        assert [file.slide_id for file in found.files] == ["a", "b", "c"]
        assert find_slides(tmp_path / "b").files[0].slide_id == "b"

    def test_a_folder_of_unreadable_slides_is_refused_with_them(self, tmp_path):
        touch(tmp_path, *(f"s{i}.vsi" for i in range(300)), "notes.txt")
        with pytest.raises(
            InputError, match=r"no slide in .*300 files look like slides.*s0\.vsi \(only s0\.vsi"
        ) as refused:
            find_slides(tmp_path)
        assert len(str(refused.value)) < 1200

    def test_several_files_are_given_as_a_shell_expands_them(self, tmp_path):
        paths = tuple(small_svs(tmp_path / f"{name}.svs") for name in "ba")
        touch(tmp_path, "c.svs.part", "genes.csv", "odd.docx")
        found = find_slides((*paths, tmp_path / "c.svs.part"))
        assert [file.slide_id for file in found.files] == ["a", "b"]
        assert [gone.file.slide_id for gone in found.left_out] == ["c"]
        with pytest.raises(InputError, match=r"genes\.csv among 3 files: give either slides, or one manifest"):
            find_slides((*paths, tmp_path / "genes.csv"))
        with pytest.raises(InputError, match=r"odd\.docx: no slide; give slides, and after them the gene table"):
            find_slides((*paths, tmp_path / "odd.docx"))

    def test_ten_thousand_names_are_listed_in_seconds(self, tmp_path):
        touch(tmp_path, *(f"{i % 40}/s{i}.svs" for i in range(10_000)))
        start = time.process_time()
        assert len(find_slides(tmp_path).files) == 10_000
        assert time.process_time() - start < 10


class TestNames:
    @pytest.mark.parametrize(
        ("name", "slide_id"),
        [
            ("a.svs", "a"),
            ("a.ome.tif", "a"),
            ("a.OME.TIFF", "a"),
            ("  a  b .svs", "a b"),
            ("Mu\u0308ller.svs", "M\u00fcller"),
            ("TCGA-06-0125-01Z-00-DX1.1-2.svs.partial", "TCGA-06-0125-01Z-00-DX1.1-2"),
            ("a.svs.gz", "a"),
            ("a.b", "a"),
            ("a", "a"),
        ],
    )
    def test_one_name_is_one_id(self, name, slide_id):
        assert slide_name(name) == slide_id


@pytest.mark.parametrize(
    "address",
    [
        "https://host/bucket/S1.svs?versionId=a/b&x=1#top",
        "s3://bucket/S1.svs",
        "C:\\slides\\S1.svs",
        "\\\\host\\share\\S1.svs",
        "/data/S1.svs/",
        "S1.svs",
    ],
)
def test_the_file_name_at_the_end_of_an_address(address):
    assert address_name(address) == "S1.svs"


def test_the_pattern_of_ids_counts_wherever_slides_are_given(tmp_path):
    """In a folder, in one of several folders, and of a file."""
    identity = identity_scheme(r"LAB_(\d+)")
    (tmp_path / "one").mkdir()
    inside, beside = small_svs(tmp_path / "one" / "LAB_17_a.svs"), small_svs(tmp_path / "LAB_18_b.svs")
    for source in ((tmp_path / "one", beside), tmp_path, (inside, beside)):
        assert [file.case_id for file in find_slides(source, identity=identity).files] == ["17", "18"]
