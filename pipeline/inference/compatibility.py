"""Whether the slides, genes and encoder of a new cohort suit trained models; checked before anything is computed."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import Config
from pipeline.inference.metadata import EncoderMetadata
from preprocessing.cohort import Cohort
from preprocessing.features.precomputed import PrecomputedRecipe
from preprocessing.io.errors import InputError, count, some
from preprocessing.tiling.stain import stain_recipe

if TYPE_CHECKING:  # a run that trains, or a dry run, loads neither; both need torch
    from pipeline.inference.trained import Predictor

log = logging.getLogger(__name__)
ENCODER_PARTS = {  # by which two encoders of the same name may differ; names in messages and in the metadata
    "weights": "weights_fingerprint",
    "transform": "transform",
    "pooling": "pooling",
    "width": "dim",
    "precision": "precision",
}


def check_cohort(config: Config, predictors: "list[Predictor]", cohort: Cohort) -> None:
    """Check that every model can predict this cohort; warn of inputs that are ignored and of training cases.

    Args:
        config: of the run.
        predictors: one for each task; empty: nothing is checked.
        cohort: the new cases.

    Raises:
        InputError: a model lacks a modality that it needs, or the features are incompatible with it.
    """
    if not predictors:
        return
    _warn_of_training_cases(predictors, cohort)
    _require_modalities(predictors, cohort)
    _warn_of_scales(predictors, cohort)
    if cohort.slides:
        _require_features(config, predictors[0], cohort.precomputed)


def _require_modalities(predictors: "list[Predictor]", cohort: Cohort) -> None:
    has_slides, has_genes = bool(cohort.slides or cohort.left_out), bool(cohort.omics.features)
    for one in predictors:
        if has_slides and not has_genes and not one.reads_slides:
            raise InputError(
                f"--trained {one.folder}: the model reads genes only, and GENES is none; give a gene table"
            )
        if has_genes and not has_slides and not one.reads_genes:
            raise InputError(f"--trained {one.folder}: the model reads slides only, and SLIDES is none; give slides")
        if has_genes and one.reads_genes:
            for member in one.members:
                if member.scaler and set(member.scaler.groups) != {"covariate"}:
                    _refuse_other_capitals(member.scaler.features, cohort.omics.features)
                    member.scaler.aligned(cohort.omics)
    if has_slides and not any(one.reads_slides for one in predictors):
        raise InputError(
            f"--trained {predictors[0].folder}: the model was trained without slides; give none instead of SLIDES"
        )
    if has_genes and not any(one.reads_genes for one in predictors):
        log.warning("the model was trained without genes: the gene table is ignored")


def _warn_of_scales(predictors: "list[Predictor]", cohort: Cohort) -> None:
    """Warn once of genes that are standardised where those of the training cases were not, or the reverse."""
    scalers = [member.scaler for one in predictors for member in one.members if member.scaler]
    if described := next(filter(None, (scaler.describe_scale(cohort.omics) for scaler in scalers)), ""):
        log.warning("genes: %s", described)


def _refuse_other_capitals(expected: Sequence[str], found: Sequence[str]) -> None:
    """Raise InputError where no gene has the name that the model knows, and some differ from it in capitals only."""
    if set(expected) & set(found):
        return
    known = {name.casefold(): name for name in expected}
    pairs = [f"{name} for {known[name.casefold()]}" for name in found if name.casefold() in known]
    if pairs:
        raise InputError(
            f"genes: none of the {len(expected)} features that the model was trained on ({some(expected)}) is in the table, but "
            f"{len(pairs)} of them differ in capitals only ({some(pairs)}); write them as there"
        )


def _warn_of_training_cases(predictors: "list[Predictor]", cohort: Cohort) -> None:
    for one in predictors:
        if one.metadata.training.cases is None:
            log.warning(
                "task %s: the model folder does not identify its training cases; metrics would be optimistically biased if any "
                "of them are in this cohort",
                one.task,
            )
        if known := one.trained_on(cohort.used_cases()):
            log.warning(
                "task %s: %s known from the model's training set, predicted but excluded from all metrics: %s",
                *(one.task, count(len(known), "case"), some(known)),
            )


def profile_caveats(predictors: "Sequence[Predictor]", cohort: Cohort) -> dict[str, tuple[str, ...]]:
    """Return a caveat on the metrics of each task whose training cases are in the cohort under other ids, by their genes.

    Args:
        predictors: the trained models.
        cohort: the new cases, with genes as in their table.
    """
    found = dict[str, tuple[str, ...]]()
    for one in predictors:
        same = [case for case in one.same_profiles(cohort.omics) if not one.trained_on([case])]
        if same:
            found[one.task] = (
                f"{len(same)} of {count(len(cohort.omics.case_ids), 'case')} have the genes of training cases of this model, under "
                f"other ids ({some(same)}): these metrics are optimistically biased; leave the cases out of the table, or give "
                "them the ids that they had in training",
            )
    return found


def _require_features(config: Config, predictor: "Predictor", stored: PrecomputedRecipe | None) -> None:
    """Raise InputError unless the cohort's features are compatible, or compatible features can be computed here."""
    encoder = predictor.metadata.encoder
    if encoder is None:
        return
    if stored is not None:
        _require_same_tiles(predictor, stored)
        _require_same_encoder(predictor, encoder, stored.encoder)
    elif encoder.imported_from:
        raise InputError(
            f"--trained {predictor.folder}: the model was trained on imported features ({encoder.summary()}), which cannot be "
            "computed here; give a manifest of features from the same tool, as run_pipeline import writes it"
        )
    elif (weights := config.encoder.weights) and not weights.exists():
        raise InputError(
            f"encoder: the model was trained with {encoder.name} and the weights {weights}, which do not exist here; give their "
            "path as --encoder-weights"
        )


def _require_same_tiles(predictor: "Predictor", stored: PrecomputedRecipe) -> None:
    model, given = predictor.metadata.tiles, stored.tiles
    stain = stain_recipe(model.stain)
    expected = {"tile size": f"{model.tile_px} px", "resolution": f"{model.mpp:g} µm/px"}
    expected |= {"stride": f"{model.stride_px or model.tile_px} px"}
    found = {"tile size": f"{given.tile_px} px", "resolution": f"{given.mpp:g} µm/px"}
    found |= {"stride": f"{given.stride_px or given.tile_px} px"}
    expected["stain"], found["stain"] = (
        "as scanned" if one is None else " to ".join(filter(None, one))
        for one in (stain and (stain["method"], stain["target"]), stored.stain)
    )
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(
                f"slides: the features of the manifest have another {name} ({found[name]}) than the model {predictor.folder} "
                f"({value}); give the slides themselves, or features computed with that {name}"
            )


def _require_same_encoder(predictor: "Predictor", expected: EncoderMetadata, stored: Mapping[str, Any]) -> None:
    found = EncoderMetadata(**stored)
    if found.fingerprint == expected.fingerprint:
        return
    remedy = "give the slides themselves, or features of the model's encoder"
    if (found.name.casefold(), found.dim) != (expected.name.casefold(), expected.dim):
        raise InputError(
            f"slides: the features of the manifest come from another encoder ({found.summary()}) than those of the model "
            f"{predictor.folder} ({expected.summary()}); {remedy}"
        )
    if expected.imported_from or found.imported_from:
        advice = "; check distribution_shift in predictions.csv" if predictor.reference else ""
        log.warning(
            "encoder: %s has the name and width of the model's encoder (%s), but weights and preprocessing of imported "
            "features cannot be verified%s",
            *(found.summary(), expected.summary(), advice),
        )
        return
    for name, key in ENCODER_PARTS.items():
        if (value := getattr(found, key)) != getattr(expected, key):
            raise InputError(
                f"slides: the features of the manifest were computed by {found.name} with other {name} ({value}) than those of "
                f"the model {predictor.folder} ({getattr(expected, key)}); {remedy}"
            )


def require_encoder(predictors: "list[Predictor]", found: Mapping[str, Any]) -> None:
    """Check that an encoder is the one that the models were trained with.

    Args:
        predictors: with the same encoder, as `load_trained` ensures.
        found: the description of the encoder that is to compute the new features.

    Raises:
        InputError: other weights, transform, pooling, width or precision.
    """
    expected = predictors[0].metadata.encoder if predictors else None
    if expected is None:
        return
    for name, key in ENCODER_PARTS.items():
        if found[key] != getattr(expected, key):
            raise InputError(
                f"encoder: {expected.name} has other {name} here ({found[key]}) than the model was trained with "
                f"({getattr(expected, key)}); give the same weights as --encoder-weights, or train a model with these"
            )
    if found["fingerprint"] != expected.fingerprint:
        log.warning(
            "encoder: %s has the model's weights, but the installed version of timm defines the network differently; features "
            "may differ slightly",
            expected.name,
        )
