"""Every read is compared with OpenSlide's own."""

import logging
import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from preprocessing.slides import jpeg_tiles
from preprocessing.slides.jpeg_tiles import open_level, tiff_pages
from preprocessing.slides.reader import SlideReader
from workflows.demo import write_svs

CMU = Path(__file__).parents[3].parent / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def slide(paint, scan):
    """1000 × 700 px, levels 1 and 4, in tiles of 256."""
    return scan(paint(1000, 700, (40, 30, 960, 660)), levels=(1, 4))


@pytest.fixture
def copy(slide, tmp_path):
    """A copy whose bytes may be changed, and the tags of its first page."""
    path = tmp_path / "copy.svs"
    shutil.copy(slide.path, path)
    with tifffile.TiffFile(path) as tiff:
        return path, tiff.pages[0]


def overwrite(path, position, data):
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def by_openslide(path, x, y, level, size):
    with openslide.OpenSlide(str(path)) as handle:
        image = handle.read_region((x, y), level, size)
    flat = np.full((size[1], size[0], 3), 255, np.uint8)
    seen = np.asarray(image)[..., 3:] > 0
    return np.where(seen, np.asarray(image)[..., :3], flat)


def by_reader(path, x, y, level, size):
    with SlideReader(path) as reader:
        return reader.read(x, y, level=level, span=(float(size[0]), float(size[1])), size_px=size)


def assert_like_openslide(path, level, regions):
    with SlideReader(path) as reader:
        assert reader.decoder(level) == "jpeg tiles"
        for x, y, *size in regions:
            ours = reader.read(x, y, level=level, span=(float(size[0]), float(size[1])), size_px=tuple(size))
            np.testing.assert_array_equal(ours, by_openslide(path, x, y, level, tuple(size)), err_msg=f"{x, y, size}")


REGIONS = [
    (0, 0, 256, 256),  # a tile
    (256, 256, 256, 256),
    (3, 200, 300, 20),  # two columns
    (100, 250, 20, 300),  # three rows
    (255, 255, 2, 2),  # the corner of four tiles
    (700, 400, 300, 300),  # up to the slide's lower right corner, where tiles are padded
    (10, 10, 1, 1),
    (900, 600, 200, 200),  # beyond the slide
    (0, 0, 1000, 700),
]


class TestPixels:
    def test_are_openslides(self, slide):
        assert_like_openslide(slide.path, 0, REGIONS)

    def test_do_not_depend_on_the_order_of_reading(self, slide):
        assert_like_openslide(slide.path, 0, [*reversed(REGIONS), *REGIONS])

    def test_of_a_lower_level_are_openslides(self, slide):
        assert_like_openslide(slide.path, 1, [(0, 0, 64, 64), (404, 120, 100, 50), (800, 400, 50, 75)])

    def test_between_the_pixels_of_a_lower_level_are_openslides(self, slide):
        """There OpenSlide interpolates."""
        np.testing.assert_array_equal(
            by_reader(slide.path, 402, 121, 1, (64, 64)), by_openslide(slide.path, 402, 121, 1, (64, 64))
        )

    @pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
    @pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
    def test_of_either_colour_space_are_openslides(self, paint, tmp_path, photometric, subsampling):
        """Aperio writes RGB as well as YCbCr into JPEG, and tells it in the TIFF's head only."""
        path = tmp_path / "colours.tif"
        image = paint(500, 300, (10, 10, 480, 290))
        if photometric == "rgb":
            options = {"photometric": "rgb", "compressionargs": {"level": 85, "outcolorspace": "rgb"}}
        else:
            options = {"photometric": "ycbcr", "subsampling": subsampling, "compressionargs": {"level": 85}}
        tifffile.imwrite(path, image, tile=(240, 240), compression="jpeg", **options)
        assert_like_openslide(path, 0, [(0, 0, 240, 240), (100, 100, 300, 150), (240, 240, 260, 60)])

    @pytest.mark.skipif(not CMU.exists(), reason="the shared real slides are absent")
    def test_of_a_real_slide_with_tiles_of_240_are_openslides(self):
        grid = [(x + 7, y + 91, 256, 256) for y in range(0, 2600, 512) for x in range(0, 1900, 512)]
        assert_like_openslide(CMU, 0, [*grid, (0, 0, 2220, 1000), (1900, 2700, 320, 267)])


class TestLeftToOpenSlide:
    def test_tiles_that_are_not_jpeg(self, paint, tmp_path):
        path = tmp_path / "deflate.tif"
        tifffile.imwrite(path, paint(300, 300, (0, 0, 300, 300)), tile=(256, 256), compression="deflate")
        with SlideReader(path) as reader:
            assert reader.decoder(0) == "openslide"
        np.testing.assert_array_equal(by_reader(path, 9, 9, 0, (80, 80)), by_openslide(path, 9, 9, 0, (80, 80)))

    def test_levels_that_are_not_a_whole_number_of_times_smaller(self, paint, tmp_path):
        path = tmp_path / "odd.svs"
        write_svs(path, paint(1001, 703, (40, 30, 960, 660)), mpp=0.5, power=None, levels=(1, 4))
        with SlideReader(path) as reader:
            assert reader.downsamples[1] % 1 != 0
            assert [reader.decoder(level) for level in (0, 1)] == ["jpeg tiles", "openslide"]

    def test_other_vendors(self, slide):
        with SlideReader(slide.path) as reader:
            reader.properties["openslide.vendor"] = "leica"
            assert reader.decoder(0) == "openslide"

    def test_pixels_that_differ(self, slide, monkeypatch):
        """A difference in one of the tiles that hold most is enough."""
        decode = jpeg_tiles.simplejpeg.decode_jpeg

        def wrong(data, colours):
            pixels = decode(data, colours).copy()
            pixels[5, 7, 1] ^= 1
            return pixels

        monkeypatch.setattr(jpeg_tiles.simplejpeg, "decode_jpeg", wrong)
        with SlideReader(slide.path) as reader:
            assert reader.decoder(0) == "openslide"
        np.testing.assert_array_equal(
            by_reader(slide.path, 0, 0, 0, (64, 64)), by_openslide(slide.path, 0, 0, 0, (64, 64))
        )

    def test_colours_that_the_head_reports_wrongly(self, copy):
        """The tiles are YCbCr, which OpenSlide sees by a mark in them; a head that calls them RGB would mislead us."""
        path, page = copy
        overwrite(path, page.tags["PhotometricInterpretation"].valueoffset, (2).to_bytes(2, "little"))
        with SlideReader(path) as reader:
            assert reader.decoder(0) == "openslide"
        np.testing.assert_array_equal(by_reader(path, 0, 0, 0, (256, 256)), by_openslide(path, 0, 0, 0, (256, 256)))


class TestDamage:
    """What OpenSlide refuses is refused; what it forgives is read as it reads it."""

    @pytest.mark.parametrize("damage", ["half of it lost", "an early end", "noise"])
    def test_in_a_tiles_data_is_an_error(self, copy, damage):
        path, page = copy
        offset, length = page.dataoffsets[0], page.databytecounts[0]
        data = {
            "half of it lost": bytes(length - length // 2),
            "an early end": b"\xff\xd9",
            "noise": np.random.default_rng(0).bytes(300),
        }[damage]
        overwrite(path, offset + length // 2, data)
        with pytest.raises(openslide.OpenSlideError):
            by_openslide(path, 0, 0, 0, (256, 256))
        with SlideReader(path) as reader, pytest.raises(openslide.OpenSlideError):
            reader.read(0, 0, level=0, span=(256.0, 256.0), size_px=(256, 256))

    def test_leaves_the_other_tiles_readable(self, copy):
        path, page = copy
        lengths = list(page.databytecounts)
        poorest = lengths.index(min(lengths))  # not among those that are compared
        column, row = poorest % 4, poorest // 4
        overwrite(path, page.dataoffsets[poorest] + lengths[poorest] // 2, bytes(lengths[poorest] // 2))
        x, y = (0 if column else 256), 0
        with SlideReader(path) as reader:
            assert reader.decoder(0) == "jpeg tiles"
            read = reader.read(x, y, level=0, span=(200.0, 200.0), size_px=(200, 200))
            np.testing.assert_array_equal(read, by_openslide(path, x, y, 0, (200, 200)))
            with pytest.raises(openslide.OpenSlideError):
                reader.read(256 * column, 256 * row, level=0, span=(64.0, 64.0), size_px=(64, 64))

    def test_in_tiles_that_no_feature_needs_takes_nothing_from_the_others(self, copy):
        """Here in those that hold most, with which the readers are compared."""
        path, page = copy
        lengths = list(page.databytecounts)
        level = open_level(path, (1000, 700))
        x, y, *_ = level.richest(3)[1]
        level.close()
        richest = y // 256 * 4 + x // 256
        overwrite(path, page.dataoffsets[richest] + lengths[richest] // 2, bytes(lengths[richest] // 2))
        intact = (0, 0) if richest != 0 else (256, 0)
        with SlideReader(path) as reader:
            assert reader.decoder(0) == "jpeg tiles"
            read = reader.read(*intact, level=0, span=(250.0, 250.0), size_px=(250, 250))
            with pytest.raises(openslide.OpenSlideError):
                reader.read(x, y, level=0, span=(64.0, 64.0), size_px=(64, 64))
        np.testing.assert_array_equal(read, by_openslide(path, *intact, 0, (250, 250)))

    def test_a_table_that_points_beyond_the_file_is_an_error(self, copy):
        path, page = copy
        overwrite(path, page.tags["TileOffsets"].valueoffset, (1 << 31).to_bytes(4, "little"))
        with SlideReader(path) as reader, pytest.raises(openslide.OpenSlideError):
            reader.read(0, 0, level=0, span=(64.0, 64.0), size_px=(64, 64))

    def test_a_table_that_points_where_no_file_can_be_read_gives_no_tile(self, paint, tmp_path):
        path = tmp_path / "big.tif"
        with tifffile.TiffWriter(path, bigtiff=True) as tiff:
            tiff.write(paint(600, 500), tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None)
        with tifffile.TiffFile(path) as tiff:
            table = tiff.pages[0].tags["TileOffsets"].valueoffset
        overwrite(path, table, ((1 << 64) - 1).to_bytes(8, "little"))
        tiles = open_level(path, (600, 500))
        assert tiles.region(0, 0, 10, 10) is None
        assert tiles.region(300, 0, 10, 10).shape == (10, 10, 3)
        tiles.close()

    def test_a_table_that_reports_a_tile_of_gigabytes_reserves_no_memory(self, copy):
        path, page = copy
        overwrite(path, page.tags["TileByteCounts"].valueoffset, (0xFFFFFFF0).to_bytes(4, "little"))
        level = open_level(path, (1000, 700))
        level._file = None  # would be read from
        assert level.region(0, 0, 10, 10) is None

    def test_a_tile_of_another_size_than_the_head_reports_is_not_taken(self, copy, paint, tmp_path):
        path, page = copy
        small = tmp_path / "small.svs"
        write_svs(small, paint(128, 128, (0, 0, 128, 128)), mpp=0.5, power=None, tile_px=128, levels=(1,))
        with tifffile.TiffFile(small) as tiff:
            other = tiff.pages[0]
            start, length = other.dataoffsets[0], other.databytecounts[0]
            data = small.read_bytes()[start : start + length]
        assert length < page.databytecounts[0]
        overwrite(path, page.dataoffsets[0], data)
        overwrite(path, page.tags["TileByteCounts"].valueoffset, length.to_bytes(4, "little"))
        level = open_level(path, (1000, 700))
        assert level.region(0, 0, 10, 10) is None
        level.close()

    @pytest.mark.parametrize("cut", [10, 300])
    def test_a_file_that_ends_in_its_head_is_no_level(self, copy, cut):
        path, _ = copy
        path.write_bytes(path.read_bytes()[:cut])
        assert open_level(path, (1000, 700)) is None

    def test_a_file_that_ends_in_its_tiles_gives_none_of_those_beyond(self, copy):
        path, page = copy
        path.write_bytes(path.read_bytes()[: page.dataoffsets[1] + 100])
        level = open_level(path, (1000, 700))
        assert level.region(0, 0, 256, 256) is not None
        assert level.region(256, 0, 256, 256) is None
        level.close()


def test_memory_holds_one_row_of_tiles(slide):
    level = open_level(slide.path, (1000, 700))
    for y in range(0, 700 - 64, 64):
        for x in range(0, 1000 - 64, 64):
            level.region(x, y, 64, 64)
            rows = {row for row, _ in level._kept}
            assert rows <= {y // 256, (y + 63) // 256}
    level.close()


def test_memory_has_an_end_on_the_widest_slides(slide, monkeypatch):
    monkeypatch.setattr(jpeg_tiles, "KEPT_BYTES", 3 * 256 * 256 * 3)
    level = open_level(slide.path, (1000, 700))
    with openslide.OpenSlide(str(slide.path)) as handle:
        for y, x in ((0, 0), (200, 0), (200, 500), (444, 30)):
            expected = np.asarray(handle.read_region((x, y), 0, (400, 256)).convert("RGB"))
            np.testing.assert_array_equal(level.region(x, y, 400, 256), expected)
            assert len(level._kept) <= 3
    level.close()


def test_a_tile_is_decoded_once_for_all_regions_of_its_row(slide, monkeypatch):
    decoded = []
    decode = jpeg_tiles.simplejpeg.decode_jpeg
    monkeypatch.setattr(jpeg_tiles.simplejpeg, "decode_jpeg", lambda *a: decoded.append(1) or decode(*a))
    level = open_level(slide.path, (1000, 700))
    for y in range(30, 600, 100):
        for x in range(30, 900, 100):
            level.region(x, y, 100, 100)
    level.close()
    assert len(decoded) == 4 * 3  # columns and rows of tiles that the regions touch


def test_an_error_of_the_program_is_not_taken_for_a_damaged_file(slide, monkeypatch):
    """Only tifffile's parsing of the file may fail without an error."""
    with pytest.raises(AttributeError):
        open_level(str(slide.path), (1000, 700))
    with monkeypatch.context() as patch:
        patch.setattr(jpeg_tiles.JpegTiles, "__init__", lambda self, path: None)
        with pytest.raises(TypeError):
            open_level(slide.path, (1000, 700))
    monkeypatch.setattr(jpeg_tiles, "_layout_of", lambda page: page.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        open_level(slide.path, (1000, 700))
    monkeypatch.setattr(jpeg_tiles, "_layout_of", lambda page, forgotten: None)
    with pytest.raises(TypeError, match="forgotten"):
        open_level(slide.path, (1000, 700))


@pytest.mark.parametrize("tag", ["ImageWidth", "TileLength", "SamplesPerPixel"])
@pytest.mark.parametrize("change", ["zero", "two numbers"])
def test_a_level_whose_tags_are_damaged_is_left_to_openslide(copy, tag, change):
    path, page = copy
    found = page.tags[tag]
    if change == "zero":
        overwrite(path, found.valueoffset, bytes(2))
    else:
        overwrite(path, found.offset + 4, (2).to_bytes(4, "little"))  # the count
    assert open_level(path, (1000, 700)) is None


def test_an_attribute_error_of_the_library_is_a_damaged_file(slide, monkeypatch):
    monkeypatch.setattr(jpeg_tiles, "_layout_of", lambda page: jpeg_tiles.tifffile.TiffPages(object()))
    assert open_level(slide.path, (1000, 700)) is None


def test_a_damaged_list_of_pages_logs_nothing_of_the_library(copy, caplog):
    """It would be the first line of the run, without the name of the slide."""
    path, _ = copy
    logging.getLogger("tifffile").setLevel(logging.NOTSET)
    with path.open("r+b") as file:
        file.truncate(1000)
    with tifffile.TiffFile(path) as tiff:
        assert len(list(tiff_pages(tiff))) == 1
    assert [record.message for record in caplog.records if record.name == "tifffile"] == []
