"""Trained models, loaded from model folders with their metadata; damaged and incompatible folders are refused."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.catalogue import MODELS
from pipeline.inference.metadata import ModelMetadata
from pipeline.model_folders.model_folder import (
    COPY,
    ENSEMBLE,
    STAIN_TARGET,
    SUMS,
    UNSOUND,
    TrainedModel,
    load_model,
    require_format,
    require_sums,
)
from pipeline.model_folders.profile_hashes import profile_hashes
from pipeline.ood.reference import JSON_FILE, ReferenceCohort, has_reference
from pipeline.tasks import FittedTask, Task
from preprocessing.io.errors import InputError, count
from preprocessing.io.fingerprints import file_fingerprint, fingerprint
from preprocessing.io.outputs import damaged, read_json
from preprocessing.omics.imputation import GeneImputer
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler
from preprocessing.tiling.stain import stain_recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """The trained model of a task, or the ensemble of its fold models.

    Attributes:
        task: its name.
        members: the models; their predictions are averaged.
        metadata: shared by all members.
        fingerprint: hash of the folder's files.
        folder: model folder.
        member_folders: folder of each member.
        reference: the training cohort, to detect distribution shift; None if the folder contains none.
        reference_scaler: scales the genes for that; None for a model without genes.
    """

    task: str
    members: tuple[TrainedModel, ...]
    metadata: ModelMetadata
    fingerprint: str
    folder: Path
    member_folders: tuple[Path, ...]
    reference: ReferenceCohort | None
    reference_scaler: OmicsScaler | None

    @property
    def definition(self) -> Task:
        """The task before it was fitted."""
        return self.members[0].definition

    @property
    def model_name(self) -> str:
        """Name of the model in the catalogue."""
        return self.members[0].model_name

    @property
    def reads_slides(self) -> bool:
        """Whether slides affect the prediction: the model reads them and was trained with some."""
        return MODELS[self.model_name].reads_slides and self.metadata.encoder is not None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the molecular features and covariates of all members."""
        return tuple(dict.fromkeys(name for one in self.members if one.scaler for name in one.scaler.features))

    @property
    def reads_genes(self) -> bool:
        """Whether genes or covariates affect the prediction."""
        return MODELS[self.model_name].reads_genes and self.members[0].scaler is not None

    @property
    def fitted(self) -> FittedTask:
        """The task, as the members together fitted it."""
        first, *others = (member.task for member in self.members)
        return first.joined(others)

    def trained_on(self, cases: Iterable[str]) -> list[str]:
        """List the training cases among these cases; empty if the model folder does not identify its training cases."""
        known = self.metadata.training.cases
        return [case for case in cases if fingerprint(known.salt, case) in known.hashes] if known else []

    def same_profiles(self, omics: OmicsMatrix) -> list[str]:
        """List the cases with the genes of a training case, under whatever id; empty where the folder has no hashes of genes.

        Args:
            omics: unscaled features of the cases.
        """
        known = self.metadata.training.cases
        if known is None:
            return []
        found = profile_hashes(omics, known.features, known.salt)
        return sorted(case for case, mark in found.items() if mark in known.profiles)

    def describe(self) -> dict[str, Any]:
        """Describe the predictor for `run.json`."""
        kind = f"ensemble of {len(self.members)} fold models" if len(self.members) > 1 else "single model"
        return {
            "folder": str(self.folder.absolute()),
            "fingerprint": self.fingerprint,
            "model": self.model_name,
            "kind": kind,
            "trained_on_cases": self.metadata.training.n,
        }


def scalers_of(predictors: Iterable[Predictor]) -> list[OmicsScaler]:
    """Return the gene scalers of all members."""
    return [member.scaler for one in predictors for member in one.members if member.scaler]


def load_trained(path: Path, tasks: list[str]) -> list[Predictor]:
    """Load the predictors of a model folder, of an ensemble folder, or of a run's `models` folder.

    Args:
        path: the folder.
        tasks: names of the tasks to load; empty: all.

    Returns:
        A predictor for each task, in the order of the folders' names.

    Raises:
        InputError: no such folder or task, a damaged model, or models with different recipes.
    """
    if not path.is_dir():
        raise InputError(f"--trained {path} is not a folder; give a model folder, or the models folder of a run")
    inside = (one for one in path.iterdir() if (one / "model.json").is_file() and not one.name.startswith("."))
    folders = [path] if _is_predictor(path) else sorted(inside)
    if folders != [path]:
        _require_whole(path)
    if not folders:
        raise InputError(
            f"--trained {path} contains no model (model.json, {ENSEMBLE}, or folders with model.json); give RUN/models, "
            "RUN/models/TASK, or RUN/models/TASK-folds"
        )
    found: dict[str, Predictor] = {}
    for one in map(_load, folders):
        if (other := found.setdefault(one.task, one)) is not one:
            raise InputError(
                f"--trained {path}: {other.folder.name} and {one.folder.name} both predict {one.task}; give one"
            )
    if missing := [task for task in tasks if task not in found]:
        raise InputError(f"--task {missing[0]}: {path} contains models for {', '.join(found)}")
    predictors = [one for name, one in found.items() if not tasks or name in tasks]
    _require_one_recipe(predictors)
    return predictors


def _require_whole(models: Path) -> None:
    """Raise InputError where a folder below has a part of a model, as after a copy that was broken off."""
    for folder in sorted(one for one in models.iterdir() if not one.name.startswith(".") and not _is_predictor(one)):
        if (folder / SUMS).is_file() or (folder / "weights.safetensors").is_file():
            raise InputError(f"--trained {models}: {folder.name} has neither model.json nor {ENSEMBLE}; {COPY}")


def _is_predictor(folder: Path) -> bool:
    return (folder / "model.json").is_file() or (folder / ENSEMBLE).is_file()


def _load(folder: Path) -> Predictor:
    require_sums(folder)
    path = folder / ENSEMBLE
    if not path.is_file():
        trained = load_model(folder)
        return _predictor(folder, (trained,), trained.metadata, [folder], trained.scaler)
    described = read_json(path, remedy=COPY)
    require_format(described, path)
    names = described.get("members")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise InputError(f"model: {path} names no members; copy the model folder from its run again")
    member_folders = [folder / name for name in names]
    members = tuple(map(load_model, member_folders))
    first = members[0]
    alike = len({(one.definition, one.model_name, one.patch_dim) for one in members}) == 1
    if not alike or not all(first.task.agrees_with(one.task) for one in members):
        raise InputError(
            f"model: {folder} contains models of different tasks or architectures; copy it from its run again"
        )
    try:
        scaler = OmicsScaler.from_json(described["omics"]) if described.get("omics") else None
    except UNSOUND as error:
        raise damaged(path, error, COPY) from None
    return _predictor(folder, members, members[0].metadata | described, member_folders, scaler)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _predictor(
    folder: Path,
    members: tuple[TrainedModel, ...],
    content: Mapping[str, Any],
    member_folders: Sequence[Path],
    scaler: OmicsScaler | None,
) -> Predictor:
    try:
        metadata = _with_stain_target(ModelMetadata(**content), folder)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"model: {folder} lacks metadata that prediction needs ({where}: {problem['msg']}); give the folder in models/ of a "
            "finished run"
        ) from None
    except UNSOUND as error:
        raise damaged(folder, error, COPY) from None
    first = members[0]
    reads_slides = MODELS[first.model_name].reads_slides
    if metadata.encoder and reads_slides and metadata.encoder.dim != first.patch_dim:
        raise InputError(
            f"model: {folder} reads patch features of {first.patch_dim} values, and its encoder {metadata.encoder.name} computes "
            f"{metadata.encoder.dim}; copy it from its run again"
        )
    reference = _load_reference(folder)
    try:
        _require_width(reference, first.patch_dim if metadata.encoder and reads_slides else None)
        imputer = gene_imputer(reference, scaler)
    except ValueError as error:
        raise damaged(folder / JSON_FILE, error, COPY) from None
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    return Predictor(
        task=first.task_name,
        members=tuple(with_imputer(member, imputer) for member in members),
        metadata=metadata,
        fingerprint=fingerprint([(str(path.relative_to(folder)), file_fingerprint(path)) for path in files]),
        folder=folder,
        member_folders=tuple(member_folders),
        reference=reference,
        reference_scaler=scaler,
    )


def gene_imputer(reference: ReferenceCohort | None, scaler: OmicsScaler | None) -> GeneImputer | None:
    """Return what estimates missing genes by the covariance of a reference cohort; None without genes in it.

    Args:
        reference: the training cohort.
        scaler: the one by which its genes were scaled.

    Raises:
        ValueError: the reference cohort has another number of genes.
    """
    if reference is None or reference.genes is None or scaler is None:
        return None
    space, covariates = reference.genes, set(scaler.groups.get(COVARIATE, ()))
    genes = [position for position, name in enumerate(scaler.features) if name not in covariates]
    if len(space.centre) != len(genes):
        raise ValueError(f"the reference cohort has {count(len(space.centre), 'gene')}, the model {len(genes)}")
    return GeneImputer(
        features=tuple(scaler.features[position] for position in genes),
        centre=scaler.centre[genes],
        scale=scaler.scale[genes],
        keeps_zero=scaler.keeps_zero[genes],
        mean=space.centre.astype(float),
        axes=space.axes,
        variances=space.variances.astype(float),
        residual_variance=space.residual_variance,
    )


def with_imputer(member: TrainedModel, imputer: GeneImputer | None) -> TrainedModel:
    """Return the model with what estimates missing genes; a model without genes stays as it is."""
    return replace(member, scaler=replace(member.scaler, imputer=imputer)) if member.scaler else member


def _with_stain_target(metadata: ModelMetadata, folder: Path) -> ModelMetadata:
    """The metadata with the path of the stain target where the model folder is now."""
    stain = metadata.tiles.stain
    if stain.method == "none" or stain.target is None:
        return metadata
    target = folder.absolute() / stain.target.name
    if stain.target.stem != STAIN_TARGET or not target.is_file():
        raise InputError(
            f"model: {folder} lacks the image to which it normalises the stain, {stain.target.name}; copy the whole folder from "
            "its run again"
        )
    tiles = metadata.tiles.model_copy(update={"stain": stain.model_copy(update={"target": target})})
    return metadata.model_copy(update={"tiles": tiles})


def _load_reference(folder: Path) -> ReferenceCohort | None:
    if has_reference(folder):
        return ReferenceCohort.load(folder)
    log.warning("model: %s contains no %s, so distribution shift is not assessed", folder, JSON_FILE)
    return None


def _require_width(reference: ReferenceCohort | None, width: int | None) -> None:
    """Raise ValueError where the patch features of the reference cohort are not as wide as the model's; None: it reads none."""
    slides = reference.slides if reference else None
    if slides is not None and width is not None and len(slides.centre) != width:
        raise ValueError(
            f"the reference cohort has patch features of {count(len(slides.centre), 'value')}, the model {width}"
        )


def _require_one_recipe(predictors: list[Predictor]) -> None:
    first = predictors[0]
    for other in predictors[1:]:
        for name, value in _recipe(other.metadata).items():
            if value != _recipe(first.metadata)[name]:
                raise InputError(
                    f"--trained: the models for {first.task} and {other.task} were trained with different {name}; give one of "
                    f"them, as in --trained {first.folder}"
                )


def _recipe(metadata: ModelMetadata) -> dict[str, Any]:
    tiles = metadata.tiles.model_dump(exclude={"stain"}) | {"stain": stain_recipe(metadata.tiles.stain)}
    return {"encoder": metadata.encoder, "tiles": tiles, "slide kind": metadata.slide_kind}
