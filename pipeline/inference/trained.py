"""Trained models: found in their folders, each task's with what its folder says, and refused where that is not whole."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.catalogue import MODELS
from pipeline.inference.metadata import Facts
from pipeline.ood.reference import ARRAYS_FILE, JSON_FILE, Reference
from pipeline.tasks import FittedTask
from pipeline.training.model_folder import (
    ENSEMBLE,
    STAIN_TARGET,
    UNSOUND,
    TrainedModel,
    load_model,
    read_json,
    require_format,
    require_sums,
)
from preprocessing.io.errors import InputError
from preprocessing.io.fingerprints import file_fingerprint, fingerprint
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.stain import stain_recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Likeness:
    """What a new cohort is compared with: the training cohort, and how its genes were scaled."""

    reference: Reference
    scaler: OmicsScaler | None


@dataclass(frozen=True)
class Predictor:
    """One task's trained model, or the models of its folds.

    Attributes:
        task: name.
        members: the models; what they tell is averaged.
        facts: of them all.
        fingerprint: of its files.
        folder: where it was found.
        sources: the folder of each member.
        likeness: None where the folder does not say what the training cohort was like.
    """

    task: str
    members: tuple[TrainedModel, ...]
    facts: Facts
    fingerprint: str
    folder: Path
    sources: tuple[Path, ...]
    likeness: Likeness | None

    @property
    def model_name(self) -> str:
        """In the registry."""
        return self.members[0].model_name

    @property
    def reads_slides(self) -> bool:
        """Whether slides have a say: the model looks at them, and was trained with some."""
        return MODELS[self.model_name].reads_slides and self.facts.encoder is not None

    @property
    def reads_genes(self) -> bool:
        """Whether genes or covariates have a say."""
        return MODELS[self.model_name].reads_genes and self.members[0].scaler is not None

    @property
    def fitted(self) -> FittedTask:
        """The task, as the members together fitted it."""
        first, *others = (member.task for member in self.members)
        return first.joined(others)

    def trained_on(self, cases: Iterable[str]) -> list[str]:
        """Those of the cases that were in the training, as far as the model folder says who was."""
        known = self.facts.training.cases
        return [case for case in cases if fingerprint(known.salt, case) in known.hashes] if known else []

    def describe(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        kind = f"the models of {len(self.members)} folds" if len(self.members) > 1 else "one model"
        return {
            "folder": str(self.folder.absolute()),
            "fingerprint": self.fingerprint,
            "model": self.model_name,
            "form": kind,
            "trained_on_cases": self.facts.training.n,
        }


def load_trained(place: Path, tasks: list[str]) -> list[Predictor]:
    """The predictors of a model folder, of an ensemble's folder, or of a run's `models` folder.

    Args:
        place: the folder.
        tasks: those wanted; empty: all that are there.

    Raises:
        InputError: no such folder or model, a broken one, or models that were made with different recipes.
    """
    if not place.is_dir():
        raise InputError(f"--trained {place} is no folder; give a model folder, or the models folder of a run")
    inside = (one for one in place.iterdir() if (one / "model.json").is_file() and not one.name.startswith("."))
    folders = [place] if _is_predictor(place) else sorted(inside)
    if not folders:
        raise InputError(
            f"--trained {place} holds no model (model.json, {ENSEMBLE}, or folders with model.json); give RUN/models, "
            "RUN/models/TASK, or RUN/models/TASK-folds"
        )
    found: dict[str, Predictor] = {}
    for one in map(_load, folders):
        if (other := found.setdefault(one.task, one)) is not one:
            raise InputError(
                f"--trained {place}: {other.folder.name} and {one.folder.name} both predict {one.task}; give one"
            )
    if missing := [task for task in tasks if task not in found]:
        raise InputError(f"--task {missing[0]}: {place} has models for {', '.join(found)}")
    predictors = [one for name, one in found.items() if not tasks or name in tasks]
    _require_one_recipe(predictors)
    return predictors


def _is_predictor(folder: Path) -> bool:
    return (folder / "model.json").is_file() or (folder / ENSEMBLE).is_file()


def _load(folder: Path) -> Predictor:
    require_sums(folder)
    path = folder / ENSEMBLE
    if not path.is_file():
        trained = load_model(folder)
        return _predictor(folder, (trained,), trained.facts, [folder], trained.scaler)
    described = read_json(path)
    require_format(described, path)
    names = described.get("members")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise InputError(f"model: {path} names no members; copy it again from its run")
    sources = [folder / name for name in names]
    members = tuple(map(load_model, sources))
    first = members[0]
    alike = len({(one.task_name, one.model_name, one.patch_dim) for one in members}) == 1
    if not alike or not all(first.task.agrees_with(one.task) for one in members):
        raise InputError(f"model: {folder} holds models of different tasks or kinds; copy it again from its run")
    try:
        scaler = OmicsScaler.from_json(described["omics"]) if described.get("omics") else None
    except UNSOUND as error:
        raise InputError(f"model: {path} is broken ({error}); copy it again from its run") from None
    return _predictor(folder, members, members[0].facts | described, sources, scaler)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _predictor(
    folder: Path,
    members: tuple[TrainedModel, ...],
    facts: Mapping[str, Any],
    sources: Sequence[Path],
    scaler: OmicsScaler | None,
) -> Predictor:
    try:
        known = _with_target(Facts(**facts), folder)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"model: {folder} does not say all that prediction needs ({where}: {problem['msg']}); take the folder that a "
            "finished run has in models/"
        ) from None
    except UNSOUND as error:
        raise InputError(f"model: {folder} is broken ({error}); copy it again from its run") from None
    own = members[0]
    reads_slides = MODELS[own.model_name].reads_slides
    if known.encoder and reads_slides and known.encoder.dim != own.patch_dim:
        raise InputError(
            f"model: {folder} takes features {own.patch_dim} wide, and its encoder {known.encoder.name} gives "
            f"{known.encoder.dim}; copy it again from its run"
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    mark = fingerprint([(str(path.relative_to(folder)), file_fingerprint(path)) for path in files])
    return Predictor(own.task_name, members, known, mark, folder, tuple(sources), _likeness(folder, scaler))


def _with_target(facts: Facts, folder: Path) -> Facts:
    """The facts with the image whose stain slides get where it lies: in the model folder, which may be anywhere by now."""
    stain = facts.tiles.stain
    if stain.method == "none" or stain.target is None:
        return facts
    target = folder.absolute() / stain.target.name
    if stain.target.stem != STAIN_TARGET or not target.is_file():
        raise InputError(
            f"model: {folder} was trained on slides with the stain of an image, {stain.target.name}, which is not in it; "
            "copy the whole folder again from its run"
        )
    tiles = facts.tiles.model_copy(update={"stain": stain.model_copy(update={"target": target})})
    return facts.model_copy(update={"tiles": tiles})


def _likeness(folder: Path, scaler: OmicsScaler | None) -> Likeness | None:
    if not any((folder / name).exists() for name in (JSON_FILE, ARRAYS_FILE)):
        log.warning(
            "model: %s holds no %s: whether the cases are like those that it was trained on is not told",
            folder,
            JSON_FILE,
        )
        return None
    return Likeness(Reference.load(folder), scaler)


def _require_one_recipe(predictors: list[Predictor]) -> None:
    first = predictors[0]
    for other in predictors[1:]:
        for name, told in _recipe(other.facts).items():
            if told != _recipe(first.facts)[name]:
                raise InputError(
                    f"--trained: the models for {first.task} and {other.task} were made with different {name}; give one of "
                    f"them, as in --trained {first.folder}"
                )


def _recipe(facts: Facts) -> dict[str, Any]:
    tiles = facts.tiles.model_dump(exclude={"stain"}) | {"stain": stain_recipe(facts.tiles.stain)}
    return {"encoder": facts.encoder, "tiles": tiles, "slide_kind": facts.slide_kind}
