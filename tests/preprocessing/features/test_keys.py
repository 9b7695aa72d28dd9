"""Names of groups, by value: under any other name the features that users have would be computed again."""

from pathlib import Path

from preprocessing.features.keys import feature_key, imported_key, tile_key
from preprocessing.slides.slide import Slide
from preprocessing.tiling.tiles import TileConfig

SLIDE = Slide("S 1", "C1", Path("/data/S1.svs"), (0.25, 0.26), "metadata", (1000, 800), "f" * 32)
KEYS = (
    "S_1-7da4238afdba0ff1e3c736cef2235cf6",
    "S_1-a5032d6353511dc836d38372863cdafe",
    "S_1-bfd603a251c8229eeee13a607c3cbbff",
)


def test_groups_have_the_names_that_they_have_in_the_stores_of_users():
    """Raise `RECIPE_VERSION` and write the new names here only where tiles or features themselves change."""
    found = (
        tile_key(SLIDE, TileConfig()),
        feature_key(SLIDE, TileConfig(), "e" * 32),
        imported_key("S 1", "file", [256, 0.5], "uni"),
    )
    assert found == KEYS
