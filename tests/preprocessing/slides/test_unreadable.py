"""Each file that cannot be read is reported with its true reason; "copy it again" only where it is incomplete."""

import numpy as np
import pytest
import tifffile

from preprocessing.io.errors import SlideError
from preprocessing.slides import unreadable
from preprocessing.slides.probing import probe_slide
from preprocessing.slides.slide import SlideFile

PIXELS = np.random.default_rng(0).integers(120, 250, (600, 500, 3)).astype(np.uint8)


def reason(path):
    with pytest.raises(SlideError) as refused:
        probe_slide(SlideFile("S", "S", path), default_mpp=0.5)
    return str(refused.value)


def write_tiff(path, **options):
    options = {"photometric": "rgb", "tile": (256, 256), "metadata": None, "compression": "jpeg"} | options
    byteorder = options.pop("byteorder", None)
    with tifffile.TiffWriter(path, byteorder=byteorder) as tiff:
        tiff.write(PIXELS, **options)
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"byteorder": ">"}, "big-endian TIFF"),
        ({"compression": "webp"}, "TIFF with WebP compression"),
        ({"compression": "jpegxl"}, "TIFF with JPEG XL compression"),
        ({"tile": None, "rowsperstrip": 64, "compression": "lzw"}, "TIFF that is not tiled"),
    ],
)
def test_a_whole_tiff_of_another_kind_is_named_and_can_be_converted(tmp_path, options, expected):
    found = reason(write_tiff(tmp_path / "S.svs", **options))
    assert expected in found
    assert "vips tiffsave" in found
    assert "copy" not in found


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_tiff_whose_end_is_missing_is_incomplete(tmp_path, byteorder):
    """The directory lies in front of the pixels, as some programs write it."""
    path = write_tiff(tmp_path / "S.tif", byteorder=byteorder, compression=None, software="x" * 64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].is_tiled
    found = unreadable.damage_reason(path, "")
    assert f"but it has {len(data) // 2:,} bytes; copy it again" in found
    assert "big-endian" not in found


def test_a_mirax_file_without_its_folder_is_reported_with_the_folder(tmp_path):
    path = tmp_path / "case1.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(500))
    assert "its folder case1/ with Slidedat.ini and the image data is missing" in reason(path)
    (tmp_path / "case1").mkdir()
    assert "Slidedat.ini in its folder case1/" in reason(path)


def test_a_dicom_image_of_another_modality_is_named(tmp_path, write_dicom):
    path = tmp_path / "S.dcm"
    write_dicom(path, modality="CT")
    assert "it is a DICOM image of modality CT, not a whole-slide image" in reason(path)


def test_a_link_to_nowhere_beside_a_slide_does_not_hide_it(tmp_path):
    """In a folder of many slides it belongs to none of those that are read along with their neighbours."""
    (tmp_path / "S.dcm").write_bytes(b"x")
    (tmp_path / "other.svs").symlink_to(tmp_path / "nowhere.svs")
    assert unreadable.unsafe_reason(tmp_path / "S.dcm") is None
