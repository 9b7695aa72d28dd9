"""The recipe of trained models: their tiles, encoder and slide kind apply, and contradicting options are refused."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.settings import Settings
from pipeline.config.option_names import OPTIONS
from pipeline.config.schema import Config
from pipeline.inference.metadata import EncoderMetadata
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import file_fingerprint

if TYPE_CHECKING:  # it needs torch
    from pipeline.inference.trained import Predictor

log = logging.getLogger(__name__)
TRAINING_ONLY = (  # settings without effect on a trained model
    *(
        "allow_defining_features",
        "defining_features",
        "gene_sets",
        "tumour_genes",
        "microenvironment_genes",
        "splits",
        "preset",
        "split_by",
    ),
    *("baselines", "covariates", "folds", "omics", "train", "models", "variants"),
)
OF_PREDICTION_TOO = ("train.max_patches",)
FILES_OF_TRAINING = (
    "defining_features",
    "gene_sets",
    "splits",
    "tumour_genes",
    "microenvironment_genes",
)  # never opened


def with_recipe(config: Config, predictors: "list[Predictor]") -> Config:
    """Replace tiles, encoder, slide kind, survival endpoint and model of a configuration by those of trained models.

    Warns of another endpoint, and of options that concern training only; files that they name are not opened.

    Args:
        config: with the user's options.
        predictors: with one recipe, as `load_trained` ensures.

    Raises:
        InputError: an option that contradicts a model.
    """
    metadata = predictors[0].metadata
    explicit = dict(_leaves(config, only_explicit=True))
    for one in predictors:
        _refuse_conflicts(explicit, one)
    concern_training = {key for key in explicit if key.partition(".")[0] in TRAINING_ONLY}
    if ignored := sorted(concern_training.difference(OF_PREDICTION_TOO)):
        log.warning("ignored with --trained, since they concern training only: %s", ", ".join(ignored))
    changed: dict[str, Any] = {name: type(config).model_fields[name].get_default() for name in FILES_OF_TRAINING}
    masks = config.tiles.tissue.masks
    tiles = metadata.tiles.model_copy(update={"tissue": metadata.tiles.tissue.model_copy(update={"masks": masks})})
    changed |= {"tiles": tiles, "slide_kind": metadata.slide_kind}
    if endpoint := next((one.metadata.endpoint for one in predictors if one.metadata.endpoint), None):
        if explicit.get("endpoint", endpoint) != endpoint:
            log.warning(
                "--endpoint %s: the survival model learned %s; its risks are compared with %s, but the probabilities that it "
                "predicts are those of %s",
                *(config.endpoint, endpoint, config.endpoint, endpoint),
            )
        else:
            changed["endpoint"] = endpoint
    changed["model"] = tuple(dict.fromkeys(one.model_name for one in predictors))
    if "cases" not in explicit:
        changed["cases"] = "any"
    if metadata.encoder and not metadata.encoder.imported_from:
        changed["encoder"] = _encoder(config, metadata.encoder)
    return config.model_copy(update=changed)


def _encoder(config: Config, metadata: EncoderMetadata) -> Any:
    weights = config.encoder.weights or (Path(metadata.weights) if metadata.weights else None)
    local = config.encoder.name.startswith("local-dir:") and metadata.name.startswith("local-dir:")
    name = config.encoder.name if local else metadata.name
    changed = {"name": name, "weights": weights, "pooling": metadata.pooling, "precision": metadata.precision}
    return config.encoder.model_copy(update=changed)


def _refuse_conflicts(explicit: Mapping[str, Any], predictor: "Predictor") -> None:
    metadata = predictor.metadata
    fixed: dict[str, Any] = {f"tiles.{key}": value for key, value in _leaves(metadata.tiles)}
    fixed |= {"slide_kind": metadata.slide_kind, "model": (predictor.model_name,)}
    if metadata.encoder:
        known = {name: getattr(metadata.encoder, name) for name in ("name", "precision", "pooling")}
        fixed |= {f"encoder.{name}": value for name, value in known.items() if value is not None}
    if metadata.tiles.stain.target and (image := explicit.get("tiles.stain.target")):
        same = file_fingerprint(image) == file_fingerprint(metadata.tiles.stain.target)
        fixed["tiles.stain.target"] = image if same else "another image"
    for key, value in explicit.items():
        if key not in fixed or key == "tiles.tissue.masks" or value in (None, "auto", (), fixed[key]):
            continue
        if key == "model" and value[0] == predictor.model_name:
            continue  # the models of the run that follow the first were comparators
        if key == "encoder.name" and value.partition(":")[0] == fixed[key].partition(":")[0] == "local-dir":
            continue  # the path may differ: the weights are compared later
        raise InputError(
            f"{OPTIONS.get(key, f'--set {key}')} is {_text(value)}, but {predictor.folder} was trained with "
            f"{_text(fixed[key])}; omit the option, or train a model with it"
        )


def _leaves(part: Settings, *, prefix: str = "", only_explicit: bool = False) -> Iterator[tuple[str, Any]]:
    """All values by dotted key; or those that the user set by option, file or --set."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if only_explicit and name not in part.model_fields_set:
            continue
        if isinstance(value, Settings):
            yield from _leaves(value, prefix=f"{prefix}{name}.", only_explicit=only_explicit)
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
