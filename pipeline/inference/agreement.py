"""Whether slides, genes and encoder are such that trained models have something to say; told before anything is computed."""

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.config.schema import Config
from pipeline.inference.metadata import EncoderFacts
from pipeline.inference.trained import Predictor
from preprocessing.cohort import Cohort
from preprocessing.features.encoders import Encoder
from preprocessing.features.precomputed import StoredRecipe
from preprocessing.io.errors import InputError, some
from preprocessing.tiling.stain import stain_recipe

log = logging.getLogger(__name__)
ENCODER_PARTS = {  # what makes two encoders of one name different ones
    "weights": "weights_fingerprint",
    "transform": "transform",
    "pooling": "pooling",
    "width": "dim",
    "precision": "precision",
}


def check_cohort(config: Config, predictors: list[Predictor], cohort: Cohort) -> None:
    """Raise InputError where a model has nothing to say about these slides and genes; warn of what has no say."""
    if not predictors:
        return
    _tell_training_cases(predictors, cohort)
    _require_inputs(predictors, cohort)
    if cohort.slides:
        _require_features(config, predictors[0], cohort.stored)


def _require_inputs(predictors: list[Predictor], cohort: Cohort) -> None:
    has_slides, has_genes = bool(cohort.slides or cohort.left_out), bool(cohort.omics.features)
    for one in predictors:
        if has_slides and not has_genes and not one.reads_slides:
            raise InputError(
                f"--trained {one.folder}: the model looks at genes only, and GENES is none: give a gene table"
            )
        if has_genes and not has_slides and not one.reads_genes:
            raise InputError(f"--trained {one.folder}: the model looks at slides only, and SLIDES is none: give slides")
        if has_genes and one.reads_genes:
            for member in one.members:
                if member.scaler and set(member.scaler.groups) != {"covariate"}:
                    member.scaler.aligned(cohort.omics)
    if has_slides and not any(one.reads_slides for one in predictors):
        raise InputError(
            f"--trained {predictors[0].folder}: the model was trained without slides; give none in place of them"
        )
    if has_genes and not any(one.reads_genes for one in predictors):
        log.warning("the model was trained without genes: those of the table have no say")


def _tell_training_cases(predictors: list[Predictor], cohort: Cohort) -> None:
    for one in predictors:
        if one.facts.training.cases is None:
            log.warning(
                "task %s: the model does not say which cases it was trained on; metrics of those would flatter it",
                one.task,
            )
        if seen := one.trained_on(cohort.used_cases()):
            log.warning(
                "task %s: %d of the cases are among those that the model was trained on (%s): they are predicted, and left out "
                "of all metrics",
                *(one.task, len(seen), some(seen)),
            )


def _require_features(config: Config, predictor: Predictor, stored: StoredRecipe | None) -> None:
    """Raise InputError where features of the model's kind cannot be had: where they are not in the store, they are made here."""
    known = predictor.facts.encoder
    if known is None:
        return
    if stored is not None:
        _require_tiles(predictor, stored)
        _require_same_encoder(predictor, known, stored.encoder)
    elif known.imported_from:
        raise InputError(
            f"--trained {predictor.folder}: the model was trained on features that another tool made ({known.told()}), which "
            "are not made here; give a manifest of such, as python -m workflows.import_features writes it"
        )
    elif (weights := config.encoder.weights) and not weights.exists():
        raise InputError(
            f"encoder: the model was made with {known.name} and weights of {weights}, which are not here; give them by "
            "--encoder-weights"
        )


def _require_tiles(predictor: Predictor, stored: StoredRecipe) -> None:
    own, other = predictor.facts.tiles, stored.tiles
    stain = stain_recipe(own.stain)
    wanted = {"tiles": f"{own.tile_px} pixels", "resolution": f"{own.mpp:g} µm per pixel"}
    wanted |= {"distance of tiles": f"{own.stride_px or own.tile_px} pixels"}
    found = {"tiles": f"{other.tile_px} pixels", "resolution": f"{other.mpp:g} µm per pixel"}
    found |= {"distance of tiles": f"{other.stride_px or other.tile_px} pixels"}
    wanted["stain"], found["stain"] = (
        "as scanned" if one is None else " to ".join(filter(None, one))
        for one in (stain and (stain["method"], stain["target"]), stored.stain)
    )
    for what, value in wanted.items():
        if found[what] != value:
            raise InputError(
                f"slides: the features of the manifest are of other {what} ({found[what]}) than {predictor.folder} was trained "
                f"with ({value}); give the slides themselves, or features made with that"
            )


def _require_same_encoder(predictor: Predictor, known: EncoderFacts, found: Mapping[str, Any]) -> None:
    other = EncoderFacts(**found)
    if other.fingerprint == known.fingerprint:
        return
    remedy = "give the slides themselves, or features of the model's encoder"
    if (other.name.casefold(), other.dim) != (known.name.casefold(), known.dim):
        raise InputError(
            f"slides: the features of the manifest are of another encoder ({other.told()}) than {predictor.folder} was trained "
            f"with ({known.told()}); {remedy}"
        )
    if known.imported_from or other.imported_from:
        log.warning(
            "encoder: %s by name; nobody can tell whether weights and treatment of tiles are those of the model's (%s)%s",
            *(other.told(), known.told(), ": mind `likeness` in predictions.csv" if predictor.likeness else ""),
        )
        return
    for what, key in ENCODER_PARTS.items():
        if (value := getattr(other, key)) != getattr(known, key):
            raise InputError(
                f"slides: the features of the manifest were made by {other.name} with other {what} ({value}) than "
                f"{predictor.folder} was trained with ({getattr(known, key)}); {remedy}"
            )


def require_encoder(predictors: list[Predictor], encoder: Encoder) -> None:
    """Raise InputError for an encoder that is not the one that the models' features were made with."""
    known = predictors[0].facts.encoder if predictors else None
    if known is None:
        return
    found = encoder.describe()
    for what, key in ENCODER_PARTS.items():
        if found[key] != getattr(known, key):
            raise InputError(
                f"encoder: {known.name} has other {what} here ({found[key]}) than where the model was trained "
                f"({getattr(known, key)}); give the same ones by --encoder-weights, or train a model with these"
            )
    if encoder.fingerprint != known.fingerprint:
        log.warning(
            "encoder: %s has the model's weights, but another version of timm lays it out otherwise", known.name
        )
