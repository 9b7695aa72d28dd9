import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline.cluster.worker_processes import start_server
from preprocessing.io.errors import InputError
from preprocessing.slides.discovery import find_slides, select_kind
from preprocessing.slides.probing import probe_slides
from preprocessing.slides.slide import SlideFile
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

    def test_hidden_and_other_files_are_ignored(self, tmp_path):
        touch(
            tmp_path, "a.svs", "._a.svs", ".trash/b.svs", "x/.cache/deep/c.svs", "notes.txt", "a.svs.part", "genes.csv"
        )
        (tmp_path / "folder.svs").mkdir()
        assert [file.slide_id for file in find_slides(tmp_path)] == ["a"]

    def test_may_lie_below_a_hidden_folder(self, tmp_path):
        touch(tmp_path, ".data/slides/a.svs")
        assert [file.slide_id for file in find_slides(tmp_path / ".data/slides")] == ["a"]

    def test_a_link_to_a_slide_is_followed_and_a_broken_one_is_reported(self, tmp_path):
        real = small_svs(tmp_path / "store" / "0001.svs")
        (tmp_path / "slides").mkdir()
        (tmp_path / "slides/good.svs").symlink_to(real)
        (tmp_path / "slides/dead.svs").symlink_to(tmp_path / "nowhere.svs")
        usable, left_out = probe_slides(find_slides(tmp_path / "slides"), default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["good"]
        assert [(gone.file.slide_id, gone.status) for gone in left_out] == [("dead", "failed")]
        assert "does not exist" in left_out[0].reason

    def test_without_slides_is_refused_with_the_known_suffixes(self, tmp_path):
        touch(tmp_path, "readme.txt")
        with pytest.raises(InputError, match=rf"no slide in {re.escape(str(tmp_path))} or below; looked for .*\.svs"):
            find_slides(tmp_path)

    def test_that_does_not_exist_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="nowhere does not exist; give a folder, a slide or a manifest CSV"):
            find_slides(tmp_path / "nowhere")

    def test_a_dicom_file_that_crashes_the_library_is_a_slide_of_its_own(self, tmp_path, monkeypatch):
        touch(tmp_path, "crashes.dcm", "x_1.dcm", "x_2.dcm")
        monkeypatch.setattr("preprocessing.slides.discovery._series_of", series_but)
        assert [file.slide_id for file in find_slides(tmp_path, isolated=True)] == ["crashes", "x_1"]

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
        assert left_out[0].reason == "slide kind TS; only DX slides are used (--slide-kind all uses every slide)"

    def test_all_takes_every_slide(self):
        kept, left_out = select_kind(self.files(), "all")
        assert (len(kept), left_out) == (4, [])
