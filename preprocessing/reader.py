"""Reading pixels: a slide file behind one small interface."""

import math
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from jaxtyping import UInt8
from PIL import Image

STRIP_PIXELS = 1 << 24  # at most this many pixels of a level are held while a thumbnail is drawn


class SlideReader:
    """An open slide. Coordinates are level-0 pixels (x, y); what is read is RGB, transparency made the slide's background.

    Raises:
        openslide.OpenSlideError: the file cannot be opened or its pixels cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(str(path))
        self.size_px: tuple[int, int] = self._slide.dimensions
        self.properties: dict[str, str] = dict(self._slide.properties)
        self.downsamples: tuple[float, ...] = self._slide.level_downsamples
        self._background = "#" + self.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slide.close()

    @property
    def bounds_px(self) -> tuple[int, int, int, int]:
        """The scanned part (x, y, width, height), in level-0 pixels; the whole slide where the file does not say."""
        names = ("x", "y", "width", "height")
        found = [self.properties.get(f"openslide.bounds-{name}") for name in names]
        if any(value is None for value in found):
            return (0, 0, *self.size_px)
        x, y, width, height = (int(value) for value in found if value is not None)
        return x, y, width, height

    def best_level(self, downsample: float) -> int:
        """The coarsest level that is not coarser than `downsample` (a hair's breadth of rounding forgiven)."""
        fine_enough = [i for i, have in enumerate(self.downsamples) if have <= downsample * 1.005]
        return max(fine_enough, key=lambda i: self.downsamples[i], default=0)

    def read(
        self, x: int, y: int, *, level: int, span: tuple[float, float], size_px: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The rectangle of `span` level pixels whose corner is the level-0 point (x, y), resampled to `size_px`.

        Args:
            x: left edge, level-0 pixels.
            y: upper edge, level-0 pixels.
            level: the pyramid level that is read.
            span: width and height in pixels of that level; may be fractions, which are honoured exactly.
            size_px: width and height of the result.
        """
        whole = (math.ceil(span[0] - 1e-6), math.ceil(span[1] - 1e-6))
        image = self._flat(self._slide.read_region((x, y), level, whole))
        if whole == size_px and span == (float(whole[0]), float(whole[1])):
            return np.asarray(image)
        return np.asarray(image.resize(size_px, Image.Resampling.BILINEAR, box=(0, 0, *span)))

    def thumbnail(self, downsample: float) -> UInt8[np.ndarray, "H W 3"]:
        """The whole slide at 1/`downsample` of level 0, drawn in strips: memory stays bounded even without a pyramid."""
        width, height = (max(1, round(side / downsample)) for side in self.size_px)
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

    def _flat(self, image: Image.Image) -> Image.Image:
        opacity = image.getchannel("A")
        if opacity.getextrema() == (255, 255):
            return image.convert("RGB")
        flat = Image.new("RGB", image.size, self._background)
        flat.paste(image, mask=opacity)
        return flat
