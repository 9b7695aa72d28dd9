"""How the features of slides are made: what workers need to know, once for all slides."""

from dataclasses import dataclass

from pipeline.config.paths import Paths
from pipeline.config.schema import Config
from preprocessing.encoders.config import EncoderConfig
from preprocessing.tiling.tiles import TileConfig


@dataclass(frozen=True)
class FeatureRecipe:
    """How features are made, and where they are stored.

    Attributes:
        store: the feature store.
        tiles: how tiles are laid.
        encoder: the patch encoder, its precision resolved for the device.
        device: "cpu" or "cuda".
        gpu_tiles: tiles in a batch on a GPU.
    """

    store: str
    tiles: TileConfig
    encoder: EncoderConfig
    device: str
    gpu_tiles: int

    @classmethod
    def from_config(cls, config: Config, paths: Paths, device: str) -> "FeatureRecipe":
        """Take the recipe from a configuration, with the paths that workers use."""
        tiles, encoder = paths.tiles(config.tiles), paths.encoder(config.encoder)
        return cls(paths.store, tiles, encoder, device, config.gpu_tiles)
