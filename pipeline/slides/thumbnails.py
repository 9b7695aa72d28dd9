"""Thumbnails of slides with the outline of the tissue, `thumbnails/SLIDE.jpg` in a run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from PIL import Image

from preprocessing.io.atomic import atomic_file
from preprocessing.tables.case_ids import file_name

if TYPE_CHECKING:  # the report needs no more than the path of a thumbnail
    from pipeline.cluster.mapping import Outcome
    from pipeline.cluster.workers import Workers
    from preprocessing.slides.slide import Slide

LONG_SIDE_PX = 384
JPEG_QUALITY = 70
OUTLINE = (0, 150, 110)  # green, which neither stain is


@dataclass(frozen=True)
class Picture:
    """A thumbnail to draw.

    Attributes:
        slide: the slide.
        tiles: key of its tiles in the store; empty: no outline is drawn.
    """

    slide: "Slide"
    tiles: str

    @property
    def slide_id(self) -> str:
        """Id of the slide."""
        return self.slide.slide_id

    @property
    def made_from(self) -> str:
        """Key of the content, stored in the file: it changes with the pixels and with the outline."""
        return self.tiles or self.slide.fingerprint


def thumbnail_path(folder: Path, slide_id: str) -> Path:
    """Return the path of the thumbnail of a slide."""
    return folder / f"{file_name(slide_id)}.jpg"


def make_thumbnails(
    workers: "Workers", slides: Sequence["Slide"], tiles: Mapping[str, str], *, store: str, folder: Path
) -> dict[str, str]:
    """Draw the thumbnails that do not exist yet, and remove those of slides that are no longer among these.

    Args:
        workers: the processes that draw; they share `folder`.
        slides: slides that can be opened.
        tiles: key of the tiles in the store, by slide id.
        store: the feature store.
        folder: folder of the thumbnails; created if missing.

    Returns:
        The reason of each failure, by slide id.
    """
    from pipeline.cluster.mapping import map_slides

    folder.mkdir(parents=True, exist_ok=True)
    wanted = {thumbnail_path(folder, slide.slide_id) for slide in slides}
    for path in folder.glob("*.jpg"):
        if path not in wanted:
            path.unlink()
    pictures = [Picture(slide, tiles.get(slide.slide_id, "")) for slide in slides]
    todo = [one for one in pictures if not _is_there(thumbnail_path(folder, one.slide_id), one.made_from)]
    with workers.for_cpu() as cpu_workers:
        outcomes = map_slides(cpu_workers, draw, todo, stage="thumbnails", size=_area_px, store=store, folder=folder)
    return {outcome.slide_id: outcome.reason for outcome in outcomes if outcome.status == "failed"}


def draw(picture: Picture, *, store: str, folder: Path) -> "Outcome":
    """Draw and write one thumbnail."""
    from pipeline.cluster.mapping import Outcome
    from preprocessing.features.store import FeatureStore
    from preprocessing.slides.reader import SlideReader

    with SlideReader(picture.slide.path) as reader:
        pixels = reader.thumbnail(max(1.0, max(reader.size_px) / LONG_SIDE_PX))
    if picture.tiles:
        pixels = _outlined(pixels, FeatureStore(store).read_tiles(picture.tiles).mask)
    with atomic_file(thumbnail_path(folder, picture.slide_id)) as temporary:
        Image.fromarray(pixels).save(
            temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=picture.made_from.encode()
        )  # chroma subsampling would blur thin coloured lines
    return Outcome(picture.slide_id, "done", tiles=picture.tiles)


def _outlined(pixels: np.ndarray, mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """Draw a line, two pixels wide, around the tissue; image and mask both cover the whole slide."""
    from scipy.ndimage import binary_dilation, binary_erosion

    height, width = pixels.shape[:2]
    tissue = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)) >= 0.5
    line = binary_dilation(tissue) & ~binary_erosion(tissue)
    return np.where(line[..., None], np.array(OUTLINE, np.uint8), pixels)


def _is_there(path: Path, made_from: str) -> bool:
    if not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == made_from.encode()
    except OSError:  # damaged: drawn again
        return False


def _area_px(picture: Picture) -> int:
    return picture.slide.size_px[0] * picture.slide.size_px[1]
