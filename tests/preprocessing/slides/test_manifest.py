import numpy as np
import pytest

from preprocessing.io.errors import InputError
from preprocessing.slides.discovery import find_slides
from preprocessing.slides.probing import probe_slides
from preprocessing.slides.slide import SlideFile
from workflows.demo import write_svs


def small_svs(path, *, grey=200, mpp=0.5, power=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_svs(path, np.full((64, 96, 3), grey, np.uint8), mpp=mpp, power=power, levels=(1,))
    return path


def manifest(folder, text):
    path = folder / "manifest.csv"
    path.write_text(text)
    return path


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
                r"manifest\.csv has no column `path`; it has slide_id, file; name the file column path",
            ),
            (
                "path,patient\na.svs,p1\n",
                "has no column `case_id`; it has path, patient; rename patient to case_id, or remove it",
            ),
            ("path,mpp_x\na.svs,0.5\n", "has no column `mpp`; it has path, mpp_x; rename mpp_x to mpp, or remove it"),
            ("path,mpp,MPP\na.svs,0.5,0.25\n", "has the column mpp more than once, as mpp, MPP; keep one"),
            ("path;mpp\na.svs;0,5\n", 'line 2: mpp "0,5" is not a number .use a decimal point'),
            ("# by hand\n\npath,mpp\na.svs,0.5\n\nb.svs,x\n", 'line 6: mpp "x" is not a number'),
            ("path,mpp\na.svs,0.5\nb.svs,half\n", r'line 3: mpp "half" is not a number'),
            ("path,mpp\na.svs,250\n", r"line 2: mpp 250\.0 lies outside 0\.05–5\.0 µm"),
            ("path,mpp\na.svs,-0.5\n", r"line 2: mpp -0\.5 lies outside"),
            ("slide_id,path\na,a.svs\nb,\n", r"line 3: no path"),
        ],
    )
    def test_mistakes_are_reported_with_their_line(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message):
            find_slides(manifest(tmp_path, text))

    def test_a_missing_slide_fails_alone(self, tmp_path):
        small_svs(tmp_path / "a.svs")
        files = find_slides(manifest(tmp_path, "path\na.svs\nlost.svs\n"))
        usable, left_out = probe_slides(files, default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["a"]
        assert [(gone.status, gone.reason) for gone in left_out] == [
            ("failed", f"{tmp_path / 'lost.svs'} does not exist")
        ]
