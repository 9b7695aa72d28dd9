"""Trained models for a new cohort: found, checked against it before anything is computed, and the recipe that they ask for."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.catalogue import MODELS
from models.settings import Settings
from pipeline.bundle import (
    ENSEMBLE,
    STAIN_TARGET,
    UNSOUND,
    TrainedModel,
    load_model,
    read_json,
    require_format,
    require_sums,
)
from pipeline.config import Config
from pipeline.explanation.chosen_cases import require_cases
from pipeline.inference.likeness import ARRAYS_FILE, JSON_FILE, Reference
from preprocessing.cohort import Cohort
from preprocessing.encoder_table import Pooling
from preprocessing.encoders import Encoder
from preprocessing.errors import InputError, some
from preprocessing.fingerprints import file_fingerprint, fingerprint
from preprocessing.omics_scaler import OmicsScaler
from preprocessing.stain import stain_recipe
from preprocessing.stored import StoredRecipe
from preprocessing.tiles import TileConfig

log = logging.getLogger(__name__)
FLAGS = {  # how the command line calls what the model settles
    "tiles.mpp": "--mpp",
    "tiles.tile_px": "--tile-px",
    "encoder.name": "--encoder",
    "slide_kind": "--slide-kind",
    "model": "--model",
}
ENCODER_PARTS = {  # what makes two encoders of one name different ones
    "weights": "weights_fingerprint",
    "transform": "transform",
    "pooling": "pooling",
    "width": "dim",
    "precision": "precision",
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
    """What the features were made with; of features that another tool made, only a name and a width are known."""

    name: str
    dim: int = Field(ge=1)
    fingerprint: str
    imported_from: str | None = None
    weights: str | None = None
    pooling: Pooling | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    weights_fingerprint: str | None = None
    transform: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_all(self) -> "EncoderFacts":
        own = ("pooling", "precision", "weights_fingerprint", "transform")
        if not self.imported_from and (unsaid := [name for name in own if getattr(self, name) is None]):
            raise ValueError(f"the encoder's {unsaid[0]} is not there")
        return self

    def told(self) -> str:
        """One phrase."""
        return f"{self.name}, {self.dim} wide" + (
            f", imported from {self.imported_from} files" if self.imported_from else ""
        )


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


class TrainingCases(_Told):
    """Who they were, as a hash of each id after a salt: enough to know one again, and no list of names."""

    salt: str
    hashes: frozenset[str]


class Summary(_Told):
    """What the training run knew of its model."""

    n: int
    validated: dict[str, Validated]
    conformal: Conformal | None
    cases: TrainingCases | None = None


class Facts(_Told):
    """What prediction needs of a model folder besides the model."""

    encoder: EncoderFacts | None
    tiles: TileConfig
    slide_kind: Literal["DX", "all"]
    covariates: tuple[str, ...]
    defining: tuple[str, ...]
    training: Summary


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
    def classes(self) -> tuple[str, ...]:
        """The task's classes; none for survival."""
        return getattr(self.members[0].task, "classes", ())

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
    if len({(one.task_name, one.model_name, getattr(one.task, "classes", None), one.patch_dim) for one in members}) > 1:
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
    if facts.encoder and not facts.encoder.imported_from:
        changed["encoder"] = _encoder(config, facts.encoder)
    return config.model_copy(update=changed)


def _encoder(config: Config, facts: EncoderFacts) -> Any:
    weights = config.encoder.weights or (Path(facts.weights) if facts.weights else None)
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


def check_cohort(config: Config, predictors: list[Predictor], cohort: Cohort) -> None:
    """Raise InputError where a model has nothing to say about these slides and genes; warn of what has no say."""
    if not predictors:
        return
    require_cases(config.explain, cohort.used_cases())
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
