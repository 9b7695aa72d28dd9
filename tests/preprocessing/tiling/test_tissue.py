import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import ValidationError
from scipy.ndimage import binary_erosion

from models.settings import Settings
from preprocessing.io.fingerprints import file_fingerprint
from preprocessing.tiling.tissue import (
    DETECTORS,
    ColourConfig,
    Detector,
    TiatoolboxConfig,
    TissueConfig,
    _turn_to_density,
    detect_by_tiatoolbox,
    detect_tissue,
    tissue_recipe,
)
from workflows.demo import draw_slide

CONFIG = TissueConfig()
DATA = Path(__file__).parents[3].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real slides and regions are not at ../shared/data")
PENS = {"red": (200, 30, 40), "green": (20, 140, 80), "blue": (30, 60, 180), "black": (25, 25, 30)}
TINTS = {"white": (243, 243, 243), "yellow": (235, 225, 200), "green": (225, 238, 228), "grey": (212, 212, 212)}


def disc(size, centre, radius):
    yy, xx = np.mgrid[:size, :size]
    return (yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 < radius**2


def stain(tissue, *, glass=(243, 243, 243), strength=1.0, noise=1.5, seed=0):
    """A thumbnail of pink and purple tissue in front of glass."""
    rng = np.random.default_rng(seed)
    share = rng.beta(2, 4, tissue.shape)[..., None]  # of haematoxylin
    density = share * np.array([0.45, 0.60, 0.30]) + (1 - share) * np.array([0.05, 0.26, 0.12])
    image = np.array(glass) * 10.0 ** (-strength * density * tissue[..., None])
    return np.clip(np.round(image + rng.normal(0, noise, image.shape)), 0, 255).astype(np.uint8)


def iou(found, truth):
    return np.count_nonzero(found & truth) / np.count_nonzero(found | truth)


@pytest.fixture(scope="module")
def truth():
    return disc(256, (110, 120), 70) | disc(256, (215, 215), 24)


@pytest.mark.parametrize("glass", TINTS.values(), ids=TINTS.keys())
def test_tissue_is_found_on_glass_of_any_tint(truth, glass):
    found = detect_tissue(stain(truth, glass=glass), 8.0, CONFIG)
    assert found.dtype == bool
    assert iou(found, truth) > 0.95


@pytest.mark.parametrize("glass", TINTS.values(), ids=TINTS.keys())
@pytest.mark.parametrize("noise", [0, 1, 3, 8])
def test_blank_slide_has_no_tissue(glass, noise):
    blank = stain(np.zeros((256, 256), bool), glass=glass, noise=noise)
    assert not detect_tissue(blank, 8.0, CONFIG).any()


@pytest.mark.parametrize("level", [0, 255])
def test_slide_of_padding_alone_has_no_tissue(level):
    assert not detect_tissue(np.full((100, 80, 3), level, np.uint8), 8.0, CONFIG).any()


def test_uneven_light_is_not_tissue():
    light = np.linspace(200, 245, 256)[None, :, None] + np.random.default_rng(0).normal(0, 1, (256, 256, 3))
    assert not detect_tissue(light.astype(np.uint8), 8.0, CONFIG).any()


def test_grey_dirt_and_cover_slip_edges_are_not_tissue():
    image = stain(np.zeros((256, 256), bool))
    image[40:90, 60:140] = 150
    image[:, 200:204] = 90
    assert not detect_tissue(image, 8.0, TissueConfig(settings={"exclude_pen": False})).any()


def test_tissue_from_edge_to_edge_is_all_found():
    everywhere = np.ones((200, 300), bool)
    assert detect_tissue(stain(everywhere), 8.0, CONFIG).mean() > 0.99


@pytest.mark.parametrize("strength", [0.3, 0.5])
def test_faint_tissue_is_found(truth, strength):
    assert iou(detect_tissue(stain(truth, strength=strength), 8.0, CONFIG), truth) > 0.93


@pytest.mark.parametrize("glass", [TINTS["white"], TINTS["yellow"]], ids=["white", "yellow"])
@pytest.mark.parametrize("level", [0, 255])
def test_padding_is_left_out_and_tissue_beside_it_kept(truth, glass, level):
    image, expected = stain(truth, glass=glass), truth.copy()
    image[:90], expected[:90] = level, False
    image[:, :30] = level
    found = detect_tissue(image, 8.0, CONFIG)
    assert not found[:90].any()
    assert iou(found, expected) > 0.92


@pytest.mark.parametrize("ink", PENS.values(), ids=PENS.keys())
def test_pen_is_excluded_and_other_tissue_kept(truth, ink):
    picture, stroke = Image.fromarray(stain(truth)), Image.new("1", (256, 256))
    ImageDraw.Draw(picture).line([(20, 30), (200, 190)], fill=ink, width=11)
    ImageDraw.Draw(stroke).line([(20, 30), (200, 190)], fill=1, width=11)
    under_pen = np.array(stroke)
    found = detect_tissue(np.array(picture), 8.0, CONFIG)
    assert found[under_pen].mean() < 0.01
    far_from_pen = truth & binary_erosion(~under_pen, iterations=10)
    assert found[far_from_pen].mean() > 0.97


def test_pen_stays_where_it_is_not_to_be_excluded(truth):
    image = stain(truth)
    image[100:115, 60:180] = PENS["red"]
    assert detect_tissue(image, 8.0, TissueConfig(settings={"exclude_pen": False}))[102:113, 70:170].all()
    assert not detect_tissue(image, 8.0, CONFIG)[102:113, 70:170].any()


@pytest.mark.parametrize("mpp", [2.0, 4.0, 8.0, 16.0])
def test_specks_and_holes_are_measured_in_microns(mpp):
    size = round(2048 / mpp)
    big = disc(size, (size * 0.4, size * 0.4), 600 / mpp)
    small_hole, large_hole = (
        disc(size, (500 / mpp, 700 / mpp), 35 / mpp),
        disc(size, (1000 / mpp, 900 / mpp), 120 / mpp),
    )
    speck, piece = disc(size, (300 / mpp, 1800 / mpp), 40 / mpp), disc(size, (1750 / mpp, 1750 / mpp), 110 / mpp)
    found = detect_tissue(stain((big & ~small_hole & ~large_hole) | speck | piece), mpp, CONFIG)
    assert found[small_hole].all()
    assert found[large_hole].mean() < 0.3
    assert not found[speck].any()
    assert found[piece].mean() > 0.9


def test_fine_thumbnail_of_odd_size_gets_a_mask_of_its_own_size(truth):
    fine = truth.repeat(5, axis=0).repeat(5, axis=1)[:1273, :1261]
    found = detect_tissue(stain(fine), 1.6, CONFIG)
    assert found.shape == (1273, 1261)
    assert iou(found, fine) > 0.95


def test_thumbnail_of_a_few_pixels_has_a_mask():
    assert detect_tissue(np.full((1, 3, 3), 240, np.uint8), 8.0, CONFIG).shape == (1, 3)


@pytest.mark.parametrize("grade", [2, 4])
def test_drawn_slide_agrees_with_its_layout(grade):
    image, tissue = draw_slide(2048, grade=grade, rng=np.random.default_rng(grade))
    thumbnail = np.asarray(Image.fromarray(image).reduce(16))
    assert iou(detect_tissue(thumbnail, 8.0, CONFIG), tissue[8::16, 8::16]) > 0.92


class TestConfig:
    def test_an_unknown_detector_is_refused_with_the_known_ones(self):
        with pytest.raises(ValidationError, match='unknown tissue detector "color": did you mean "colour"'):
            TissueConfig(detector="color")

    def test_an_unknown_setting_is_refused_with_the_known_ones(self):
        with pytest.raises(
            ValidationError,
            match='unknown setting "exclude_pens" of the tissue detector colour: did you mean "exclude_pen"',
        ):
            TissueConfig(settings={"exclude_pens": True})
        with pytest.raises(ValidationError, match='"exclude_pen" of the tissue detector tiatoolbox: it has none'):
            TissueConfig(detector="tiatoolbox", settings={"exclude_pen": True})

    @pytest.mark.parametrize("value", [-1, "few"])
    def test_a_settings_value_is_checked_and_named(self, value):
        with pytest.raises(ValidationError, match=r"settings\.min_hole_um2"):
            TissueConfig(settings={"min_hole_um2": value})

    def test_settings_are_those_of_the_detector(self):
        assert TissueConfig().settings == ColourConfig()
        assert TissueConfig(detector="tiatoolbox").settings == TiatoolboxConfig()
        assert TissueConfig(settings={"min_hole_um2": 5}).settings == ColourConfig(min_hole_um2=5)

    def test_what_is_written_as_json_is_read_again(self):
        config = TissueConfig(mpp=4, settings={"min_hole_um2": 5})
        assert TissueConfig.model_validate_json(config.model_dump_json()) == config

    def test_a_recipe_of_an_earlier_store_is_read(self):
        earlier = {"detector": "default", "mpp": 4.0, "smooth_um": 10.0, "min_threshold": 0.015, "max_threshold": 0.05}
        earlier |= {"min_piece_um2": 7.0, "min_hole_um2": 10_000.0, "exclude_pen": False, "white_level": 245}
        expected = TissueConfig(mpp=4, settings={"min_piece_um2": 7, "exclude_pen": False})
        assert TissueConfig(**earlier) == expected

    def test_a_recipe_of_an_earlier_store_with_other_constants_is_refused(self):
        with pytest.raises(ValidationError, match="smooth_um"):
            TissueConfig(**{"smooth_um": 11.0})


class TestRecipe:
    def test_a_detector_counts_by_its_settings_and_weights(self, tmp_path, monkeypatch):
        class NetConfig(Settings):
            weights: Path
            threshold: float = 0.5

        def recipe(config):
            return {"detector": "net", "threshold": config.threshold, "weights": file_fingerprint(config.weights)}

        def nowhere(thumbnail, mpp, config):
            return np.zeros(thumbnail.shape[:2], bool)

        monkeypatch.setitem(DETECTORS, "net", Detector(NetConfig, nowhere, recipe))
        (tmp_path / "a").write_bytes(b"weights")
        (tmp_path / "copy").write_bytes(b"weights")
        (tmp_path / "b").write_bytes(b"others")

        def of(**settings):
            return tissue_recipe(TissueConfig(detector="net", settings=settings))

        assert of(weights=tmp_path / "a") == of(weights=tmp_path / "copy")
        assert of(weights=tmp_path / "a") != of(weights=tmp_path / "b")
        assert of(weights=tmp_path / "a") != of(weights=tmp_path / "a", threshold=0.4)
        assert not detect_tissue(
            np.zeros((3, 4, 3), np.uint8), 8.0, TissueConfig(detector="net", settings={"weights": "a"})
        ).any()

    def test_where_masks_replace_the_detector_it_does_not_count(self, tmp_path):
        masks = tissue_recipe(TissueConfig(masks=tmp_path))
        assert tissue_recipe(TissueConfig(masks=tmp_path, detector="tiatoolbox")) == masks
        assert tissue_recipe(TissueConfig(masks=tmp_path, settings={"min_hole_um2": 1})) == masks
        assert tissue_recipe(TissueConfig(masks=tmp_path, outline_origin="slide")) != masks
        assert tissue_recipe(TissueConfig(masks=tmp_path, mask_values=(2, 1)))["mask_values"] == [1, 2]
        assert tissue_recipe(TissueConfig(mask_values=(1,))) == tissue_recipe(
            TissueConfig()
        )  # without masks they do not count
        assert tissue_recipe(TissueConfig(masks=tmp_path, mpp=4)) != masks

    def test_the_origin_of_outlines_counts_only_where_there_are_some(self):
        assert tissue_recipe(TissueConfig(outline_origin="slide")) == tissue_recipe(TissueConfig())


def test_import_does_not_load_tiatoolbox():
    code = "import sys, preprocessing.tiling.tissue; sys.exit('tiatoolbox' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_the_detector_tiatoolbox_is_given_the_thumbnail_at_its_resolution(truth, monkeypatch):
    """With a stand-in for the library, which takes half a minute to import."""

    class Masker:
        def __init__(self, mpp):
            self.mpp = mpp

        def fit_transform(self, thumbnails):
            return [(one.mean(axis=-1) < 25 * self.mpp).astype(np.uint8) for one in thumbnails]

    thumbnail = stain(truth)
    for name in ("tiatoolbox", "tiatoolbox.tools", "tiatoolbox.tools.tissuemask"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(MorphologicalMasker=Masker))
    for mpp in (6.0, 8.0):
        found = detect_by_tiatoolbox(thumbnail, mpp, TiatoolboxConfig())
        assert found.dtype == bool
        np.testing.assert_array_equal(found, thumbnail.mean(axis=-1) < 25 * mpp)


@pytest.mark.slow
def test_tiatoolbox_detector_finds_the_tissue(truth):
    pytest.importorskip("tiatoolbox")
    found = detect_tissue(stain(truth), 8.0, TissueConfig(detector="tiatoolbox"))
    assert found.shape == truth.shape
    assert iou(found, truth) > 0.85


def read_rgb(path):
    picture = Image.open(path).convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


@needs_data
def test_real_glioma_from_edge_to_edge_is_all_tissue():
    paths = sorted((DATA / "rois/glioma").glob("*.png"))
    assert len(paths) == 3
    for path in paths:
        assert detect_tissue(read_rgb(path), 0.5, CONFIG).mean() > 0.99, path.name


@needs_data
@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("almost-white-1", 0.0, 0.0),
        ("no-tissue", 0.0, 0.0),
        ("no-tissue2", 0.0, 0.01),
        ("no-tissue-line", 0.0, 0.0),
        ("no-tissue-green-pen", 0.0, 0.0),
        ("no-tissue-red-pen", 0.0, 0.05),
        ("tcga-green-pen", 0.65, 0.82),
        ("tcga-red-pen", 0.45, 0.65),
        ("medium-nuclei-score-green-pen-level1", 0.2, 0.45),
    ],
)
@pytest.mark.parametrize("mpp", [1.0, 2.0, 4.0])  # theirs is unknown
def test_real_pens_and_dirt_are_excluded(name, lowest, highest, mpp):
    share = detect_tissue(read_rgb(DATA / f"rois/artefacts/{name}.png"), mpp, CONFIG).mean()
    assert lowest <= share <= highest


@needs_data
def test_real_slide_is_outlined():
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(DATA / "slides/CMU-1-Small-Region.svs") as slide:
        thumbnail = np.array(slide.get_thumbnail((185, 185)).convert("RGB"))  # 2967 px of 0.499 µm: 8 µm a pixel
    found = detect_tissue(thumbnail, 8.0, CONFIG)
    assert 0.34 < found.mean() < 0.40
    assert found[130:180, 50:85].all()  # dermis and epidermis
    assert not found[:, :25][:60].any()
    assert not found[130:, :28].any()


def test_the_glass_of_a_tiny_slide_is_no_hole_to_be_filled():
    assert not detect_tissue(np.full((6, 9, 3), 243, np.uint8), 8.0, TissueConfig()).any()


def test_black_pixels_have_the_density_of_the_darkest_grey_and_bright_ones_none():
    planes = np.array([[[0.0, 1.0, 100.0, 255.0]]] * 3, dtype=np.float32)
    glass = np.array([100.0, 200.0, 240.0], dtype=np.float32)
    found = _turn_to_density(planes, glass)
    np.testing.assert_allclose(found[:, 0, :2], np.log10(glass)[:, None].repeat(2, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, 2], np.log10(glass / 100), atol=1e-6)
    assert found[:, 0, 3].tolist() == [0, 0, 0]
