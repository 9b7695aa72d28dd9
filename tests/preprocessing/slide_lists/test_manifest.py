import re

import pytest

from preprocessing.io.errors import InputError
from preprocessing.slide_lists.discovery import find_slides
from preprocessing.slide_lists.manifest import read_manifest
from preprocessing.slide_lists.selection import SlideOptions, select_slides
from preprocessing.slides.probing import probe_slide, probe_slides
from preprocessing.slides.slide import SlideFile
from preprocessing.tables.identity import IdentityScheme
from tests.preprocessing.slides.small_files import manifest, small_svs


class TestManifest:
    def test_gives_ids_cases_and_mpp_and_paths_from_its_own_folder(self, tmp_path):
        absolute = tmp_path / "elsewhere" / "c.svs"
        text = f"slide_id,path,case_id,mpp\n007,sub/a.svs,011,0.25\n,b.svs,,\n,{absolute},,\n"
        found = find_slides(manifest(tmp_path, text)).files
        assert list(found) == [
            SlideFile("007", "011", tmp_path / "sub/a.svs", 0.25),
            SlideFile("b", "b", tmp_path / "b.svs", None),
            SlideFile("c", "c", absolute, None),
        ]

    def test_case_may_be_written_as_a_longer_barcode(self, tmp_path):
        text = "path,case_id\na.svs,TCGA-06-0125-01Z\n"
        assert find_slides(manifest(tmp_path, text)).files[0].case_id == "TCGA-06-0125"

    def test_columns_may_be_spelt_in_capitals_and_with_blanks(self, tmp_path):
        (found,) = find_slides(manifest(tmp_path, "Path,Slide ID,caseid,MPP,remark\na.svs,s,p1,0.25,x\n")).files
        assert found == SlideFile("s", "p1", tmp_path / "a.svs", 0.25)

    def test_case_follows_from_a_tcga_slide_id(self, tmp_path):
        text = "path,slide_id\na.svs,TCGA-06-0125-01Z-00-DX1\n"
        assert find_slides(manifest(tmp_path, text)).files[0].case_id == "TCGA-06-0125"

    @pytest.mark.parametrize(
        "row",
        [
            "TCGA-06-0125-01Z-00-DX1.svs,,TCGA-06-0130",
            "TCGA-06-0125-01Z-00-DX1.svs,TCGA-06-0130-01Z-00-DX1,",
            "a.svs,TCGA-06-0125-01Z-00-DX1,TCGA-06-0130-01A",
        ],
    )
    def test_barcodes_of_two_cases_in_a_row_are_refused(self, tmp_path, row):
        """Slides of another patient, after one column was sorted by itself."""
        text = f"path,slide_id,case_id\nTCGA-06-0001-01Z-00-DX1.svs,,TCGA-06-0001-01A\nb.svs,x,TCGA-06-0002\n{row}\n"
        with pytest.raises(
            InputError, match=r"line 4: TCGA-06-01\S+ and TCGA-06-01\S+ are barcodes of different cases"
        ):
            find_slides(manifest(tmp_path, text))

    def test_relative_paths_of_windows_are_found(self, tmp_path):
        (tmp_path / "sub").mkdir()
        small_svs(tmp_path / "sub" / "a.svs")
        one, other = find_slides(manifest(tmp_path, "path\nsub\\a.svs\nsub\\b.svs\n")).files
        assert (one.slide_id, one.path) == ("a", tmp_path / "sub/a.svs")
        assert other.slide_id == "b"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("path,mpp\na.svs,40\n", "line 2: mpp 40.0 lies outside 0.05–5.0 µm; 20× has about 0.5 µm, 40× about 0.25"),
            (
                "slide_id,file\na,a.svs\n",
                r"manifest\.csv has no column `path`; it has slide_id, file; rename file to path, or remove it",
            ),
            (
                "path,patient\na.svs,p1\n",
                "has no column `case_id`; it has path, patient; rename patient to case_id, or remove it",
            ),
            ("path,mpp_x\na.svs,0.5\n", "has no column `mpp`; it has path, mpp_x; rename mpp_x to mpp, or remove it"),
            ("path,mpp,MPP\na.svs,0.5,0.25\n", "has the column mpp more than once, as mpp, MPP; keep one"),
            ('path,mpp\na.svs,"0,5"\n', 'line 2: mpp "0,5" is not a number .use a decimal point'),
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
        files = find_slides(manifest(tmp_path, "path\na.svs\nlost.svs\n")).files
        usable, left_out = probe_slides(files, default_mpp=None)
        assert [slide.slide_id for slide in usable] == ["a"]
        assert [(gone.status, gone.reason) for gone in left_out] == [
            ("failed", f"{tmp_path / 'lost.svs'} does not exist")
        ]


class TestAddresses:
    def test_paths_are_understood_as_users_write_them(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        rows = ["/data/a.svs", '" /data/b.svs "', "~/c.svs", "../d.svs"]
        found = find_slides(manifest(tmp_path, "path\n" + "\n".join(rows) + "\n")).files
        assert {file.slide_id: str(file.path) for file in found} == {
            "a": "/data/a.svs",
            "b": "/data/b.svs",
            "c": str(tmp_path / "home" / "c.svs"),
            "d": str(tmp_path / ".." / "d.svs"),
        }

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("s3://bucket/dir/TCGA-DU-A6S2-01Z-00-DX1.41E9.svs", "is not on a disk.*mount the bucket, or download it"),
            ("https://host/x/TCGA-DU-A6S2-01Z-00-DX1.41E9.svs?a=b", "is not on a disk.*; download it"),
            ("file:///data/TCGA-DU-A6S2-01Z-00-DX1.41E9.svs", "is a URL; give it as a plain path"),
            (r"C:\slides\TCGA-DU-A6S2-01Z-00-DX1.41E9.svs", "is a path of Windows"),
            (r"\\server\share\TCGA-DU-A6S2-01Z-00-DX1.41E9.svs", "is a path of Windows"),
        ],
    )
    def test_an_address_elsewhere_fails_its_slide_with_the_address_unharmed(self, tmp_path, address, reason):
        small_svs(tmp_path / "here.svs")
        found = find_slides(manifest(tmp_path, f"path\nhere.svs\n{address}\n"))
        assert [file.slide_id for file in found.files] == ["here"]
        (gone,) = found.left_out
        assert (gone.file.slide_id, gone.file.case_id) == ("TCGA-DU-A6S2-01Z-00-DX1.41E9", "TCGA-DU-A6S2")
        assert (gone.status, gone.file.location) == ("failed", address)
        assert gone.reason.startswith(address)
        assert re.search(reason, gone.reason)


class TestTrust:
    @pytest.mark.parametrize(
        ("columns", "trusted"),
        [
            ("trust_mpp\n{},yes", True),
            ("trust_mpp\n{},no", False),
            ("mpp_source\n{},manifest (overrides metadata 0.25)", True),
            ("mpp_source\n{},metadata (doubtful: manifest 0.5)", False),
        ],
    )
    def test_a_column_says_whether_the_manifest_overrides_the_metadata(self, tmp_path, columns, trusted):
        small_svs(tmp_path / "a.svs", mpp=0.25)
        (file,) = find_slides(manifest(tmp_path, f"path,mpp,{columns.format('a.svs,0.5')}\n")).files
        assert file.trust_mpp is trusted
        slide = probe_slide(file, default_mpp=None)
        assert slide.mpp == pytest.approx(0.5 if trusted else 0.25)
        assert slide.mpp_source == (
            "manifest (overrides metadata 0.25)" if trusted else "metadata (doubtful: manifest 0.5)"
        )
        assert probe_slide(file, default_mpp=None, trust_manifest=True).mpp == 0.5


GDC_SHEET = (
    "File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type\n"
    "u1\tTCGA-06-0125-01Z-00-DX1.x.svs\tBiospecimen\tSlide Image\tTCGA-GBM\tTCGA-06-0125\tTCGA-06-0125-01Z\tPrimary Tumor\n"
    "u2\tC3L-00016-26.svs\tBiospecimen\tSlide Image\tCPTAC-3\tC3L-00016\tC3L-00016-06\tSolid Tissue Normal\n"
    "u3\tcounts.tsv\tTranscriptome\tGene Expression\tTCGA-GBM\tTCGA-06-0125\tTCGA-06-0125-01A\tPrimary Tumor\n"
)
GDC_MANIFEST = "id\tfilename\tmd5\tsize\tstate\nu1\tTCGA-06-0125-01Z-00-DX1.x.svs\t0\t1\treleased\n"


class TestGdc:
    def test_a_sample_sheet_is_a_manifest_of_what_gdc_client_downloaded(self, tmp_path):
        small_svs(tmp_path / "u1" / "TCGA-06-0125-01Z-00-DX1.x.svs")
        (tmp_path / "gdc_sample_sheet.tsv").write_text(GDC_SHEET)
        found = find_slides(tmp_path / "gdc_sample_sheet.tsv")
        normal, primary = found.files
        assert (normal.slide_id, normal.case_id, normal.sample_class) == ("C3L-00016-26", "C3L-00016", "normal")
        assert (primary.case_id, primary.sample_class) == ("TCGA-06-0125", "primary")
        assert primary.path == tmp_path / "u1" / "TCGA-06-0125-01Z-00-DX1.x.svs"
        assert normal.path == tmp_path / "u2" / "C3L-00016-26.svs"
        assert found.notes == (
            "gdc_sample_sheet.tsv is a GDC table: 2 slides",
            "gdc_sample_sheet.tsv: 1 file of other kinds, not used",
        )

    def test_newer_sheets_say_the_sample_type_in_two_columns(self, tmp_path):
        kinds = {"26": ("Tumor", "Primary"), "27": ("Tumor", "Recurrence"), "28": ("Normal", "Not Applicable")}
        header = "File ID\tFile Name\tCase ID\tTissue Type\tTumor Descriptor\tSpecimen Type\n"
        rows = [f"u{n}\tC3L-00016-{n}.svs\tC3L-00016\t{a}\t{b}\tSolid Tissue\n" for n, (a, b) in kinds.items()]
        (tmp_path / "gdc_sample_sheet.tsv").write_text(header + "".join(rows))
        small_svs(tmp_path / "u26" / "C3L-00016-26.svs")
        found = find_slides(tmp_path / "gdc_sample_sheet.tsv").files
        assert [file.sample_class for file in found] == ["primary", "recurrent", "normal"]

    def test_the_sample_type_is_that_of_the_files_own_row(self, tmp_path):
        """Among files that are no slides, whose rows count as well."""
        header = "File ID\tFile Name\tCase ID\tTissue Type\tTumor Descriptor\n"
        rows = [
            "u1\tcounts.tsv\tC3L-00016\tNormal\tNot Applicable\n",
            "u2\tC3L-00016-26.svs\tC3L-00016\tTumor\tPrimary\n",
            "u3\treads.bam\tC3L-00017\tNormal\tNot Applicable\n",
            "u4\tC3L-00017-27.svs\tC3L-00017\tTumor\tRecurrence\n",
        ]
        (tmp_path / "gdc_sample_sheet.tsv").write_text(header + "".join(rows))
        for name in ("26", "27"):
            small_svs(tmp_path / f"C3L-000{int(name) - 10}-{name}.svs")
        found = find_slides(tmp_path / "gdc_sample_sheet.tsv").files
        assert {file.slide_id: file.sample_class for file in found} == {
            "C3L-00016-26": "primary",
            "C3L-00017-27": "recurrent",
        }

    def test_a_cohort_table_of_cptac_is_a_manifest_that_knows_normal_tissue(self, tmp_path):
        text = "Slide_ID,Case_ID,Specimen_Type\nC3L-00104-21,C3L-00104,tumor_tissue\nC3L-00104-22,C3L-00104,normal_tissue\n"
        for number in (21, 22):
            small_svs(tmp_path / f"C3L-00104-{number}.svs")
        files = find_slides(manifest(tmp_path, text)).files
        assert [(file.case_id, file.sample_class) for file in files] == [
            ("C3L-00104", "primary"),
            ("C3L-00104", "normal"),
        ]
        kept, left_out = select_slides(files, SlideOptions(), IdentityScheme())
        assert [file.slide_id for file in kept] == ["C3L-00104-21"]
        assert left_out[0].reason.startswith("sample type normal, not primary")

    def test_a_download_manifest_far_from_its_files_is_named_with_the_way_out(self, tmp_path):
        (tmp_path / "gdc_manifest.txt").write_text(GDC_MANIFEST)
        with pytest.raises(
            InputError, match=r"is a GDC table of 1 slide, none of which lies in .*gdc-client.*give that folder"
        ):
            find_slides(tmp_path / "gdc_manifest.txt")
        small_svs(tmp_path / "u1" / "TCGA-06-0125-01Z-00-DX1.x.svs")
        (file,) = find_slides(tmp_path / "gdc_manifest.txt").files
        assert file.case_id == "TCGA-06-0125"


class TestIds:
    def test_ids_alone_are_looked_up_below_the_manifest(self, tmp_path):
        """As CPTAC's list of slides, which has no paths."""
        small_svs(tmp_path / "GBM" / "C3L-00016-21.svs")
        text = (
            "Case_ID,Slide_ID,Specimen_Type\nC3L-00016,C3L-00016-21,tumor_tissue\nC3L-00017,C3L-00017-21,tumor_tissue\n"
        )
        found = {file.slide_id: file for file in find_slides(manifest(tmp_path, text)).files}
        assert found["C3L-00016-21"].path == tmp_path / "GBM" / "C3L-00016-21.svs"
        assert found["C3L-00016-21"].case_id == "C3L-00016"
        assert not found["C3L-00017-21"].path.exists()

    def test_a_table_without_slides_hints_at_swapped_inputs_and_lists_few_columns(self, tmp_path):
        text = ",".join(f"gene{i}" for i in range(900)) + "\n" + ",".join("1" for _ in range(900)) + "\n"
        with pytest.raises(InputError, match=r"gene7, … \(900 columns\).*SLIDES and GENES are swapped") as refused:
            find_slides(manifest(tmp_path, text))
        assert len(str(refused.value)) < 600


def test_columns_of_a_manifest_that_leave_slides_out_or_name_their_stain_are_warned_of(tmp_path):
    path = tmp_path / "slides.csv"
    path.write_text("path,case_id,use,stain\na.svs,A,1,H&E\nb.svs,B,0,GFAP\nc.svs,C,1,HE\n")
    use, stain = read_manifest(path).notes
    assert use == (
        f"warning: {path}: column use may mark 1 row to be left out, but all rows are used; delete what is not to be used"
    )
    assert stain.startswith(f"warning: {path}: column stain names another stain than H&E for 1 slide (GFAP), which")
    path.write_text("path,case_id,use,stain\na.svs,A,1,H&E\nb.svs,B,1,HE\n")
    assert read_manifest(path).notes == ()
