import hashlib
import re

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import label
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from workflows import run_pipeline
from workflows.demo import GENE_SETS, draw_genes, draw_labels, draw_slide, main, write_cohort, write_svs

SIZE_PX = 768


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, write_cohort(out, cases=6, size_px=SIZE_PX, seed=3)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_slides_open_as_aperio_with_levels_thumbnail_and_resolution(cohort):
    _, paths = cohort
    found = []
    for path in paths:
        with openslide.OpenSlide(path) as slide:
            assert slide.properties["openslide.vendor"] == "aperio"
            assert slide.level_downsamples == pytest.approx((1, 4, 16))
            assert "thumbnail" in slide.associated_images
            facts = slide.properties
            found.append((float(facts["openslide.mpp-x"]), facts["openslide.objective-power"], slide.dimensions))
    plain = (0.5, "20", (SIZE_PX * 9 // 8, SIZE_PX))  # wider than high, as glass lies beside the tissue
    assert sorted(found) == [(0.25, "40", (1152, 1024))] + [plain] * 6


def test_ids_have_the_form_of_tcga_and_one_case_has_two_slides(cohort):
    out, paths = cohort
    form = re.compile(
        r"TCGA-(ZZ|ZY|Z0)-\d{4}-01Z-00-DX[12]\.[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\.svs"
    )
    assert all(form.fullmatch(path.name) for path in paths)
    slides = pd.Series([path.name[:12] for path in paths]).value_counts()
    assert sorted(slides) == [1, 1, 1, 1, 1, 2]
    assert set(slides.index) == set(pd.read_csv(out / "genes.csv")["case_id"])


def test_gene_sets_name_the_genes_of_the_table(cohort):
    out, _ = cohort
    columns = pd.read_csv(out / "genes.csv", index_col="case_id").columns
    sets = pd.read_csv(out / "gene_sets.csv")
    genes = sets.to_numpy().ravel()
    assert len(set(genes)) == genes.size == 60
    assert set(columns) - set(genes) == {"grade", "subtype", "survival_months", "event", "age", "is_female"}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_cohort(tmp_path / name, cases=2, size_px=256, seed=seed)
    first, again, other = (digest(tmp_path / name) for name in "abc")
    assert first == again
    assert len(first) == 4
    assert not set(first.values()) & set(other.values()) - {first["gene_sets.csv"]}


def test_writing_again_replaces_but_another_cohort_is_refused(tmp_path, capsys):
    arguments = [str(tmp_path), "--cases", "1", "--size", "128", "--seed"]
    main([*arguments, "0"])
    before = digest(tmp_path)
    main([*arguments, "0"])
    assert digest(tmp_path) == before
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "1"])
    assert "slides of another cohort; give an empty folder" in capsys.readouterr().err
    assert digest(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_pipeline.main(["demo", str(tmp_path / "file" / "demo")]) == 1
    assert "demo cannot be written (Not a directory)" in capsys.readouterr().err


def test_slides_of_another_size_are_not_replaced(tmp_path, capsys):
    arguments = [str(tmp_path), "--cases", "5", "--size"]
    main([*arguments, "96"])
    before = digest(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "128"])
    assert "has slides of --size 96, not 128; give that size, or an empty folder" in " ".join(
        capsys.readouterr().err.split()
    )
    assert digest(tmp_path) == before
    (broken := sorted((tmp_path / "slides").iterdir())[0]).write_bytes(b"II*")  # as a call that is stopped leaves one
    main([*arguments, "96"])
    assert digest(tmp_path) == before
    assert broken.stat().st_size > 3


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_balanced_and_some_die(seed):
    labels = draw_labels(24, np.random.default_rng(seed))
    assert labels["grade"].value_counts().to_dict() == {2: 8, 3: 8, 4: 8}
    assert set(labels["subtype"].value_counts()) == {8}
    assert 6 <= labels["event"].sum() <= 22
    assert labels.index.is_unique
    assert (labels["survival_months"] > 0).all()


def test_survival_depends_on_grade_and_on_subtype():
    labels = draw_labels(2400, np.random.default_rng(0))
    deaths = labels.groupby(["subtype", "grade"])["event"].sum()
    rate = deaths / labels.groupby(["subtype", "grade"])["survival_months"].sum()  # deaths a month of follow-up
    for subtype in ("IDHwt", "IDHmut-non-codel"):
        assert rate[subtype, 4] / rate[subtype, 3] > 1.3
        assert rate[subtype, 3] / rate[subtype, 2] > 1.3
    for grade in (2, 3):
        assert rate["IDHwt", grade] > 1.5 * rate["IDHmut-non-codel", grade] > 1.5 * 1.3 * rate["IDHmut-codel", grade]


def test_genes_carry_the_subtype_and_not_perfectly_in_any_one_gene():
    rng = np.random.default_rng(0)
    labels = draw_labels(96, rng)
    genes = draw_genes(labels, rng)
    model = LogisticRegression(C=0.05, max_iter=500)
    assert (cross_val_predict(model, genes, labels["subtype"], cv=4) == labels["subtype"]).mean() > 0.85
    control = genes[GENE_SETS["Housekeeping"].split()]
    assert (cross_val_predict(model, control, labels["subtype"], cv=4) == labels["subtype"]).mean() < 0.55


def measure_nuclei(grade, seed, mpp=0.5):
    """Share of dark pixels in the tissue, and the median area of the dark pieces in µm²."""
    image, tissue = draw_slide(round(512 / mpp), grade=grade, rng=np.random.default_rng([grade, seed]), mpp=mpp)
    dark = image[..., 0] < 120
    areas = np.bincount(label(dark)[0].ravel())[1:] * mpp**2
    return dark[tissue].mean(), np.median(areas[areas > 5])


def test_grade_can_be_reported_from_the_nuclei():
    measured = {grade: np.array([measure_nuclei(grade, seed) for seed in range(4)]) for grade in (2, 3, 4)}
    for lower, higher in ((2, 3), (3, 4)):
        assert (measured[lower].max(axis=0) < measured[higher].min(axis=0)).all(), measured


def test_finer_slide_shows_the_same_tissue():
    coarse, fine = measure_nuclei(3, 0), measure_nuclei(3, 0, mpp=0.25)
    assert fine[1] == pytest.approx(coarse[1], rel=0.25)


def test_background_is_nearly_white_and_tissue_is_pink():
    image, tissue = draw_slide(512, grade=2, rng=np.random.default_rng(0))
    assert 0.3 < tissue.mean() < 0.7
    assert image[~tissue].min() > 225
    red, green, blue = image[tissue].mean(axis=0)
    assert red > blue > green
    assert green < 190


def test_slide_without_resolution_reports_none(tmp_path):
    image, _ = draw_slide(300, grade=2, rng=np.random.default_rng(0))
    write_svs(tmp_path / "a.svs", image, mpp=None, power=None, tile_px=240, levels=(1, 2))
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert "openslide.mpp-x" not in slide.properties
        assert "openslide.objective-power" not in slide.properties
        assert slide.level_dimensions == ((300, 300), (150, 150))
        assert slide.properties["openslide.level[0].tile-width"] == "240"
    with tifffile.TiffFile(tmp_path / "a.svs") as tiff:
        assert tiff.pages[0].compression == tifffile.COMPRESSION.JPEG


def test_slide_pixels_are_those_of_the_image(tmp_path):
    image = np.full((320, 512, 3), 240, np.uint8)
    image[:, 256:] = (200, 120, 170)
    write_svs(tmp_path / "a.svs", image, mpp=0.5, power=20)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        seen = np.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        small = np.array(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB"))
    inner = np.s_[:-1]  # the last row's colour is mixed with the padding of its JPEG tile
    assert np.abs(seen.astype(int) - image)[inner].max() <= 4
    assert small.shape == (80, 128, 3)
    assert np.abs(small[:-1, 70:-1].astype(int) - (200, 120, 170)).max() <= 4


@pytest.mark.parametrize("flag", [["--cases", "0"], ["--size", "10"], ["--seed", "-1"]])
def test_senseless_numbers_are_refused(tmp_path, capsys, flag):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), *flag])
    assert f"{flag[0]} {flag[1]}: give" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
