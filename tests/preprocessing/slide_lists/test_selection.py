import re
from dataclasses import replace
from pathlib import Path

import pytest

from preprocessing.slide_lists.selection import SlideOptions, select_resolutions, select_slides, upsampling
from preprocessing.slides.slide import Slide, SlideFile
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.sample_types import parse_sample_types


def file(slide_id, sample_class=""):
    return SlideFile(slide_id, slide_id[:12], Path(f"{slide_id}.svs"), sample_class=sample_class)


IDS = {
    "TCGA-06-0125-01Z-00-DX1": None,
    "TCGA-06-0125-02Z-00-DX1": r"sample type 02 \(recurrent\), not primary \(--sample-types primary,recurrent adds it\)",
    "TCGA-06-0125-06Z-00-DX1": r"sample type 06 \(metastatic\)",
    "TCGA-06-0125-11Z-00-DX1": r"sample type 11 \(normal\)",
    "H12-345": None,
}


@pytest.mark.parametrize("kind", ["DX", "all"])
def test_samples_other_than_primary_tumours_are_excluded_by_default(kind):
    kept, left_out = select_slides(map(file, IDS), SlideOptions(kind=kind), IdentityScheme())
    assert [one.slide_id for one in kept] == [name for name, reason in IDS.items() if reason is None]
    assert all(gone.status == "excluded" for gone in left_out)
    for gone in left_out:
        assert re.match(IDS[gone.file.slide_id], gone.reason), gone.reason


def test_requested_samples_are_used_by_name_or_code():
    for text in ("primary,recurrent", "01,02"):
        kept, _ = select_slides(map(file, IDS), SlideOptions(sample_types=parse_sample_types(text)), IdentityScheme())
        assert [one.slide_id[13:15] for one in kept] == ["01", "02", ""]


def test_normal_tissue_frozen_slides_are_not_pooled_unasked():
    frozen = ["TCGA-06-0125-01A-01-TS1", "TCGA-06-0125-11A-01-TS1"]
    kept, (gone,) = select_slides(map(file, frozen), SlideOptions(kind="all"), IdentityScheme())
    assert [one.slide_id for one in kept] == frozen[:1]
    assert gone.file.slide_id == frozen[1]


def test_a_manifest_can_name_the_sample_type_of_any_slide():
    kept, (gone,) = select_slides([file("C3L-1-21"), file("C3L-1-26", "normal")], SlideOptions(), IdentityScheme())
    assert [one.slide_id for one in kept] == ["C3L-1-21"]
    assert gone.reason.startswith("sample type normal, not primary")


SLIDE = Slide("S", "C", Path("S.svs"), (0.5, 0.5), "metadata", (4000, 3000), "f" * 32)


@pytest.mark.parametrize(
    ("mpp_xy", "factor"), [((0.25, 0.25), 1), ((0.5, 0.5), 1), ((1.0, 1.0), 2), ((0.5, 0.6), 1.2), ((0.55, 0.55), 1.1)]
)
def test_a_slide_is_enlarged_by_its_resolution_over_that_of_the_tiles(mpp_xy, factor):
    assert upsampling(replace(SLIDE, mpp_xy=mpp_xy), 0.5) == pytest.approx(factor)


def test_slides_that_are_much_coarser_than_the_tiles_are_refused_and_others_warned_of():
    slides = [replace(SLIDE, slide_id=f"m{mpp}", mpp_xy=(mpp, mpp)) for mpp in (0.25, 0.505, 0.6, 1.0)]
    files = [file(slide.slide_id) for slide in slides]
    kept, (gone,), (warning,) = select_resolutions(slides, files, SlideOptions(tile_mpp=0.5))
    assert [slide.slide_id for slide in kept] == ["m0.25", "m0.505", "m0.6"]
    assert (gone.file.slide_id, gone.status) == ("m1.0", "failed")
    assert "scanned at 1 µm/px" in gone.reason
    assert "enlarged 2.00 times, more than 1.25; use coarser tiles (--mpp 1)" in gone.reason
    assert "m0.6 (0.6 µm/px, 1.20 times)" in warning
    assert "m0.505" not in warning
    kept, left_out, (warning,) = select_resolutions(slides, files, SlideOptions(tile_mpp=0.5, max_upsample=2))
    assert (len(kept), left_out) == (4, [])
    assert "m1.0 (1 µm/px, 2.00 times), m0.6" in warning


@pytest.mark.parametrize("mpp", [0.6301, 0.652, 0.7524, 1.0, 1.2349])
def test_a_slide_is_accepted_with_the_factor_that_its_refusal_names(mpp):
    slide = replace(SLIDE, mpp_xy=(mpp, mpp))
    _, (gone,), _ = select_resolutions([slide], [file("S")], SlideOptions(tile_mpp=0.5))
    allowed = re.search(r"allow it with --max-upsample ([\d.]+)$", gone.reason)
    assert allowed
    assert mpp / 0.5 <= float(allowed[1]) < mpp / 0.5 + 0.011
    kept, _, _ = select_resolutions([slide], [file("S")], SlideOptions(tile_mpp=0.5, max_upsample=float(allowed[1])))
    assert kept == [slide]


def test_precomputed_features_are_not_judged_by_resolution():
    slide = replace(SLIDE, mpp_xy=(2.0, 2.0), features="f")
    assert select_resolutions([slide], [file("S")], SlideOptions()) == ([slide], [], [])
