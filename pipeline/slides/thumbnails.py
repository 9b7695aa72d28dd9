"""Thumbnails of a run's slides: each slide small, with the outline of its tissue, as `thumbnails/SLIDE.jpg`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from pipeline.cluster.mapping import Outcome, map_slides
from pipeline.cluster.workers import Workers
from preprocessing.features.store import FeatureStore
from preprocessing.io.atomic import atomic_file
from preprocessing.slides.reader import SlideReader
from preprocessing.slides.slide import Slide
from preprocessing.tables.case_ids import file_name

LONG_SIDE_PX = 384
JPEG_QUALITY = 70
OUTLINE = (0, 150, 110)  # green: what neither stain is


@dataclass(frozen=True)
class Picture:
    """A slide that is to be drawn.

    Attributes:
        tiles: name of its group of tiles in the store; empty where it has none, and is drawn without an outline.
    """

    slide: Slide
    tiles: str

    @property
    def slide_id(self) -> str:
        """The slide's."""
        return self.slide.slide_id

    @property
    def made_from(self) -> str:
        """What it shows: other pixels, or another outline, would be another picture."""
        return self.tiles or self.slide.fingerprint


def thumbnail_path(folder: Path, slide_id: str) -> Path:
    """Where the thumbnail of a slide lies in the folder of thumbnails."""
    return folder / f"{file_name(slide_id)}.jpg"


def make_thumbnails(
    workers: Workers, slides: Sequence[Slide], tiles: Mapping[str, str], *, store: str, folder: Path
) -> dict[str, str]:
    """Draw each slide whose picture is not there yet; why a slide could not be drawn, by its id.

    Args:
        workers: they see `folder` too.
        slides: those that could be opened.
        tiles: name of a slide's group of tiles in the store, by slide id.
        store: the feature store.
        folder: where the pictures go; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [Picture(slide, tiles.get(slide.slide_id, "")) for slide in slides]
    todo = [one for one in pictures if not _is_there(thumbnail_path(folder, one.slide_id), one.made_from)]
    with workers.on_cores() as cores:
        outcomes = map_slides(cores, draw, todo, stage="thumbnails", size=_area_px, store=store, folder=folder)
    return {outcome.slide_id: outcome.reason for outcome in outcomes if outcome.status == "failed"}


def draw(picture: Picture, *, store: str, folder: Path) -> Outcome:
    """Write the thumbnail of one slide."""
    with SlideReader(picture.slide.path) as reader:
        pixels = reader.thumbnail(max(1.0, max(reader.size_px) / LONG_SIDE_PX))
    if picture.tiles:
        pixels = _outlined(pixels, FeatureStore(store).read_tiles(picture.tiles).mask)
    with atomic_file(thumbnail_path(folder, picture.slide_id)) as draft:
        Image.fromarray(pixels).save(
            draft, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=picture.made_from.encode()
        )  # thin coloured lines do not stand halved colours
    return Outcome(picture.slide_id, "done", tiles=picture.tiles)


def _outlined(pixels: np.ndarray, mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """The picture with a line, two pixels wide, around the tissue; both show the whole slide."""
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
    except OSError:  # damaged: it is drawn again
        return False


def _area_px(picture: Picture) -> int:
    return picture.slide.size_px[0] * picture.slide.size_px[1]
