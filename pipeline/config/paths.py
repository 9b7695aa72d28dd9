"""The paths of a run as its workers see them, and what of its configuration counts wherever its files lie."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.config.schema import Config
from preprocessing.encoders.config import EncoderConfig
from preprocessing.io.files import user_path
from preprocessing.slide_lists.discovery import SlideSource
from preprocessing.tiling.tiles import TileConfig

LOCAL = "local-dir:"  # how the name of an encoder in a folder begins
# Keys that decide which models are trained and on which gene groups: each fold job has its own.
CANDIDATE_KEYS = {"model", "models", "variants", "tumour_genes", "microenvironment_genes"}
# Keys that do not decide the result. The values of a preset are in the configuration themselves.
WITHOUT_EFFECT = {
    *("out", "store", "until", "dry_run", "device", "workers", "scheduler", "cluster", "slurm", "slide_minutes"),
    *("gpu_tiles", "folds_per_gpu", "gpus", "preset", "track"),
    "explain",  # reads the results
}
_NAMES_OR_FILES = {"tumour_genes", "microenvironment_genes"}  # of gene sets, or files of genes


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
    return store if "://" in store else str(user_path(store).absolute())


def identity(config: Config) -> dict[str, Any]:
    """Return the part of the configuration that decides the result, without where and how far the run goes.

    Of a path the last part counts, so that a run goes on from another working directory, or where its files were moved: what is in
    tables, slides, masks and weights is compared by itself.
    """
    values = _without_folders(config.model_dump(exclude=WITHOUT_EFFECT))
    return dict(TypeAdapter(dict[str, Any]).dump_python(values, mode="json"))


def file_name(path: Path | str) -> str:
    """The last part of a path, also of `.` and `..`; of a text that is no path, the text."""
    return os.path.basename(os.path.abspath(path))


def _without_folders(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _without_folders(one, name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(one, key) for one in value]
    if isinstance(value, str) and value.startswith(LOCAL):
        return f"{LOCAL}{file_name(value.removeprefix(LOCAL))}"
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0 as given and 1 as preset are one value
    text_of_file = key == "further_tables" or (key in _NAMES_OR_FILES and Path(value).is_file())
    return file_name(value) if isinstance(value, Path) or text_of_file else value
