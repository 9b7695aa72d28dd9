import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from preprocessing.io.errors import SlideError
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.reader import SlideReader
from preprocessing.slides.slide import SlideFile
from preprocessing.tiling import tiles as tiles_module
from preprocessing.tiling.quality import QualityConfig
from preprocessing.tiling.tiles import TileConfig, read_tile, tile_slide, tissue_share
from preprocessing.tiling.tissue import TissueConfig

CMU = Path(__file__).parents[3].parent / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"


def read_all(slide, grid):
    with SlideReader(slide.path) as reader:
        return np.stack([read_tile(reader, grid, i) for i in range(len(grid))])


def difference(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float))


def everywhere(thumbnail, mpp, config):
    return np.ones(thumbnail.shape[:2], bool)


@pytest.fixture
def bounds(monkeypatch):
    """No small real file has bounds of its scanned part: puts the properties into the reader."""

    def put(*box):
        original = SlideReader.__init__

        def with_bounds(self, path):
            original(self, path)
            self.properties |= {
                f"openslide.bounds-{name}": str(value)
                for name, value in zip(("x", "y", "width", "height"), box, strict=True)
            }

        monkeypatch.setattr(SlideReader, "__init__", with_bounds)

    return put


class TestGrid:
    def test_tiles_lie_on_the_tissue_and_x_is_not_y(self, corner_slide):
        grid = tile_slide(corner_slide, TileConfig(tile_px=64)).grid
        x, y = grid.coords.T
        # Columns 11–17 and rows 1–5 are tissue for at least a half: 704 … 1152, 64 … 384.
        assert {(int(a), int(b)) for a, b in grid.cells} == {(c, r) for c in range(11, 18) for r in range(1, 6)}
        assert (x.min(), x.max(), y.min(), y.max()) == (704, 1088, 64, 320)
        assert grid.coords.dtype == np.int32
        np.testing.assert_array_equal(grid.coords, grid.cells * 64)
        assert (read_all(corner_slide, grid)[..., 1].mean((1, 2)) < 215).all()  # glass has 243

    def test_order_is_row_by_row(self, corner_slide):
        cells = tile_slide(corner_slide, TileConfig(tile_px=64)).grid.cells
        assert [tuple(cell) for cell in cells] == sorted(map(tuple, cells), key=lambda cell: (cell[1], cell[0]))

    def test_more_tissue_asked_for_leaves_fewer_tiles(self, paint, scan):
        slide = scan(paint(700, 700, (100, 100, 500, 500)))
        counts = [len(tile_slide(slide, TileConfig(tile_px=64, min_tissue=m)).grid) for m in (0.0, 0.5, 1.0)]
        assert counts[0] > counts[1] > counts[2] > 0

    def test_tiles_that_are_all_tissue_pass_the_strictest_share(self, corner_slide, monkeypatch):
        monkeypatch.setattr(tiles_module, "detect_tissue", everywhere)
        slide = replace(corner_slide, mpp_xy=(0.4991, 0.4987))
        for tile_px in (37, 64, 101):
            grid = tile_slide(slide, TileConfig(tile_px=tile_px, min_tissue=1.0)).grid
            assert len(grid) == int(1200 // (tile_px * 0.5 / 0.4991)) * int(700 // (tile_px * 0.5 / 0.4987))

    def test_only_whole_tiles_inside_the_slide_count(self, corner_slide, monkeypatch):
        monkeypatch.setattr(tiles_module, "detect_tissue", everywhere)
        grid = tile_slide(corner_slide, TileConfig(tile_px=70)).grid  # 17.1 × 10 tiles
        assert len(grid) == 17 * 10
        assert (grid.coords >= 0).all()
        assert (grid.coords[:, 0] + 70 <= 1200).all()
        assert (grid.coords[:, 1] + 70 <= 700).all()

    def test_a_ratio_that_is_no_integer_does_not_drift(self, paint, scan, monkeypatch):
        monkeypatch.setattr(tiles_module, "detect_tissue", everywhere)
        slide = scan(paint(1500, 90, (0, 0, 1500, 90)), mpp=0.4991, levels=(1,))
        grid = tile_slide(slide, TileConfig(tile_px=32)).grid
        first_row = grid.coords[grid.cells[:, 1] == 0, 0]
        span = 32 * 0.5 / slide.mpp_xy[0]
        assert len(first_row) == 46
        assert np.abs(first_row - np.arange(46) * span).max() <= 0.5
        assert np.abs(first_row - np.arange(46) * 32).max() > 2  # what a whole-numbered span would do
        # The last tile against the whole row, resampled at once.
        with openslide.OpenSlide(str(slide.path)) as handle:
            row = handle.read_region((0, 0), 0, (1500, 90)).convert("RGB")
        expected = row.resize((32, 32), Image.Resampling.BILINEAR, box=(45 * span, 0, 46 * span, span))
        drifted = row.resize((32, 32), Image.Resampling.BILINEAR, box=(45 * 32, 0, 46 * 32, 32))
        assert difference(read_all(slide, grid)[45], expected).mean() < 0.4 * difference(drifted, expected).mean()

    def test_starts_at_the_scanned_bounds(self, corner_slide, bounds):
        bounds(690, 50, 300, 200)
        grid = tile_slide(corner_slide, TileConfig(tile_px=64, min_tissue=0.0)).grid
        np.testing.assert_array_equal(grid.coords, grid.cells * 64 + (690, 50))
        assert {tuple(cell) for cell in grid.cells} == {(c, r) for c in range(4) for r in range(3)}
        assert (read_all(corner_slide, grid)[0][:, 12:, 1] < 235).mean() > 0.5  # the tissue's edge, at x = 700


def overlap(start, length, count, size):
    """How much of each of `count` equal parts of `size` lies between start and start + length."""
    edges = np.linspace(0, size, count + 1)
    return np.clip(np.minimum(edges[1:], start + length) - np.maximum(edges[:-1], start), 0, None)


class TestStride:
    @pytest.mark.parametrize("stride_px", [None, 16, 48, 64, 90, 200])
    @pytest.mark.parametrize("mpp_xy", [(0.5, 0.5), (0.25, 0.25), (0.4991, 0.3127)])
    @pytest.mark.parametrize("box", [(0, 0, 1200, 700), (130, 77, 901, 405)])
    def test_is_what_a_loop_over_the_grid_finds(self, corner_slide, monkeypatch, bounds, stride_px, mpp_xy, box):
        bounds(*box)
        mask = np.random.default_rng(0).random((44, 75)) < np.linspace(0, 1, 75)
        monkeypatch.setattr(tiles_module, "detect_tissue", lambda *_: mask)
        config = TileConfig(tile_px=64, stride_px=stride_px, mpp=0.6, min_tissue=0.45)
        slide = replace(corner_slide, mpp_xy=mpp_xy)
        grid = tile_slide(slide, config).grid
        width, height = (64 * 0.6 / mpp for mpp in mpp_xy)
        step_x, step_y = ((stride_px or 64) * 0.6 / mpp for mpp in mpp_xy)
        tiles = []
        for row in range(1000):
            y = box[1] + row * step_y
            if y + height > box[1] + box[3]:
                break
            for column in range(1000):
                x = box[0] + column * step_x
                if x + width > box[0] + box[2]:
                    break
                tissue = overlap(y, height, 44, 700) @ mask @ overlap(x, width, 75, 1200)
                if tissue / (width * height) >= 0.45:
                    tiles.append((column, row, x, y))
        expected = np.array(tiles)
        np.testing.assert_array_equal(grid.cells, expected[:, :2])
        assert np.abs(grid.coords - expected[:, 2:]).max() <= 0.5
        assert grid.span_px == pytest.approx((width, height))

    def test_a_stride_of_one_tile_is_the_default(self, corner_slide):
        one, other = (tile_slide(corner_slide, TileConfig(tile_px=70, stride_px=stride)).grid for stride in (None, 70))
        np.testing.assert_array_equal(one.coords, other.coords)
        np.testing.assert_array_equal(one.cells, other.cells)

    @pytest.mark.parametrize(("mpp", "levels"), [(0.5, (1, 4)), (2.0, (1, 4)), (2.0, (1,)), (1.0, (1,))])
    def test_every_second_tile_of_half_the_stride_is_a_tile_of_the_plain_grid(self, paint, scan, mpp, levels):
        slide = scan(paint(900, 700, (0, 0, 900, 700)), mpp=0.5, levels=levels)
        plain = tile_slide(slide, TileConfig(tile_px=40, mpp=mpp)).grid
        dense = tile_slide(slide, TileConfig(tile_px=40, mpp=mpp, stride_px=20)).grid
        even = (dense.cells % 2 == 0).all(1)
        np.testing.assert_array_equal(dense.cells[even] // 2, plain.cells)
        np.testing.assert_array_equal(dense.coords[even], plain.coords)
        np.testing.assert_array_equal(read_all(slide, dense)[even], read_all(slide, plain))

    def test_is_of_one_physical_length_on_two_scans(self, paint, scan):
        fine = paint(1400, 1000, (200, 150, 1300, 850), grain_px=5.0)
        scans = [scan(fine, mpp=0.25), scan(np.asarray(Image.fromarray(fine).reduce(2)), mpp=0.5)]
        at_40x, at_20x = (tile_slide(slide, TileConfig(tile_px=64, stride_px=40)).grid for slide in scans)
        np.testing.assert_array_equal(at_40x.cells, at_20x.cells)
        np.testing.assert_array_equal(at_40x.coords, 80 * at_40x.cells)
        np.testing.assert_array_equal(at_20x.coords, 40 * at_20x.cells)


def write_outlines(folder, slide, *boxes):
    rings = [[[a, b], [c, b], [c, d], [a, d], [a, b]] for a, b, c, d in boxes]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}} for ring in rings
    ]
    (folder / f"{slide.slide_id}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


class TestOwnMasks:
    CONFIG = TileConfig(tile_px=64, min_tissue=0.9)

    @pytest.fixture
    def config(self, tmp_path, monkeypatch):
        """Takes masks from the test's folder; the detector must not be called."""

        def config(**tissue):
            return self.CONFIG.model_copy(update={"tissue": TissueConfig(masks=tmp_path, **tissue)})

        monkeypatch.setattr(tiles_module, "detect_tissue", None)
        return config

    def test_take_the_detectors_place(self, corner_slide, tmp_path, config):
        write_outlines(tmp_path, corner_slide, (64, 320, 320, 640))  # glass
        tiled = tile_slide(corner_slide, config())
        assert {tuple(cell) for cell in tiled.grid.cells} == {(c, r) for c in range(1, 5) for r in range(5, 10)}
        assert tiled.mask_downsample == 16
        expected = np.zeros((44, 75), bool)  # 700 / 16 rounds to 44: rows are 15.91 px high
        expected[20:40, 4:20] = True
        np.testing.assert_array_equal(tiled.mask, expected)

    def test_have_the_size_of_the_thumbnail(self, paint, scan, tmp_path, monkeypatch, config):
        slide = scan(paint(1203, 701, (0, 0, 1203, 701)), mpp=0.26)
        write_outlines(tmp_path, slide, (0, 0, 1203, 701))
        own = tile_slide(slide, config())
        monkeypatch.setattr(tiles_module, "detect_tissue", everywhere)
        other = tile_slide(slide, self.CONFIG)
        np.testing.assert_array_equal(own.mask, other.mask)
        assert own.mask_downsample == other.mask_downsample
        np.testing.assert_array_equal(own.grid.coords, other.grid.coords)

    @pytest.mark.parametrize(("origin", "corner"), [("scan", (32, 48)), ("slide", (0, 0))])
    def test_outlines_start_at_the_scanned_part_or_at_the_files_corner(
        self, corner_slide, tmp_path, config, bounds, origin, corner
    ):
        """QuPath opens a slide with bounds cropped to them, and counts from there."""
        bounds(32, 48, 1100, 600)
        write_outlines(tmp_path, corner_slide, (320 - corner[0], 160 - corner[1], 640 - corner[0], 480 - corner[1]))
        mask = tile_slide(corner_slide, config(outline_origin=origin)).mask
        assert np.argwhere(mask).min(0).tolist() == [10, 20]
        assert np.argwhere(mask).max(0).tolist() == [29, 39]

    def test_a_slide_without_one_fails_and_is_not_given_to_the_detector(self, corner_slide, config):
        with pytest.raises(SlideError, match=r"no tissue mask in .*: expected corner with"):
            tile_slide(corner_slide, config())


@pytest.fixture(scope="module")
def mixed(paint, scan):
    """640 × 256 px: four columns of sharp, three of blurred tissue, two of glass and one of padding, four rows each."""
    image = paint(640, 256, (0, 0, 448, 256), grain_px=1.0)
    image[:, 256:448] = gaussian_filter(image, (4, 4, 0))[:, 256:448]
    image[:, 576:] = 0
    return scan(image, levels=(1,))


class TestQuality:
    def tile(self, slide, monkeypatch, **quality):
        monkeypatch.setattr(tiles_module, "detect_tissue", everywhere)
        return tile_slide(slide, TileConfig(tile_px=64, quality=QualityConfig(**quality)))

    def test_blurred_and_empty_tiles_are_dropped_and_counted(self, mixed, monkeypatch):
        tiled = self.tile(mixed, monkeypatch, min_sharpness=100, max_empty=0.5)
        assert tiled.dropped == {"empty": 12, "blurred": 12}
        assert {tuple(cell) for cell in tiled.grid.cells} == {(c, r) for c in range(4) for r in range(4)}
        np.testing.assert_array_equal(tiled.grid.coords, tiled.grid.cells * 64)
        assert tiled.mask.all()  # it says where the tissue is, not what was kept of it

    @pytest.mark.parametrize(
        ("quality", "columns", "dropped"),
        [
            ({"max_empty": 0.5}, range(7), {"empty": 12}),
            ({"max_empty": 1.0}, range(10), {"empty": 0}),
            ({"min_sharpness": 100}, range(4), {"blurred": 24}),
        ],
    )
    def test_one_filter_alone(self, mixed, monkeypatch, quality, columns, dropped):
        tiled = self.tile(mixed, monkeypatch, **quality)
        assert tiled.dropped == dropped
        assert {column for column, _ in tiled.grid.cells.tolist()} == set(columns)

    def test_no_tile_is_read_where_both_are_off(self, mixed, monkeypatch):
        monkeypatch.setattr(tiles_module, "read_tile", None)
        tiled = self.tile(mixed, monkeypatch)
        assert len(tiled.grid) == 40
        assert tiled.dropped == {}

    def test_where_all_are_dropped_the_reason_has_the_numbers(self, mixed, monkeypatch):
        message = (
            r"all 40 tiles dropped: 12 empty, 28 blurred \(lowest empty share 0%, highest sharpness \d{3,4}\.\d\); "
            r"relax --set tiles\.quality"
        )
        with pytest.raises(SlideError, match=message):
            self.tile(mixed, monkeypatch, min_sharpness=1e6, max_empty=0.5)


class TestErrors:
    def test_no_tissue(self, paint, scan):
        slide = scan(paint(600, 400))
        with pytest.raises(SlideError, match="no tissue found"):
            tile_slide(slide, TileConfig(tile_px=64))

    def test_smaller_than_a_tile(self, corner_slide):
        with pytest.raises(SlideError, match=r"smaller than one tile: 1200 × 700 pixels; a tile spans 1024 × 1024"):
            tile_slide(corner_slide, TileConfig(tile_px=1024))

    def test_too_little_tissue_for_any_tile(self, paint, scan):
        slide = scan(paint(600, 600, (250, 0, 360, 600)))
        with pytest.raises(SlideError, match=r"no tile with at least 50% tissue; \d+\.\d% of the slide is tissue"):
            tile_slide(slide, TileConfig(tile_px=300))


class TestResolution:
    def test_two_scans_of_one_tissue_give_the_same_tiles(self, paint, scan):
        fine = paint(1400, 1000, (200, 150, 1300, 850), grain_px=5.0)
        coarse = np.asarray(Image.fromarray(fine).reduce(2))
        scans = [scan(fine, mpp=0.25, levels=(1, 4)), scan(coarse, mpp=0.5, levels=(1, 4))]
        config = TileConfig(tile_px=64, mpp=0.5)
        grids = [tile_slide(slide, config).grid for slide in scans]
        np.testing.assert_array_equal(grids[0].cells, grids[1].cells)
        np.testing.assert_array_equal(grids[0].coords, 2 * grids[1].coords)
        assert grids[0].span_px == (128.0, 128.0)
        at_40x, at_20x = (read_all(slide, grid) for slide, grid in zip(scans, grids, strict=True))
        assert at_40x.shape == (len(grids[0]), 64, 64, 3)
        same = difference(at_40x, at_20x).mean((1, 2, 3))
        other = difference(at_40x, np.roll(at_20x, 1, axis=0)).mean((1, 2, 3))
        assert same.max() < 6
        assert (same < 0.4 * other).all()

    @pytest.mark.parametrize(
        ("mpp", "level", "levels"), [(0.5, 0, (1, 4)), (1.0, 0, (1, 4)), (2.0, 1, (1, 4)), (2.0, 0, (1,))]
    )
    def test_tiles_equal_a_resampling_of_the_whole_level(self, paint, scan, mpp, level, levels):
        """With or without a pyramid, at the level that is read; but for the filter's reach at a tile's own border."""
        slide = scan(paint(900, 700, (0, 0, 900, 700), grain_px=6.0), mpp=0.5, levels=levels)
        grid = tile_slide(slide, TileConfig(tile_px=40, mpp=mpp)).grid
        assert grid.level == level
        span = 40 * mpp / 0.5
        with openslide.OpenSlide(str(slide.path)) as handle:
            image = handle.read_region((0, 0), level, handle.level_dimensions[level]).convert("RGB")
            shrink = handle.level_downsamples[level]
        for tile, (column, row) in zip(read_all(slide, grid), grid.cells, strict=True):
            box = np.array([column, row, column + 1, row + 1]) * span / shrink
            expected = image.resize((40, 40), Image.Resampling.BILINEAR, box=tuple(box))
            assert difference(tile, expected)[1:-1, 1:-1].max() <= 3

    def test_a_tile_at_the_scans_own_resolution_is_openslides_region(self, corner_slide):
        grid = tile_slide(corner_slide, TileConfig(tile_px=64)).grid
        with openslide.OpenSlide(str(corner_slide.path)) as handle:
            for tile, (x, y) in zip(read_all(corner_slide, grid), grid.coords.tolist(), strict=True):
                np.testing.assert_array_equal(tile, handle.read_region((x, y), 0, (64, 64)).convert("RGB"))

    def test_pixels_that_are_not_square_are_made_square(self, paint, scan):
        square = paint(600, 500, (150, 100, 500, 400), grain_px=5.0)
        wide = np.asarray(Image.fromarray(square).resize((1200, 500), Image.Resampling.BICUBIC))
        config = TileConfig(tile_px=50)
        reference, stretched = scan(square, levels=(1,)), replace(scan(wide, levels=(1,)), mpp_xy=(0.25, 0.5))
        one, other = tile_slide(reference, config).grid, tile_slide(stretched, config).grid
        assert other.span_px == (100.0, 50.0)
        np.testing.assert_array_equal(one.cells, other.cells)
        np.testing.assert_array_equal(other.coords, one.coords * (2, 1))
        same = difference(read_all(reference, one), read_all(stretched, other)).mean((1, 2, 3))
        assert same.max() < 6


class TestTissueShare:
    @pytest.mark.parametrize("span", [(33, 7), (20, 20), (3, 150)])
    def test_equals_counting_small_squares(self, span):
        rng = np.random.default_rng(0)
        mask = rng.random((13, 17)) < 0.4
        fine = mask.repeat(20, axis=0).repeat(20, axis=1)  # 260 × 340 squares
        left, top = [0, 33, 40, 90, 91, 340 - span[0]], [7, 50, 260 - span[1]]
        expected = [[fine[y : y + span[1], x : x + span[0]].mean() for x in left] for y in top]
        share = tissue_share(mask, np.array(left) / 340, np.array(top) / 260, span=(span[0] / 340, span[1] / 260))
        np.testing.assert_allclose(share, expected, atol=1e-12)

    def test_of_a_mask_pixel_that_is_cut_is_its_part(self):
        mask = np.array([[True, False]])
        share = tissue_share(mask, np.array([0.25, 0.4]), np.array([0.0]), span=(0.5, 1.0))
        np.testing.assert_allclose(share, [[0.5, 0.2]])


@pytest.fixture(scope="module")
def cmu():
    return probe_slide(SlideFile("CMU-1", "CMU-1", CMU), default_mpp=None)


@pytest.mark.skipif(not CMU.is_file(), reason="the real slide is not at ../shared/data")
class TestRealSlide:
    """Skin; what a pathologist would outline covers about 36 % of the region, in one strip from top to bottom."""

    def test_tile_count_follows_the_tissue(self, cmu):
        tiled = tile_slide(cmu, TileConfig())
        assert 0.32 < tiled.mask.mean() < 0.40
        assert 30 <= len(tiled.grid) <= 36
        assert 130 <= len(tile_slide(cmu, TileConfig(tile_px=128)).grid) <= 156

    def test_tiles_show_stained_tissue(self, cmu):
        tiles = read_all(cmu, tile_slide(cmu, TileConfig()).grid).astype(float)
        colour = tiles.max(-1) - tiles.min(-1)
        assert ((colour > 20).mean((1, 2)) > 0.4).all()

    def test_empty_corners_have_no_tile(self, cmu):
        x, y = tile_slide(cmu, TileConfig()).grid.coords.T
        assert x.min() > 500  # the left strip is glass, but for a fibre
        assert not ((x > 1700) & (y < 1200)).any()
