"""The paths of a run as its workers see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Config
from preprocessing.encoders.config import EncoderConfig
from preprocessing.slide_lists.discovery import SlideSource
from preprocessing.tiling.tiles import TileConfig

LOCAL = "local-dir:"  # how the name of an encoder in a folder begins


@dataclass(frozen=True)
class Paths:
    """Paths that workers use; absolute where a worker may have another working directory than this process.

    Attributes:
        slides: folder, slides or manifest; None in a run on genes only.
        cohorts: the same of each of several cohorts, by name.
        out: run folder; None: a new one.
        store: feature store, a folder or a URL.
        masks: folder of tissue masks, if any.
        stain_target: image whose stain the slides get, if any.
        detector_weights: weights of a tissue detector that has some.
        encoder_folder: folder of an encoder `local-dir:FOLDER`.
        encoder_weights: file or folder of the encoder's weights, where they are given.
    """

    slides: SlideSource | None
    cohorts: Mapping[str, SlideSource | None]
    out: Path | None
    store: str
    masks: Path | None
    stain_target: Path | None
    detector_weights: Path | None
    encoder_folder: Path | None
    encoder_weights: Path | None

    @classmethod
    def from_config(cls, config: Config, *, absolute: bool) -> "Paths":
        """Take the paths from a configuration, as they stand there or absolute."""

        def resolved(path: Path | None) -> Path | None:
            return path.absolute() if path is not None and absolute else path

        def resolved_slides(slides: SlideSource | None) -> SlideSource | None:
            if isinstance(slides, tuple):
                return tuple(path.absolute() for path in slides) if absolute else slides
            return resolved(slides)

        folder = config.encoder.name.removeprefix(LOCAL) if config.encoder.name.startswith(LOCAL) else None
        return cls(
            slides=resolved_slides(config.slides),
            cohorts={name: resolved_slides(one.slides) for name, one in config.cohorts.items()},
            out=resolved(config.out),
            store=absolute_store(config.store) if absolute else config.store,
            masks=resolved(config.tiles.tissue.masks),
            stain_target=resolved(config.tiles.stain.target),
            detector_weights=getattr(config.tiles.tissue.settings, "weights", None),
            encoder_folder=resolved(Path(folder)) if folder else None,
            encoder_weights=resolved(config.encoder.weights),
        )

    def tiles(self, config: TileConfig) -> TileConfig:
        """Return the configuration of tiles with these paths."""
        tissue = config.tissue.model_copy(update={"masks": self.masks})
        stain = config.stain.model_copy(update={"target": self.stain_target})
        return config.model_copy(update={"tissue": tissue, "stain": stain})

    def encoder(self, config: EncoderConfig) -> EncoderConfig:
        """Return the configuration of the encoder with these paths."""
        name = f"{LOCAL}{self.encoder_folder}" if self.encoder_folder else config.name
        return config.model_copy(update={"name": name, "weights": self.encoder_weights})

    def read_by_workers(self) -> list[Path]:
        """List the files and folders that workers read besides slides and the store."""
        paths = (self.masks, self.stain_target, self.encoder_weights, self.encoder_folder, self.detector_weights)
        return [path for path in paths if path is not None]


def absolute_store(store: str) -> str:
    """Return the address of a store that holds in any working directory; a URL stays as it is."""
    return store if "://" in store else str(Path(store).expanduser().absolute())
