from types import SimpleNamespace

from pipeline.config.loading import load_config
from pipeline.slides.feature_recipe import FeatureRecipe


def test_a_recipe_is_that_of_the_configuration_with_the_paths_of_the_workers():
    config = load_config(
        {"slides": "s", "genes": "g", "tiles": {"tile_px": 128}, "encoder": {"name": "resnet18"}, "gpu_tiles": 99}
    )
    paths = SimpleNamespace(
        store="/seen/by/workers",
        tiles=lambda tiles: tiles.model_copy(update={"mpp": 0.75}),
        encoder=lambda encoder: encoder.model_copy(update={"precision": "float32"}),
    )
    recipe = FeatureRecipe.from_config(config, paths, "cuda")
    assert (recipe.store, recipe.device, recipe.gpu_tiles) == ("/seen/by/workers", "cuda", 99)
    assert (recipe.tiles.tile_px, recipe.tiles.mpp) == (128, 0.75)
    assert (recipe.encoder.name, recipe.encoder.precision) == ("resnet18", "float32")
