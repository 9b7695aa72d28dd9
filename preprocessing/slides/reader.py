"""Reading pixels: a slide file behind one small interface."""

import math
import re
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from jaxtyping import UInt8
from PIL import Image

from preprocessing.io.errors import SlideError
from preprocessing.slides.jpeg_tiles import JpegTiles, open_level

PLAIN_VENDORS = ("aperio", "generic-tiff")  # whose pixels are the TIFF's tiles, side by side
CHECKED_TILES = 3
STRIP_PIXELS = 1 << 24  # at most this many pixels of a level are held while a thumbnail is drawn
# Beyond any scanner: no memory is allocated just because a file declares such sizes.
MAX_SIDE_PX = (1 << 31) - 1  # of level 0: coordinates are int32
MAX_NATIVE_TILE_PIXELS = 1 << 26  # 8192 × 8192, decoded as one; scanners write 128 to 1024 a side
LEVEL_SLACK, LEVEL_PAD_PX = 0.1, 8  # relative difference between a level's proportions, and pixels of rounding
DOWNSAMPLES = tuple(2**power for power in range(1, 12))  # of the levels that exports write
MAX_READ_PIXELS = 1 << 27  # in one read
MAX_THUMBNAIL_PIXELS = 1 << 27  # 93 × 93 mm of glass at 8 µm; a slide has 25 × 75


class SlideReader:
    """An open slide: RGB pixels at level-0 coordinates (x, y); transparent pixels take the slide's background colour.

    OpenSlide opens every slide. Where a level consists of plain JPEG tiles, these are decoded directly, about five times
    faster, provided that sample tiles equal OpenSlide's pixel for pixel; all other regions are read by OpenSlide.

    Not thread-safe: open one reader per thread.

    Args:
        path: the slide, as a `Path` or a string.

    Attributes:
        size_px: width and height of level 0.
        properties: OpenSlide's properties by name.
        downsamples: of each pyramid level, level-0 pixels per pixel.

    Raises:
        openslide.OpenSlideError: the file cannot be opened or its pixels cannot be read.
        SlideError: it declares impossible sizes.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._slide = openslide.OpenSlide(str(path))
        self._jpeg_tiles: dict[int, JpegTiles | None] = {}  # by level, once it is known whether they can be used
        self.size_px: tuple[int, int] = self._slide.dimensions
        found = (
            self._slide.properties
        )  # a name that is not UTF-8 is listed, but its value cannot be read: it is ignored
        self.properties: dict[str, str] = {name: found[name] for name in found if name in found}
        self.downsamples: tuple[float, ...] = self._slide.level_downsamples
        if problem := self._oversized() or self._unsound_levels():
            self._slide.close()
            raise SlideError(problem)
        self._levels = [level for level in range(len(self.downsamples)) if not self._is_padded(level)]
        self._background = "#" + self.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slide.close()
        for tiles in self._jpeg_tiles.values():
            if tiles is not None:
                tiles.close()

    def decoder(self, level: int) -> str:
        """Return what reads that level: "jpeg tiles" or "openslide"."""
        return "openslide" if self._plain_tiles(level) is None else "jpeg tiles"

    @property
    def bounds_px(self) -> tuple[int, int, int, int]:
        """The scanned region (x, y, width, height) in level-0 pixels; the whole slide where the file does not declare one."""
        found = [self.properties.get(f"openslide.bounds-{name}", "") for name in ("x", "y", "width", "height")]
        if not all(re.fullmatch(r"-?\d+", value) for value in found):
            return (0, 0, *self.size_px)
        x, y, width, height = map(int, found)
        left, top = max(0, x), max(0, y)
        right, bottom = min(self.size_px[0], x + width), min(self.size_px[1], y + height)
        return left, top, max(0, right - left), max(0, bottom - top)

    def _oversized(self) -> str | None:
        """Which declared size is absurd; None where all are possible."""
        if max(self.size_px) > MAX_SIDE_PX:
            return f"absurd size in its metadata: {self.size_px[0]} × {self.size_px[1]} pixels"
        for level in range(len(self.downsamples)):
            sides = [self.properties.get(f"openslide.level[{level}].tile-{side}", "0") for side in ("width", "height")]
            if int(sides[0]) * int(sides[1]) > MAX_NATIVE_TILE_PIXELS:
                return (
                    f"level {level} has native tiles of {sides[0]} × {sides[1]} pixels, too large to be decoded; "
                    "convert it to a tiled pyramid (vips tiffsave in.tif out.tif --tile --pyramid --compression jpeg)"
                )
        return None

    def _unsound_levels(self) -> str | None:
        """Which level has other proportions than the slide, and is not merely padded: its size in the file is wrong."""
        width, height = self.size_px
        for level, (across, down) in enumerate(self._slide.level_dimensions):
            if not self._in_proportion(level) and not self._is_padded(level):
                return (
                    f"level {level} has other proportions than the slide ({across} × {down} and {width} × {height} pixels): "
                    "its header is damaged; convert it from the original again"
                )
        return None

    def _in_proportion(self, level: int) -> bool:
        (width, height), (across, down) = self.size_px, self._slide.level_dimensions[level]
        shares = (across / width, down / height)
        rounded = LEVEL_PAD_PX / width + LEVEL_PAD_PX / height
        return abs(shares[0] - shares[1]) <= LEVEL_SLACK * max(shares) + rounded

    def _is_padded(self, level: int) -> bool:
        """Whether the level was filled up to whole native tiles, as some exports of Philips do.

        OpenSlide derives the downsample from the padded size, and would read such a level at wrong positions, unless the
        metadata state the true one, as Philips' own do: then the level has no size of whole tiles here.
        """
        size = self._slide.level_dimensions[level]
        names = [f"openslide.level[{level}].tile-{side}" for side in ("width", "height")]
        tile = [int(self.properties.get(name, "0")) for name in names]
        if level == 0 or not all(tile):
            return False
        if any(length % side for length, side in zip(size, tile, strict=True)):
            return False
        whole = {round(here / there) for here, there in zip(self.size_px, size, strict=True)}
        if any(max(map(abs, self._excess(size, downsample))) <= LEVEL_PAD_PX for downsample in whole):
            return False
        excesses = (self._excess(size, downsample) for downsample in DOWNSAMPLES)
        return any(all(0 <= extra < side for extra, side in zip(one, tile, strict=True)) for one in excesses)

    def _excess(self, size: tuple[int, int], downsample: int) -> tuple[float, float]:
        """Pixels by which a level is wider and higher than the slide at that downsample."""
        return size[0] - self.size_px[0] / downsample, size[1] - self.size_px[1] / downsample

    def best_level(self, downsample: float) -> int:
        """Return the coarsest sound level that is not coarser than `downsample`, within 0.5 % of rounding."""
        fine_enough = [i for i in self._levels if self.downsamples[i] <= downsample * 1.005]
        return max(fine_enough, key=lambda i: self.downsamples[i], default=0)

    def read(
        self, x: int, y: int, *, level: int, span: tuple[float, float], size_px: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Read a rectangle of a level and resample it (bilinear) to `size_px`.

        Args:
            x: left edge, level-0 pixels.
            y: upper edge, level-0 pixels.
            level: the pyramid level that is read.
            span: width and height in pixels of that level; fractions are honoured exactly.
            size_px: width and height of the result.

        Returns:
            RGB, uint8, (height, width, 3).

        Raises:
            SlideError: more than `MAX_READ_PIXELS` would be read at once.
            openslide.OpenSlideError: the pixels are damaged.
        """
        whole = (math.ceil(span[0] - 1e-6), math.ceil(span[1] - 1e-6))
        if whole[0] * whole[1] > MAX_READ_PIXELS:
            raise SlideError(
                f"{whole[0]} × {whole[1]} pixels of level {level} would be read at once: it has no level that is coarse "
                "enough; use a smaller --mpp or --tile-px, or convert it to a pyramid"
            )
        pixels = self._region(x, y, level, whole)
        if whole == size_px and span == (float(whole[0]), float(whole[1])):
            return pixels
        image = Image.fromarray(pixels)
        return np.asarray(image.resize(size_px, Image.Resampling.BILINEAR, box=(0, 0, *span)))

    def thumbnail(self, downsample: float) -> UInt8[np.ndarray, "H W 3"]:
        """Return the whole slide at 1/`downsample` of level 0, RGB uint8; read in strips, so that memory stays bounded."""
        width, height = (max(1, round(side / downsample)) for side in self.size_px)
        if width * height > MAX_THUMBNAIL_PIXELS:
            raise SlideError(
                f"its thumbnail would have {width} × {height} pixels: {self.size_px[0]} × {self.size_px[1]} pixels are more "
                "than a slide has, or its resolution is wrong; otherwise detect tissue at a coarser resolution, as in "
                "--set tiles.tissue.mpp=16"
            )
        scale = (self.size_px[0] / width, self.size_px[1] / height)
        level = self.best_level(downsample)
        level_width, level_height = self._slide.level_dimensions[level]
        ratio = level_height / height
        rows = max(1, int(STRIP_PIXELS / (level_width * ratio)))
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            span = (float(level_width), (bottom - top) * ratio)
            out[top:bottom] = self.read(0, round(top * scale[1]), level=level, span=span, size_px=(width, bottom - top))
        return out

    def _region(self, x: int, y: int, level: int, size_px: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
        """A rectangle as OpenSlide defines it: (x, y) in level-0 pixels, the size in pixels of the level."""
        tiles, downsample = self._plain_tiles(level), int(self.downsamples[level])
        if tiles is not None and x % downsample == 0 and y % downsample == 0:
            pixels = tiles.region(x // downsample, y // downsample, *size_px)
            if pixels is not None:
                return pixels
        return np.asarray(self._flat(self._slide.read_region((x, y), level, size_px)))

    def _plain_tiles(self, level: int) -> JpegTiles | None:
        if level not in self._jpeg_tiles:
            tiles = None
            # At fractional downsamples OpenSlide interpolates between pixels: its tiles cannot be compared.
            if (
                self.properties.get(openslide.PROPERTY_NAME_VENDOR) in PLAIN_VENDORS
                and self.downsamples[level] % 1 == 0
            ):
                tiles = open_level(self._path, self._slide.level_dimensions[level])
            if tiles is not None and not self._agrees(tiles, level):
                tiles.close()
                tiles = None
            self._jpeg_tiles[level] = tiles
        return self._jpeg_tiles[level]

    def _agrees(self, tiles: JpegTiles, level: int) -> bool:
        """Whether sample tiles equal OpenSlide's, and at least one was compared; a tile that neither reads is skipped."""
        agreed = False
        for x, y, width, height in tiles.richest(CHECKED_TILES):
            direct, theirs = tiles.region(x, y, width, height), self._read_separately(x, y, level, (width, height))
            if direct is None and theirs is None:
                continue
            if direct is None or theirs is None or not np.array_equal(direct, theirs):
                return False
            agreed = True
        return agreed

    def _read_separately(
        self, x: int, y: int, level: int, size_px: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W 3"] | None:
        """A rectangle at (x, y) of the level, read through a new handle: after an error a handle cannot be used any more."""
        downsample = int(self.downsamples[level])
        try:
            with openslide.OpenSlide(str(self._path)) as slide:
                return np.asarray(self._flat(slide.read_region((x * downsample, y * downsample), level, size_px)))
        except openslide.OpenSlideError:
            return None

    def _flat(self, image: Image.Image) -> Image.Image:
        opacity = image.getchannel("A")
        if opacity.getextrema() == (255, 255):
            return image.convert("RGB")
        flat = Image.new("RGB", image.size, self._background)
        flat.paste(image, mask=opacity)
        return flat
