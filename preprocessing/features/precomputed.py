"""Slides of which only the features are there: a manifest names their groups in the store, and no slide file is opened.

So it is with features that another tool made, and with a cohort whose slides have been deleted since.
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
class PrecomputedRecipe:
    """How the features of a cohort were made.

    Attributes:
        tiles: what a tile is.
        encoder: what made a feature of it, as the store describes it.
        stain: method and target of normalisation; None where colours stayed as scanned, or it is unknown.
    """

    tiles: TileConfig
    encoder: Mapping[str, Any]
    stain: tuple[str, str | None] | None = None

    def summary(self) -> str:
        """One sentence for the log."""
        name, tool = self.encoder["name"], self.encoder.get("imported_from")
        return (
            f"precomputed features: {name}{f' (imported from {tool} files)' if tool else ''}, tiles of "
            f"{self.tiles.tile_px} pixels at {self.tiles.mpp:g} µm per pixel{f', stain {self.stain[0]}' if self.stain else ''}; "
            "nothing is tiled or embedded"
        )

    def identity(self) -> str:
        """What features must have in common to be one cohort's: encoder, tiles and stain."""
        tiles = self.tiles
        return (
            f"{self.encoder['fingerprint']} {tiles.tile_px} {tiles.mpp} {tiles.stride_px or tiles.tile_px} {self.stain}"
        )


def precomputed_slide(file: SlideFile, store: FeatureStore) -> Slide:
    """The slide as the attributes of its features describe it.

    Raises:
        SlideError: the manifest names no features, or they are not in the store.
    """
    if not file.features:
        raise SlideError("the manifest names no features of it")
    metadata = store.describe_features(file.features)
    if metadata is None:
        raise SlideError(
            f"store {store.place}: its features {file.features} are not there, or not whole; name the right --store, or make "
            "them again"
        )
    x, y = metadata["slide_mpp_xy"]
    return Slide(
        file.slide_id,
        file.case_id,
        file.path,
        (float(x), float(y)),
        str(metadata["slide_mpp_source"]),
        tuple(metadata["slide_size_px"] or NO_SIZE),
        metadata["slide_fingerprint"],
        file.features,
        str(metadata.get("slide_hash", "sampled")),
    )


def precomputed_recipe(slides: Iterable[Slide], store: FeatureStore) -> PrecomputedRecipe:
    """How the features of all these slides were made.

    Raises:
        InputError: not all in the same way.
    """
    found: dict[str, tuple[PrecomputedRecipe, str]] = {}
    for slide in slides:
        metadata = store.describe_features(slide.features)
        if metadata is None:
            raise InputError(f"store {store.place}: {slide.features} is no longer complete; import it again")
        stain = metadata.get("stain")
        recipe = PrecomputedRecipe(
            TileConfig(**metadata["recipe"]), metadata["encoder"], (stain["method"], stain["target"]) if stain else None
        )
        found.setdefault(recipe.identity(), (recipe, slide.slide_id))
    if len(found) > 1:
        (one, slide_id), (other, other_id) = list(found.values())[:2]
        raise InputError(
            f"slides: their features were not made alike: {slide_id} has {one.summary()}; {other_id} has {other.summary()}; "
            "give a manifest of those of one kind"
        )
    return next(iter(found.values()))[0]
