"""Pictures that lie over a slide in the viewer: maps of the explanation, and the tissue mask."""

import io
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from preprocessing.formats.colours import Scale
from preprocessing.formats.heatmaps import TileValues, draw

if TYPE_CHECKING:
    from pipeline.run.finished_slides import FinishedSlide, FinishedSlides

TISSUE = "tissue"
TISSUE_COLOUR = (0, 150, 110)


def layers_of(run: "FinishedSlides", slide: "FinishedSlide") -> list[str]:
    """List the layers of a slide: `tissue`, and those of its explanation."""
    return ([TISSUE] if slide.tiles else []) + list(run.tile_values(slide))


def layer_png(run: "FinishedSlides", slide: "FinishedSlide", name: str) -> bytes:
    """Draw a layer over the whole slide as PNG, transparent where there is no tile or no tissue.

    Raises:
        KeyError: the slide has no such layer.
        SlideError: the store or the explanation lacks what it is drawn from.
    """
    if name == TISSUE and slide.tiles:
        mask = run.store.read_tiles(slide.tiles).mask
        picture = np.zeros((*mask.shape, 4), np.uint8)
        picture[mask] = (*TISSUE_COLOUR, 255)
        return _png(picture)
    values = run.tile_values(slide)[name]
    palette = run.colours if name == "prototype" else Scale.from_legend(run.legend(slide, name))
    where = run.coords(slide), run.geometry(slide)
    size = run.size_px(slide)
    colours = draw(TileValues(name, values, palette), *where, size_px=size)
    inside = draw(TileValues(name, np.ones(len(values)), {1: "#000000"}), *where, size_px=size)
    return _png(np.dstack([colours, np.where(inside[..., 0] == 0, 255, 0).astype(np.uint8)]))


def _png(picture: UInt8[np.ndarray, "h w 4"]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture, "RGBA").save(content, "PNG")
    return content.getvalue()
