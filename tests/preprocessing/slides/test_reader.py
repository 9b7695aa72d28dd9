from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from preprocessing.io.errors import SlideError
from preprocessing.slides import reader as reader_module
from preprocessing.slides.reader import SlideReader
from workflows.demo import write_svs


@pytest.fixture(scope="module")
def pyramid(paint, scan):
    """900 × 620 px, levels 1, 4 and 16."""
    return scan(paint(900, 620, (40, 30, 860, 600)), levels=(1, 4, 16))


@pytest.fixture(scope="module")
def flat(paint, scan):
    """The same, of one level."""
    return scan(paint(900, 620, (40, 30, 860, 600)), levels=(1,))


def whole_level(slide, level):
    with openslide.OpenSlide(str(slide.path)) as handle:
        return handle.read_region((0, 0), level, handle.level_dimensions[level]).convert("RGB")


def difference(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float))


class TestRead:
    def test_unscaled_pixels_are_openslides_own(self, pyramid):
        with SlideReader(pyramid.path) as reader:
            tile = reader.read(300, 100, level=0, span=(128.0, 64.0), size_px=(128, 64))
        assert tile.shape == (64, 128, 3)
        np.testing.assert_array_equal(tile, whole_level(pyramid, 0).crop((300, 100, 428, 164)))

    def test_a_lower_level_is_addressed_in_level_0_pixels(self, pyramid):
        with SlideReader(pyramid.path) as reader:
            tile = reader.read(320, 160, level=1, span=(64.0, 32.0), size_px=(64, 32))
        np.testing.assert_array_equal(tile, whole_level(pyramid, 1).crop((80, 40, 144, 72)))

    @pytest.mark.parametrize("corner", [(322, 160), (320, 162), (322, 162), (320, 160)])
    def test_between_the_pixels_of_a_lower_level_is_what_openslide_makes_of_it(self, pyramid, corner):
        """Tiles can't be put side by side there, along x or y: half a pixel off, they are not what the corner says."""
        with openslide.OpenSlide(str(pyramid.path)) as handle:
            expected = np.asarray(handle.read_region(corner, 1, (64, 32)).convert("RGB"))
            on_the_grid = np.asarray(handle.read_region((320, 160), 1, (64, 32)).convert("RGB"))
        with SlideReader(pyramid.path) as reader:
            assert reader.decoder(1) == "jpeg tiles"
            tile = reader.read(*corner, level=1, span=(64.0, 32.0), size_px=(64, 32))
        np.testing.assert_array_equal(tile, expected)
        assert np.array_equal(expected, on_the_grid) == (corner == (320, 160))

    def test_fractions_of_a_pixel_are_honoured(self, pyramid):
        """Against a resampling of the whole level at once: equal but for the filter's reach at the tile's own border."""
        box = (300, 100, 300 + 130.6, 100 + 70.3)
        expected = whole_level(pyramid, 0).resize((64, 32), Image.Resampling.BILINEAR, box=box)
        with SlideReader(pyramid.path) as reader:
            tile = reader.read(300, 100, level=0, span=(130.6, 70.3), size_px=(64, 32))
        assert difference(tile, expected)[1:-1, 1:-1].max() <= 1
        rounded = whole_level(pyramid, 0).resize((64, 32), Image.Resampling.BILINEAR, box=(300, 100, 431, 171))
        assert difference(rounded, expected)[1:-1, 1:-1].mean() > 2 * difference(tile, expected).mean()

    def test_transparent_parts_take_the_background_of_the_slide(self, flat):
        with SlideReader(flat.path) as reader:
            beyond = reader.read(880, 600, level=0, span=(64.0, 64.0), size_px=(64, 64))
            reader._background = "#102030"
            tinted = reader.read(880, 600, level=0, span=(64.0, 64.0), size_px=(64, 64))
        inside = np.asarray(whole_level(flat, 0).crop((880, 600, 900, 620)))
        for tile, colour in ((beyond, (255, 255, 255)), (tinted, (16, 32, 48))):
            np.testing.assert_array_equal(tile[:20, :20], inside)
            assert (tile[20:] == colour).all()
            assert (tile[:, 20:] == colour).all()

    def test_pixels_that_cannot_be_read_raise(self, flat, tmp_path):
        data = bytearray(flat.path.read_bytes())
        start = data.index(b"\xff\xd8\xff")
        data[start : start + 2000] = bytes(2000)
        path = tmp_path / "torn.svs"
        path.write_bytes(data)
        with SlideReader(path) as reader, pytest.raises(openslide.OpenSlideError):
            reader.read(0, 0, level=0, span=(64.0, 64.0), size_px=(64, 64))


@pytest.mark.parametrize(("wanted", "level"), [(0.5, 0), (1, 0), (3.9, 0), (4.0, 1), (15, 1), (16, 2), (100, 2)])
def test_the_coarsest_level_that_is_fine_enough_is_best(flat, wanted, level):
    with SlideReader(flat.path) as reader:
        reader.downsamples = (1.0, 4.016, 16.07)  # real pyramids round their sides
        reader._levels = [0, 1, 2]
        assert reader.best_level(wanted) == level


class TestBounds:
    def test_of_a_slide_that_does_not_report_are_the_whole(self, flat):
        with SlideReader(flat.path) as reader:
            assert reader.bounds_px == (0, 0, 900, 620)

    def test_are_taken_from_the_file(self, flat):
        names = ("x", "y", "width", "height")
        with SlideReader(flat.path) as reader:
            reader.properties |= {
                f"openslide.bounds-{n}": v for n, v in zip(names, ["11", "22", "333", "444"], strict=True)
            }
            assert reader.bounds_px == (11, 22, 333, 444)


class TestThumbnail:
    def test_shows_the_whole_slide_the_right_way_round(self, corner_slide):
        with SlideReader(corner_slide.path) as reader:
            thumbnail = reader.thumbnail(10.0)
        assert thumbnail.shape == (70, 120, 3)
        green = thumbnail[..., 1].astype(float)
        assert green[8:36, 72:113].mean() < 190  # tissue
        assert green[:, :68].mean() > 235  # glass
        assert green[42:].mean() > 235

    @pytest.mark.parametrize("downsample", [1.0, 7.3, 16.0])
    @pytest.mark.parametrize("strip_pixels", [1, 60_000, 200_000])
    def test_in_strips_equals_the_whole(self, flat, pyramid, monkeypatch, downsample, strip_pixels):
        for slide in (flat, pyramid):
            with SlideReader(slide.path) as reader:
                whole = reader.thumbnail(downsample)
                monkeypatch.setattr(reader_module, "STRIP_PIXELS", strip_pixels)
                strips = reader.thumbnail(downsample)
                monkeypatch.undo()
            assert strips.shape == whole.shape
            assert difference(strips, whole).mean() < 3  # a filter does not reach beyond its strip
            moved = difference(np.roll(whole, 1, axis=0), whole)[1:].mean()
            assert difference(strips, whole).mean() < 0.35 * moved

    @staticmethod
    def reads(slide, downsample):
        """Level and number of pixels of each region that a thumbnail is drawn from."""
        seen = []
        with SlideReader(slide.path) as reader:
            reader._plain_tiles = lambda level: None  # so that OpenSlide is used for everything
            original = reader._slide.read_region

            class Spy:
                level_dimensions = reader._slide.level_dimensions
                close = staticmethod(reader._slide.close)

                @staticmethod
                def read_region(corner, level, size):
                    seen.append((level, size[0] * size[1]))
                    return original(corner, level, size)

            reader._slide = Spy
            reader.thumbnail(downsample)
        return seen

    def test_holds_no_more_than_a_strip_of_a_slide_without_pyramid(self, flat, monkeypatch):
        monkeypatch.setattr(reader_module, "STRIP_PIXELS", 100_000)
        seen = self.reads(flat, 16.0)
        assert len(seen) > 3
        assert max(pixels for _, pixels in seen) <= 100_000 + 900  # and the one row to which a strip is rounded up

    def test_is_drawn_from_the_pyramid_where_there_is_one(self, pyramid):
        assert [level for level, _ in self.reads(pyramid, 7.3)] == [1]

    def test_of_a_slide_smaller_than_its_pixel_is_one_pixel(self, tmp_path):
        path = tmp_path / "dot.svs"
        write_svs(path, np.full((16, 16, 3), 200, np.uint8), mpp=0.5, power=None, levels=(1,))
        with SlideReader(path) as reader:
            assert reader.thumbnail(100.0).shape == (1, 1, 3)


def test_a_slide_holds_no_open_handle(corner_slide):
    import pickle

    assert pickle.loads(pickle.dumps(corner_slide)) == replace(corner_slide)


@pytest.mark.parametrize(
    ("declared", "bounds"),
    [
        (("-10", "20", "500", "10000"), (0, 20, 490, 680)),
        (("100", "50", "200", "300"), (100, 50, 200, 300)),
        (("5000", "0", "100", "100"), (5000, 0, 0, 100)),
        (("x", "0", "100", "100"), (0, 0, 1200, 700)),
    ],
)
def test_the_scanned_part_never_reaches_beyond_the_slide(corner_slide, declared, bounds):
    with SlideReader(corner_slide.path) as reader:
        names = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
        reader.properties |= dict(zip(names, declared, strict=True))
        assert reader.bounds_px == bounds


def test_more_pixels_than_any_slide_has_are_not_read_at_once(corner_slide):
    with SlideReader(corner_slide.path) as reader:
        with pytest.raises(SlideError, match=r"20000 × 10000 pixels of level 0 would be read at once"):
            reader.read(0, 0, level=0, span=(20_000.0, 10_000.0), size_px=(64, 64))
        reader.size_px = (200_000, 100_000)
        with pytest.raises(SlideError, match="its thumbnail would have 200000 × 100000 pixels"):
            reader.thumbnail(1.0)


def test_a_path_given_as_a_string_is_read_as_fast(corner_slide):
    with SlideReader(str(corner_slide.path)) as reader:
        assert reader.decoder(0) == "jpeg tiles"


PHILIPS_LEVEL = (
    '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" '
    'PMSVR="IDoubleArray">"{spacing}" "{spacing}"</Attribute><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" '
    'Group="0x301D" Element="0x1001" PMSVR="IUInt16">{level}</Attribute></DataObject>'
)
PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute Name="PIM_DP_SCANNED_IMAGES" '
    'Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array><DataObject ObjectType="DPScannedImage">'
    '<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" PMSVR="IDataObjectArray"><Array>'
    "{levels}</Array></Attribute></DataObject></Array></Attribute></DataObject>"
)
TRESTLE = {"software": "MedScan 2.0", "description": "Background Color=ffffff;OverlapsXY= 0 0 0 0 0 0 0 0"}


@pytest.mark.parametrize(
    ("size", "vendor", "metadata"),
    [((1536, 4096), "generic-tiff", {}), ((2000, 3000), "generic-tiff", {}), ((2000, 3000), "trestle", TRESTLE)],
)
def test_levels_filled_up_to_whole_tiles_are_not_read(tmp_path, paint, size, vendor, metadata):
    """As some exports of Philips write them; OpenSlide would read them at wrong positions."""
    height, width = size
    image = paint(width, height, (0, 0, width // 2, height), seed=3)
    path = tmp_path / "padded.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level in range(4):
            now = np.asarray(Image.fromarray(image).resize((width >> level, height >> level), Image.Resampling.BOX))
            rows, columns = now.shape[:2]
            filled = np.pad(now, ((0, -rows % 512), (0, -columns % 512), (0, 0)), constant_values=255)
            now = now if level == 0 else filled
            kind = {"subfiletype": int(level > 0)} | (metadata if level == 0 else {})
            tiff.write(now, tile=(512, 512), photometric="rgb", compression="zlib", metadata=None, **kind)
    with SlideReader(path) as reader:
        assert reader.properties["openslide.vendor"] == vendor
        assert len(reader.downsamples) == 4
        assert [reader.best_level(d) for d in (1, 2, 4, 8)] == [0] * 4
        thumbnail = reader.thumbnail(8.0)
    expected = np.asarray(Image.fromarray(image).resize((width // 8, height // 8), Image.Resampling.BOX))
    assert np.abs(thumbnail.astype(int) - expected).mean() < 4


def test_levels_of_philips_are_read_without_what_fills_them_up(tmp_path, paint):
    """Its metadata state the spacing of each level, by which OpenSlide places them; every level is read where it lies."""
    height, width = 2000, 3000
    image = paint(width, height, (0, 0, width // 2, height), seed=3)
    spacings = "".join(PHILIPS_LEVEL.format(level=level, spacing=0.0005 * 2**level) for level in range(3))
    path = tmp_path / "philips.tiff"
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            now = np.asarray(Image.fromarray(image).resize((width >> level, height >> level), Image.Resampling.BOX))
            filled = np.pad(now, ((0, -len(now) % 512), (0, -now.shape[1] % 512), (0, 0)), constant_values=255)
            first = (
                {"software": "Philips DP v1.0", "description": PHILIPS.format(levels=spacings)} if level == 0 else {}
            )
            kind = {"subfiletype": int(level > 0), "photometric": "rgb", "compression": "zlib", "metadata": None}
            tiff.write(filled, tile=(512, 512), **kind, **first)
    with SlideReader(path) as reader:
        assert reader.properties["openslide.vendor"] == "philips"
        assert [reader.best_level(d) for d in (1, 2, 4)] == [0, 1, 2]
        for level, downsample in enumerate((1, 2, 4)):
            span = (512 / downsample, 512 / downsample)
            pixels = reader.read(1000, 800, level=level, span=span, size_px=(128, 128)).astype(int)
            expected = np.asarray(Image.fromarray(image[800:1312, 1000:1512]).resize((128, 128), Image.Resampling.BOX))
            assert np.abs(pixels - expected).mean() < 12  # the coarser levels are averages, level 0 is interpolated


def test_a_pyramid_whose_levels_happen_to_be_whole_tiles_is_read(tmp_path):
    path = tmp_path / "whole.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            pixels = np.full((2048 >> level, 4096 >> level, 3), 200, np.uint8)
            tiff.write(pixels, tile=(512, 512), photometric="rgb", metadata=None, subfiletype=int(level > 0))
    with SlideReader(path) as reader:
        assert [reader.best_level(d) for d in (1, 2, 4)] == [0, 1, 2]
