"""The JPEG tiles of a TIFF or SVS file, decoded directly: the same pixels as OpenSlide's, several times faster.

OpenSlide paints every region on a transparent canvas, tile by tile, and caches too few tiles for neighbouring regions.
Here a row of native tiles is decoded once for all regions that lie in it, as long as these are read row by row.
"""

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile
from jaxtyping import UInt8

from preprocessing.io.errors import passed_through

JPEG, RGB, YCBCR, CONTIGUOUS = 7, 2, 6, 1  # compression, photometric interpretations and planar configuration of TIFF
# Decoded tiles; rows of tiles that need more, on the widest slides, are decoded more than once.
KEPT_BYTES = 256 << 20
# The errors of tifffile on damaged tables. They are caught around tifffile's parsing alone: elsewhere they are our faults.
PARSING_ERRORS = (
    tifffile.TiffFileError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class LevelLayout:
    """Where the JPEG tiles of a level lie in the file.

    Attributes:
        size_px: width and height of the level.
        tile_px: width and height of a native tile.
        offsets: position of each tile in the file, bytes, row by row.
        lengths: length of each tile, bytes.
        tables: quantisation and Huffman tables that all tiles share, as a JPEG stream, or b"".
        is_ycbcr: whether colours are stored as YCbCr rather than RGB.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    tables: bytes
    is_ycbcr: bool


class JpegTiles:
    """The tiles of one level. Reads return None where a tile is missing or damaged: then OpenSlide decides.

    Attributes:
        size_px: width and height of the level.
        tile_px: width and height of a native tile.
    """

    def __init__(self, path: Path, layout: LevelLayout) -> None:
        self.size_px, self.tile_px = layout.size_px, layout.tile_px
        self._columns = -(-self.size_px[0] // self.tile_px[0])
        self._offsets, self._lengths = layout.offsets, layout.lengths
        # Each tile lacks the shared tables; Adobe's marker declares how the colours are stored.
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([layout.is_ycbcr])
        self._head = b"\xff\xd8" + adobe + layout.tables[2:-2]
        self._file = path.open("rb")
        self._file_bytes = path.stat().st_size
        self._kept: dict[tuple[int, int], UInt8[np.ndarray, "h w 3"]] = {}  # by row and column; few rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def region(self, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "H W 3"] | None:
        """Return a rectangle of this level, RGB.

        Args:
            x: left edge, in pixels of this level.
            y: upper edge, likewise.
            width: pixels.
            height: pixels.

        Returns:
            (height, width, 3); None where the rectangle reaches beyond the level, or a tile of it cannot be decoded here.
        """
        if x < 0 or y < 0 or x + width > self.size_px[0] or y + height > self.size_px[1]:
            return None
        tile_width, tile_height = self.tile_px
        rows = range(y // tile_height, (y + height - 1) // tile_height + 1)
        columns = range(x // tile_width, (x + width - 1) // tile_width + 1)
        self._kept = {position: tile for position, tile in self._kept.items() if position[0] in rows}
        out = np.empty((height, width, 3), np.uint8)
        for row in rows:
            for column in columns:
                tile = self._tile(row, column)
                if tile is None:
                    return None
                left, top = column * tile_width - x, row * tile_height - y  # of the tile within the rectangle
                part = tile[max(0, -top) : height - top, max(0, -left) : width - left]
                out[max(0, top) :, max(0, left) :][: len(part), : part.shape[1]] = part
        return out

    def richest(self, count: int) -> list[tuple[int, int, int, int]]:
        """Return the rectangles (x, y, width, height) of `count` tiles: the longest tile of each of as many equal parts."""
        lengths = np.asarray(self._lengths)
        parts = np.array_split(np.arange(len(lengths)), min(count, len(lengths)))
        chosen = (int(part[np.argmax(lengths[part])]) for part in parts)
        corners = (
            (index % self._columns * self.tile_px[0], index // self._columns * self.tile_px[1]) for index in chosen
        )
        return [
            (x, y, min(self.tile_px[0], self.size_px[0] - x), min(self.tile_px[1], self.size_px[1] - y))
            for x, y in corners
        ]

    def _tile(self, row: int, column: int) -> UInt8[np.ndarray, "h w 3"] | None:
        if (row, column) not in self._kept:
            tile = self._decode(row * self._columns + column)
            if tile is None:
                return None
            if len(self._kept) * tile.nbytes >= KEPT_BYTES:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[row, column] = tile
        return self._kept[row, column]

    def _decode(self, index: int) -> UInt8[np.ndarray, "h w 3"] | None:
        width, height = self.tile_px
        offset, length = self._offsets[index], self._lengths[index]
        if not 4 < length <= 4 * width * height:  # an empty tile has no data; none is longer than its raw pixels
            return None
        if offset + length > self._file_bytes:
            return None
        self._file.seek(offset)
        data = self._head + self._file.read(length)[2:]
        try:
            if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
                return None
            return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:  # damaged in any way
            return None


def open_level(path: Path, size_px: tuple[int, int]) -> JpegTiles | None:
    """Return the level of this width and height, or None where it is not plain JPEG tiles in an intact TIFF."""
    layout = _read_layout(path, size_px)
    return None if layout is None else JpegTiles(path, layout)


def _read_layout(path: Path, size_px: tuple[int, int]) -> LevelLayout | None:
    with path.open("rb") as file:
        try:
            with tifffile.TiffFile(file) as tiff:
                pages = tiff_pages(tiff)
                return next((_layout_of(page) for page in pages if _is_plain(page, size_px)), None)
        except PARSING_ERRORS as error:
            if not passed_through(error, "tifffile"):
                raise  # a slip of this module, which must not end in reading through OpenSlide
            return None


def _layout_of(page: tifffile.TiffPage) -> LevelLayout:
    return LevelLayout(
        (page.imagewidth, page.imagelength),
        (page.tilewidth, page.tilelength),
        tuple(page.dataoffsets),
        tuple(page.databytecounts),
        page.jpegtables or b"",
        page.photometric == YCBCR,
    )


def _is_plain(page: tifffile.TiffPage, size_px: tuple[int, int]) -> bool:
    sides = (page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)
    kind = (page.compression, page.planarconfig, page.samplesperpixel, page.bitspersample, page.imagedepth)
    if not all(isinstance(number, int) for number in (*sides, *kind, page.photometric)):
        return False  # damaged: some numbers, or a text, in the place of one
    return (
        sides[:2] == size_px
        and page.is_tiled
        and min(sides[2:]) > 0
        and kind == (JPEG, CONTIGUOUS, 3, 8, 1)
        and page.photometric in (RGB, YCBCR)
        and len(page.dataoffsets) == len(page.databytecounts)
        and len(page.dataoffsets) == -(-sides[0] // sides[2]) * -(-sides[1] // sides[3])
    )


def tiff_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Yield the pages of a TIFF once each: in a damaged file the list of directories may run in a circle."""
    logging.getLogger("tifffile").setLevel(
        logging.CRITICAL
    )  # the reason of a damaged slide names what is wrong with it
    seen = set[int]()
    for page in tiff.pages:
        if page.offset in seen:
            return
        seen.add(page.offset)
        if isinstance(page, tifffile.TiffPage):
            yield page
