"""Names of the store's groups: a slide, and behind it the fingerprint of all that the content depends on."""

import re
from typing import Any

from preprocessing.io.fingerprints import fingerprint
from preprocessing.slides.slide import Slide
from preprocessing.tiling.masks import mask_origin
from preprocessing.tiling.stain import stain_recipe
from preprocessing.tiling.tiles import TileConfig, tile_recipe

RECIPE_VERSION = 2  # raise it whenever the same recipe would give other tiles or features


def tile_key(slide: Slide, config: TileConfig) -> str:
    """The name of a slide's tiles under a recipe. A tissue mask counts by its bytes, not by where it lies."""
    recipe = tile_recipe(config)
    origin = mask_origin(slide, config.tissue.masks)
    masks = None if origin is None else sorted(origin.values())  # a missing mask, [], is not the detector, None
    return _name(slide.slide_id, fingerprint(RECIPE_VERSION, slide.fingerprint, slide.mpp_xy, recipe, masks))


def feature_key(slide: Slide, config: TileConfig, encoder_fingerprint: str) -> str:
    """The name of a slide's features under a recipe. A normalised stain changes them, not where the tiles lie."""
    stain = stain_recipe(config.stain)
    parts = (tile_key(slide, config), encoder_fingerprint)
    return _name(slide.slide_id, fingerprint(*parts) if stain is None else fingerprint(*parts, stain))


def imported_key(slide_id: str, *origin: Any) -> str:
    """The name of features that another tool made.

    Args:
        slide_id: of the slide.
        origin: all that identifies them: file, tiles, encoder.
    """
    return _name(slide_id, fingerprint(RECIPE_VERSION, "imported", *origin))


def _name(slide_id: str, mark: str) -> str:
    return f"{safe_name(slide_id)}-{mark}"


def safe_name(slide_id: str) -> str:
    """The slide id with other characters than letters, digits, _ and - replaced, at most 100 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", slide_id)[:100]
