"""The models that a run trains: the first, its comparators, and variants of the first with other settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from models.catalogue import MODELS
from models.settings import ModelSettings
from pipeline.config.messages import SettingsError
from preprocessing.io.errors import InputError


@dataclass(frozen=True)
class ModelCandidate:
    """A model with its settings, trained on every fold.

    Attributes:
        name: its name in reports, tables and folders.
        model: its name in the registry.
        settings: the model's configuration.
        joint: whether it is trained on the labels of all tasks at once.
    """

    name: str
    model: str
    settings: ModelSettings
    joint: bool = False


SINGLE_TASK = "single-task"  # the first model, trained on one task only, beside that of a joint training


def model_candidates(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]], variants: Mapping[str, Mapping[str, Any]]
) -> tuple[ModelCandidate, ...]:
    """Return the models, and after them the variants of the first.

    Args:
        names: models by their name in the registry.
        settings: of each model, by its name.
        variants: by name, the settings of the first model that are changed.
    """
    first = names[0]
    models = [ModelCandidate(name, name, model_settings(name, settings[name], key=f"models.{name}")) for name in names]
    changed = [
        ModelCandidate(name, first, model_settings(first, {**settings[first], **values}, key=f"variants.{name}"))
        for name, values in variants.items()
    ]
    return (*models, *changed)


def require_trainable(candidate: ModelCandidate, *, has_slides: bool, has_genes: bool, batch_cases: int | None) -> None:
    """Raise InputError where a candidate cannot be trained on the given inputs, or in batches of so many cases."""
    model, least = MODELS[candidate.model], candidate.settings.min_cases
    if not has_slides and not model.reads_genes:
        raise InputError(f"--model {candidate.model} reads slides only, and SLIDES is none: give slides")
    if not has_genes and not model.reads_slides:
        raise InputError(f"--model {candidate.model} reads genes only, and GENES is none: give a gene table")
    if not has_genes and model.subspaces:
        raise InputError(
            f"--model {candidate.model} requires gene groups ({' and '.join(model.subspaces)}), and GENES is none: "
            "give a gene table"
        )
    if batch_cases is not None and batch_cases < least:
        raise InputError(
            f"--set train.batch_cases={batch_cases}: {candidate.name} compares the cases of a training step with each other and "
            f"needs at least {least}; give more with --set train.batch_cases=8, or change models.{candidate.model}"
        )


def model_settings(model: str, values: Mapping[str, Any], *, key: str) -> ModelSettings:
    """Build the configuration of a model; errors name its key in that of the run."""
    try:
        return MODELS[model].Config(**values)
    except ValidationError as error:
        raise SettingsError(error, MODELS[model].Config, key) from None
