"""Trained models for a new cohort: found, checked against it before anything is computed, and the recipe that they ask for."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.catalogue import MODELS
from models.settings import Settings
from pipeline.bundle import ENSEMBLE, UNSOUND, TrainedModel, load_model, read_json, require_format
from pipeline.config import Config
from preprocessing.cohort import Cohort
from preprocessing.encoder_table import Pooling
from preprocessing.encoders import Encoder
from preprocessing.errors import InputError
from preprocessing.fingerprints import file_fingerprint, fingerprint
from preprocessing.tiles import TileConfig

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


class _Told(BaseModel):
    """A part of a model folder's description; what it does not know it passes over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class EncoderFacts(_Told):
    """What the features were made with."""

    name: str
    weights: str | None
    pooling: Pooling
    precision: Literal["float32", "bfloat16"]
    weights_fingerprint: str
    transform: dict[str, Any]
    dim: int = Field(ge=1)
    fingerprint: str


class Limit(_Told):
    """Of prediction sets: the largest score let in, null for any, from `n` calibration cases."""

    n: int
    threshold: float | None = Field(allow_inf_nan=False)


class Conformal(_Told):
    """How sets of classes are made; see `pipeline.conformal`."""

    coverage: float
    method: str
    thresholds: dict[str, Limit]


class Validated(_Told):
    """The main metric of one pattern of inputs, out of fold."""

    metric: str
    n: int
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class Summary(_Told):
    """What the training run knew of its model."""

    n: int
    validated: dict[str, Validated]
    conformal: Conformal | None


class Facts(_Told):
    """What prediction needs of a model folder besides the model."""

    encoder: EncoderFacts | None
    tiles: TileConfig
    slide_kind: Literal["DX", "all"]
    covariates: tuple[str, ...]
    defining: tuple[str, ...]
    training: Summary


@dataclass(frozen=True)
class Predictor:
    """One task's trained model, or the models of its folds.

    Attributes:
        task: name.
        members: the models; what they tell is averaged.
        facts: of them all.
        fingerprint: of its files.
        folder: where it was found.
    """

    task: str
    members: tuple[TrainedModel, ...]
    facts: Facts
    fingerprint: str
    folder: Path

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
    def classes(self) -> tuple[str, ...]:
        """The task's classes; none for survival."""
        return getattr(self.members[0].task, "classes", ())

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
    path = folder / ENSEMBLE
    if not path.is_file():
        trained = load_model(folder)
        return _predictor(folder, (trained,), trained.facts)
    described = read_json(path)
    require_format(described, path)
    names = described.get("members")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise InputError(f"model: {path} names no members; copy it again from its run")
    members = tuple(load_model(folder / name) for name in names)
    if len({(one.task_name, one.model_name, getattr(one.task, "classes", None), one.patch_dim) for one in members}) > 1:
        raise InputError(f"model: {folder} holds models of different tasks or kinds; copy it again from its run")
    return _predictor(folder, members, members[0].facts | described)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _predictor(folder: Path, members: tuple[TrainedModel, ...], facts: Mapping[str, Any]) -> Predictor:
    try:
        known = Facts(**facts)
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
    return Predictor(own.task_name, members, known, mark, folder)


def _require_one_recipe(predictors: list[Predictor]) -> None:
    first = predictors[0]
    for other in predictors[1:]:
        for name in ("encoder", "tiles", "slide_kind"):
            if getattr(other.facts, name) != getattr(first.facts, name):
                raise InputError(
                    f"--trained: the models for {first.task} and {other.task} were made with different {name}; give one of "
                    f"them, as in --trained {first.folder}"
                )


# --- The recipe -------------------------------------------------------------------------------------------------------


def with_recipe(config: Config, predictors: list[Predictor]) -> Config:
    """The configuration with tiles, encoder and slide kind as the models were trained; what of training alone is said is told.

    Raises:
        InputError: an option that contradicts the model.
    """
    facts = predictors[0].facts
    said = dict(_said(config))
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
    if facts.encoder:
        changed["encoder"] = _encoder(config, facts.encoder)
    return config.model_copy(update=changed)


def _encoder(config: Config, facts: EncoderFacts) -> Any:
    weights = config.encoder.weights or (Path(facts.weights) if facts.weights else None)
    if weights is not None and not weights.exists():
        raise InputError(
            f"encoder: the model was made with {facts.name} and weights of {weights}, which are not here; give them by "
            "--encoder-weights"
        )
    local = config.encoder.name.startswith("local-dir:") and facts.name.startswith("local-dir:")
    name = config.encoder.name if local else facts.name
    changed = {"name": name, "weights": weights, "pooling": facts.pooling, "precision": facts.precision}
    return config.encoder.model_copy(update=changed)


def _said(config: Config) -> Iterator[tuple[str, Any]]:
    """What the user said, by dotted key: flags, files and --set alike."""

    def walk(part: Settings, prefix: str) -> Iterator[tuple[str, Any]]:
        for name in part.model_fields_set:
            value = getattr(part, name)
            if isinstance(value, Settings):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return walk(config, "")


def _refuse_conflicts(said: Mapping[str, Any], predictor: Predictor) -> None:
    facts = predictor.facts
    settled: dict[str, Any] = {f"tiles.{key}": value for key, value in _leaves(facts.tiles)}
    settled |= {"slide_kind": facts.slide_kind, "model": (predictor.model_name,)}
    if facts.encoder:
        settled |= {"encoder.name": facts.encoder.name, "encoder.precision": facts.encoder.precision}
        settled |= {"encoder.pooling": facts.encoder.pooling}
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


def _leaves(part: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Settings):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- The cohort -------------------------------------------------------------------------------------------------------


def check_cohort(predictors: list[Predictor], cohort: Cohort) -> None:
    """Raise InputError where a model has nothing to say about these slides and genes; warn of what has no say."""
    if not predictors:
        return
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


def require_encoder(predictors: list[Predictor], encoder: Encoder) -> None:
    """Raise InputError for an encoder that is not the one that the models' features were made with."""
    known = predictors[0].facts.encoder if predictors else None
    if known is None:
        return
    found = encoder.describe()
    told = {"weights": "weights_fingerprint", "transform": "transform", "pooling": "pooling", "width": "dim"}
    for what, key in told.items():
        if found[key] != getattr(known, key):
            raise InputError(
                f"encoder: {known.name} has other {what} here ({found[key]}) than where the model was trained "
                f"({getattr(known, key)}); give the same ones by --encoder-weights, or train a model with these"
            )
    if encoder.fingerprint != known.fingerprint:
        log.warning(
            "encoder: %s has the model's weights, but another version of timm lays it out otherwise", known.name
        )
