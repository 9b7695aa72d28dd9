"""The recipe that trained models ask for: tiles, encoder and kind of slides are theirs, and options may not say otherwise."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.settings import Settings
from pipeline.config.schema import Config
from pipeline.inference.metadata import EncoderFacts
from pipeline.inference.trained import Predictor
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import file_fingerprint

log = logging.getLogger(__name__)
FLAGS = {  # how the command line calls what the model settles
    "tiles.mpp": "--mpp",
    "tiles.tile_px": "--tile-px",
    "encoder.name": "--encoder",
    "slide_kind": "--slide-kind",
    "model": "--model",
}
# Of training alone: a trained model has settled them.
OF_TRAINING = (
    *("allow_defining_features", "gene_sets", "tumour_genes", "microenvironment_genes", "splits", "preset", "split_by"),
    *("baselines", "covariates", "folds", "omics", "train", "models", "variants"),
)


def with_recipe(config: Config, predictors: list[Predictor]) -> Config:
    """The configuration with tiles, encoder and slide kind as the models were trained; what of training alone is said is told.

    Raises:
        InputError: an option that contradicts the model.
    """
    facts = predictors[0].facts
    said = dict(_leaves(config, only_said=True))
    for one in predictors:
        _refuse_conflicts(said, one)
    if idle := sorted({key for key in said if key.partition(".")[0] in OF_TRAINING}):
        log.warning("without effect with --trained, the model has settled it: %s", ", ".join(idle))
    masks = config.tiles.tissue.masks
    tiles = facts.tiles.model_copy(update={"tissue": facts.tiles.tissue.model_copy(update={"masks": masks})})
    changed: dict[str, Any] = {"tiles": tiles, "slide_kind": facts.slide_kind}
    changed["model"] = tuple(dict.fromkeys(one.model_name for one in predictors))
    if "cases" not in said:
        changed["cases"] = "any"
    if facts.encoder and not facts.encoder.imported_from:
        changed["encoder"] = _encoder(config, facts.encoder)
    return config.model_copy(update=changed)


def _encoder(config: Config, facts: EncoderFacts) -> Any:
    weights = config.encoder.weights or (Path(facts.weights) if facts.weights else None)
    local = config.encoder.name.startswith("local-dir:") and facts.name.startswith("local-dir:")
    name = config.encoder.name if local else facts.name
    changed = {"name": name, "weights": weights, "pooling": facts.pooling, "precision": facts.precision}
    return config.encoder.model_copy(update=changed)


def _refuse_conflicts(said: Mapping[str, Any], predictor: Predictor) -> None:
    facts = predictor.facts
    settled: dict[str, Any] = {f"tiles.{key}": value for key, value in _leaves(facts.tiles)}
    settled |= {"slide_kind": facts.slide_kind, "model": (predictor.model_name,)}
    if facts.encoder:
        known = {name: getattr(facts.encoder, name) for name in ("name", "precision", "pooling")}
        settled |= {f"encoder.{name}": value for name, value in known.items() if value is not None}
    if facts.tiles.stain.target and (image := said.get("tiles.stain.target")):
        same = file_fingerprint(image) == file_fingerprint(facts.tiles.stain.target)
        settled["tiles.stain.target"] = image if same else "another image"
    for key, value in said.items():
        if key not in settled or key == "tiles.tissue.masks" or value in (None, "auto", (), settled[key]):
            continue
        if key == "model" and value[0] == predictor.model_name:
            continue  # the first one is handed out
        if key == "encoder.name" and value.partition(":")[0] == settled[key].partition(":")[0] == "local-dir":
            continue  # where it lies is not what it is: its weights are compared
        raise InputError(
            f"{FLAGS.get(key, f'--set {key}')} says {_text(value)}, and {predictor.folder} was trained with "
            f"{_text(settled[key])}; leave the option out, or train a model with it"
        )


def _leaves(part: Settings, *, prefix: str = "", only_said: bool = False) -> Iterator[tuple[str, Any]]:
    """All values by dotted key; or those that the user said, be it by flag, file or --set."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if only_said and name not in part.model_fields_set:
            continue
        if isinstance(value, Settings):
            yield from _leaves(value, prefix=f"{prefix}{name}.", only_said=only_said)
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
