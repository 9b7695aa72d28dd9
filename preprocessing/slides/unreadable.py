"""Why a file cannot be read as a slide, judged by its contents, and what to do."""

from pathlib import Path
from typing import Literal

import tifffile

from preprocessing.io.errors import passed_through
from preprocessing.io.file_types import file_type
from preprocessing.io.files import why_no_file
from preprocessing.slides.dicom import read_header
from preprocessing.slides.jpeg_tiles import PARSING_ERRORS, tiff_pages
from preprocessing.slides.names import unusable_name

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CONVERT = "convert it (vips tiffsave in.tif out.tif --tile --pyramid --compression jpeg)"
COPY_AGAIN = "; if it was copied incompletely, copy it again"
JPEG_BEGINNING = b"\xff\xd8\xff"
READ_COMPRESSIONS = {1, 5, 7, 8, 32946, 33003, 33005, 50000}  # none, LZW, JPEG, deflate, Aperio's JPEG 2000, Zstandard
COMPRESSION_NAMES = {
    50001: "WebP",
    34892: "lossy JPEG",
    34712: "JPEG 2000",
    50000: "Zstandard",
    50002: "JPEG XL",
    34934: "JPEG XR",
}


def unsafe_reason(path: Path) -> str | None:
    """Return why OpenSlide would wait for ever: a pipe or device, as the slide or among its companion files; else None."""
    if problem := why_no_file(path):
        return f"{path} {problem}"
    companions = {".mrxs": path.with_suffix(""), ".dcm": path.parent, ".vms": path.parent, ".vmu": path.parent}
    folder = companions.get(path.suffix.lower())
    if folder is None or not folder.is_dir():
        return None
    # A link to nowhere is passed over: it may be anybody's, and OpenSlide does not wait for it.
    odd = sorted(other for other in folder.iterdir() if other.exists() and not other.is_dir() and why_no_file(other))
    return f"{odd[0]}, which is read along with {path.name}, {why_no_file(odd[0])}" if odd else None


def unsupported_reason(path: Path) -> str:
    """Return what a file that OpenSlide does not recognise is, and the remedy, beginning with a colon; "" if unknown."""
    try:
        with path.open("rb") as file:
            beginning, length = file.read(512), path.stat().st_size
    except OSError as error:
        return f": it cannot be read: {error}"
    reason = _companions_missing(path) or _by_beginning(path, beginning, length) or unusable_name(path.name)
    return f": {reason}" if reason else ""


def damage_reason(path: Path, message: str) -> str:
    """Return what is wrong with a file that OpenSlide recognises, but fails to open with that message, and the remedy."""
    if path.suffix.lower() == ".mrxs" and (reason := _companions_missing(path)):
        return f"; {reason}"
    with path.open("rb") as file:
        beginning = file.read(4)
    if beginning not in TIFF_MAGIC:
        return COPY_AGAIN
    reason = _tiff_reason(path, beginning, path.stat().st_size)
    return f"; it is {reason}" if reason else COPY_AGAIN if "compression" not in message else f"; {CONVERT}"


def _companions_missing(path: Path) -> str | None:
    """Which part of a slide of several files is not there."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        if not (folder / "Slidedat.ini").is_file():
            what = f"its folder {folder.name}/" if not folder.is_dir() else f"Slidedat.ini in its folder {folder.name}/"
            return f"{what} with Slidedat.ini and the image data is missing next to it; copy the whole folder along"
    if suffix in (".vms", ".vmu"):
        return f"it names image files that must lie next to it in {path.parent.name}/; copy them all along"
    return None


def _by_beginning(path: Path, beginning: bytes, length: int) -> str | None:
    if not beginning:
        return "it is empty; copy it again"
    if path.suffix.lower() == ".mrxs" and beginning.startswith(JPEG_BEGINNING):
        return None  # as the main file of a MIRAX slide begins
    if found := file_type(beginning):
        return f"it is {found.name}; download it again, or unpack it"
    if not any(beginning):
        return "it begins with zeros only, as an interrupted copy does; copy it again"
    if beginning[128:132] == b"DICM":
        return _dicom_reason(path)
    if beginning.isascii() and b"\0" not in beginning:
        return "it is text, perhaps the error message of a failed download; download it again"
    if beginning[:4] not in TIFF_MAGIC:
        return None
    reason = _tiff_reason(path, beginning[:16], length)
    return f"it is {reason}" if reason else f"it is a whole TIFF of a kind that OpenSlide does not read; {CONVERT}"


def _dicom_reason(path: Path) -> str:
    header = read_header(path)
    if not header.is_slide:
        return f"it is a DICOM image of modality {header.modality}, not a whole-slide image"
    return (
        "it is a DICOM whole-slide image of a kind that OpenSlide does not read; convert it to TIFF (wsidicom, QuPath)"
    )


def _tiff_reason(path: Path, beginning: bytes, length: int) -> str | None:
    """What keeps a TIFF from being read: it is incomplete, or of a kind that OpenSlide does not read."""
    order: Literal["little", "big"] = "big" if beginning.startswith(b"MM") else "little"
    directory = beginning[4:8] if b"*" in beginning[:4] else beginning[8:16]  # a BigTIFF has it further on
    if len(directory) and int.from_bytes(directory, order) >= length:
        return f"a TIFF that ends after {length:,} bytes, before its directory; copy it again"
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = list(tiff_pages(tiff))
            if not pages:
                return f"a TIFF without images in its {length:,} bytes; copy it again"
            return _page_reason(pages, order, length)
    except PARSING_ERRORS as error:
        if isinstance(error, AttributeError) and not passed_through(error, "tifffile"):
            raise
        return f"a damaged TIFF ({error}); copy it again"


def _page_reason(pages: list[tifffile.TiffPage], order: str, length: int) -> str | None:
    ends = [start + size for page in pages for start, size in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if ends and max(ends) > length:
        return f"a TIFF whose data end at byte {max(ends):,}, but it has {length:,} bytes; copy it again"
    main = pages[0]
    compression = int(main.compression)
    if order == "big":
        return f"a big-endian TIFF, which OpenSlide does not read; {CONVERT}"
    if compression not in READ_COMPRESSIONS:
        name = COMPRESSION_NAMES.get(compression, str(compression))
        return f"a TIFF with {name} compression, which OpenSlide does not read; {CONVERT}"
    if not main.is_tiled:
        return f"a TIFF that is not tiled, which OpenSlide does not read; {CONVERT}"
    return None
