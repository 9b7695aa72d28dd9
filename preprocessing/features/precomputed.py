"""Slides of which only the features are there: a manifest names their groups in the store, and no file is opened.

So it is with features that another tool made, and with a cohort whose slides have left the disk since.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError, SlideError
from preprocessing.slides.slide import Slide, SlideFile
from preprocessing.tiling.tiles import TileConfig

NO_SIZE = (0, 0)  # an import does not know how large the slide was


@dataclass(frozen=True)
class StoredRecipe:
    """What the features of a cohort are made of.

    Attributes:
        tiles: what a tile is.
        encoder: what made a feature of it, as the store describes it.
        stain: method and target of normalisation; None where colours stayed as scanned, or nobody knows.
    """

    tiles: TileConfig
    encoder: Mapping[str, Any]
    stain: tuple[str, str | None] | None = None

    def told(self) -> str:
        """One sentence."""
        name, by = self.encoder["name"], self.encoder.get("imported_from")
        return (
            f"features are taken from the store: {name}{f' (imported from {by} files)' if by else ''}, tiles of "
            f"{self.tiles.tile_px} pixels at {self.tiles.mpp:g} µm per pixel{f', stain {self.stain[0]}' if self.stain else ''}; "
            "nothing is tiled or embedded"
        )


def stored_slide(file: SlideFile, store: FeatureStore) -> Slide:
    """The slide as its features describe it; raises SlideError where the manifest names none, or they are not in the store."""
    if not file.features:
        raise SlideError("the manifest names no features of it")
    facts = store.describe_features(file.features)
    if facts is None:
        raise SlideError(
            f"store {store.place}: its features {file.features} are not there, or not whole; name the right --store, or make "
            "them again"
        )
    x, y = facts["slide_mpp_xy"]
    return Slide(
        file.slide_id,
        file.case_id,
        file.path,
        (float(x), float(y)),
        str(facts["slide_mpp_source"]),
        tuple(facts["slide_size_px"] or NO_SIZE),
        facts["slide_fingerprint"],
        file.features,
    )


def stored_recipe(slides: Iterable[Slide], store: FeatureStore) -> StoredRecipe:
    """What all these slides' features are made of.

    Raises:
        InputError: they are not alike.
    """
    found: dict[str, tuple[StoredRecipe, str]] = {}
    for slide in slides:
        facts = store.describe_features(slide.features)
        if facts is None:
            raise InputError(f"store {store.place}: {slide.features} is not whole any more; make it again")
        stain = facts.get("stain")
        recipe = StoredRecipe(
            TileConfig(**facts["recipe"]), facts["encoder"], (stain["method"], stain["target"]) if stain else None
        )
        tiles = recipe.tiles
        alike = f"{recipe.encoder['fingerprint']} {tiles.tile_px} {tiles.mpp} {tiles.stride_px or tiles.tile_px} {recipe.stain}"
        found.setdefault(alike, (recipe, slide.slide_id))
    if len(found) > 1:
        (one, slide_id), (other, other_id) = list(found.values())[:2]
        raise InputError(
            f"slides: their features are not alike: {slide_id} has {one.told()}; {other_id} has {other.told()}; "
            "give a manifest of those of one kind"
        )
    return next(iter(found.values()))[0]
