"""The configuration of a run: defaults < presets < `--config FILE` < flags < `--set`; resolved, it is saved with the run."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from models.catalogue import MODELS
from models.registry import UnknownNameError, nearest
from models.settings import ModelSettings, Settings
from pipeline.cluster.slurm import SlurmConfig
from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.tasks import TASKS
from preprocessing.features.encoders import EncoderConfig, encoder_spec
from preprocessing.io.errors import InputError
from preprocessing.io.files import read_text, why_no_file
from preprocessing.omics.config import OmicsConfig
from preprocessing.slides.resolution import MPP_RANGE
from preprocessing.tables.case_ids import case_of
from preprocessing.tiling.tiles import TileConfig

Stage = Literal["tile", "embed", "join", "train"]
BASELINES = {  # by their names in the reports, as the tables call them
    "clinical": "clinical model",
    "genes": "ridge on genes",
    "slides": "MIL on slides",
    "late fusion": "late fusion",
}


@dataclass(frozen=True)
class Contender:
    """A model with its settings that is trained on every fold.

    Attributes:
        name: what reports, tables and folders call it.
        model: its name in the registry.
        settings: the model's configuration.
    """

    name: str
    model: str
    settings: ModelSettings


class Config(Settings):
    """Everything that a run depends on, and where it runs."""

    slides: Path | None = Field(description="folder, slide or manifest; none: genes alone")
    genes: Path | None = Field(description="gene table; none: slides alone")
    clinical: Path | None = None
    further_tables: tuple[str, ...] = Field((), description="more molecular tables, FILE or FILE:KIND")
    covariates: tuple[str, ...] = Field((), description="clinical columns that become one more gene group")
    cases: Literal["both", "any"] = Field("both", description="whether a case needs slides and genes, or either")
    allow_defining_features: bool = Field(False, description="use features that define the label to predict it")
    gene_sets: Path | None = None
    tumour_genes: tuple[str, ...] = Field((), description="gene sets by name, or files of gene names; see subspaces.py")
    microenvironment_genes: tuple[str, ...] = Field((), description="likewise; empty, both: by the names of the sets")
    splits: Path | None = None
    out: Path | None = None
    store: str = Field(
        "features.zarr", description="feature store: a folder, or a URL such as s3://bucket/features.zarr"
    )

    preset: tuple[str, ...] = Field((), description="settings by name, a later one over an earlier one")
    task: list[str] = Field([], description="empty: every task whose labels are there")
    model: tuple[str, ...] = Field(("umeml",), min_length=1, description="the model, and further ones as its rivals")
    slide_kind: Literal["DX", "all"] = "DX"
    default_mpp: float | None = Field(None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    split_by: tuple[Literal["case", "site"], ...] = Field(
        ("case",),
        min_length=1,
        description="site: a tissue source site stays in one fold; the first makes predictions.csv",
    )
    baselines: Literal["all", "none"] = "all"
    folds: int = Field(5, ge=2, le=50)
    seed: int = Field(0, ge=0)
    bootstrap: int = Field(1000, ge=0, description="resamples behind each interval")

    trained: Path | None = Field(None, description="a trained model, or a run's models: predict with it, train nothing")
    max_missing_genes: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of a trained model's gene group: with more of it missing, a case counts as without it",
    )
    explain: int | tuple[str, ...] = Field(
        1, description="cases whose predictions are explained: so many of each kind, or these; 0: none"
    )

    until: Stage = "train"
    dry_run: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(
        None, ge=0, description="processes; 0 works in this process; default: one a core or GPU"
    )
    scheduler: str | None = Field(None, description="address of a Dask scheduler whose workers are to be used")
    slide_minutes: float = Field(
        720,
        gt=0,
        description="a worker that takes longer over a slide, or its share of one, is ended; the slide fails (not with workers: 0)",
    )
    cluster: Literal["slurm"] | None = Field(None, description="submit jobs whose workers are used; see slurm")
    slurm: SlurmConfig = SlurmConfig()
    gpu_tiles: int = Field(128, ge=1, description="tiles sent to a GPU at once; less where its memory is short")

    tiles: TileConfig = TileConfig()
    encoder: EncoderConfig = EncoderConfig()
    omics: OmicsConfig = OmicsConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, dict[str, Any]] = Field(
        {}, validate_default=True, description="settings of each model, by its name"
    )
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="rivals of the first model: settings of it that differ, by a name for them"
    )

    @model_validator(mode="before")
    @classmethod
    def _over_presets(cls, values: dict[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name in _names(values.get("preset")):
            merged = _merged(merged, PRESETS[name].values)
        return _merged(merged, values)

    @field_validator("slides", "genes", mode="before")
    @classmethod
    def _or_none(cls, value: Any) -> Any:
        return None if str(value).lower() == "none" else value

    @field_validator("store", mode="before")
    @classmethod
    def _place(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("covariates", "further_tables", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _names_in_text(value)

    @field_validator("tumour_genes", "microenvironment_genes", mode="before")
    @classmethod
    def _listed_genes(cls, value: Any) -> Any:
        """Names of gene sets may hold commas: where there is a semicolon, it separates."""
        return _names_in_text(value, separator=";" if ";" in str(value) else ",")

    @field_validator("preset", "task", "model", "split_by", mode="before")
    @classmethod
    def _listed_once(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(_names(value)))

    @field_validator("explain", mode="before")
    @classmethod
    def _cases(cls, value: Any) -> Any:
        """A number; or case ids, of which barcodes may go on behind the case."""
        if isinstance(value, int) or str(value).strip().isdecimal():
            return int(value)
        return tuple(dict.fromkeys(case_of(name) for name in _names(value)))

    @field_validator("explain")
    @classmethod
    def _not_negative(cls, value: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if isinstance(value, int) and value < 0:
            raise ValueError("give the number of cases of each kind, 0 for none, or case ids")
        return value

    @field_validator("task")
    @classmethod
    def _tasks(cls, value: list[str]) -> list[str]:
        for name in value:
            TASKS[name]
        return value

    @field_validator("model")
    @classmethod
    def _models(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            MODELS[name]
        return value

    @field_validator("models")
    @classmethod
    def _model_settings(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in value:
            MODELS[name]
        return {
            name: _settings(name, value.get(name, {}), key=f"models.{name}").model_dump(mode="json") for name in MODELS
        }

    @field_validator("encoder")
    @classmethod
    def _encoder(cls, value: EncoderConfig) -> EncoderConfig:
        encoder_spec(value.name)
        if value.weights is not None and not value.weights.is_dir() and (problem := why_no_file(value.weights)):
            raise InputError(
                f"encoder: weights {value.weights}: the path {problem}; give a file or folder with --encoder-weights"
            )
        return value

    @field_validator("tiles")
    @classmethod
    def _tiles(cls, value: TileConfig) -> TileConfig:
        masks, target = value.tissue.masks, value.stain.target
        if target is not None and not target.is_file():
            raise InputError(f"tiles.stain.target: {target} is no file; give an image of stained tissue")
        if masks is not None and not masks.is_dir():
            raise InputError(
                f"tissue masks: {masks} is no folder; give one with SLIDE_ID.geojson, .png or .tif by --tissue-masks"
            )
        return value

    @model_validator(mode="after")
    def _one_cluster(self) -> "Config":
        if self.cluster and self.scheduler:
            raise InputError(f"--cluster {self.cluster} and --scheduler {self.scheduler}: give one of them")
        return self

    @model_validator(mode="after")
    def _variants(self) -> "Config":
        for name in self.variants:
            if name in {*self.model, *BASELINES}:
                raise InputError(f'configuration: variants: "{name}" is taken; call the variant something else')
            if not re.fullmatch(r"\w[\w .,+=-]*", name):
                raise InputError(
                    f'configuration: variants: "{name}" names a folder too; use letters, digits, spaces and . , + = - _'
                )
        for contender in self.contenders():
            self._check(contender)
        return self

    def for_device(self, device: str) -> "Config":
        """The same, as it is done on this device: with the precision that it computes in."""
        return self.model_copy(update={"encoder": self.encoder.settled(device)})

    def for_other_machines(self) -> "Config":
        """The same, with places that mean the same in another working directory."""
        store = self.store if "://" in self.store else str(Path(self.store).expanduser().absolute())
        slides, out = (path and path.absolute() for path in (self.slides, self.out))
        tissue, encoder = self.tiles.tissue, self.encoder
        tissue = tissue.model_copy(update={"masks": tissue.masks and tissue.masks.absolute()})
        kind, colon, folder = encoder.name.partition("local-dir:")
        name = f"{kind}{colon}{Path(folder).absolute()}" if colon else encoder.name
        encoder = encoder.model_copy(update={"name": name, "weights": encoder.weights and encoder.weights.absolute()})
        stain = self.tiles.stain
        stain = stain.model_copy(update={"target": stain.target and stain.target.absolute()})
        tiles = self.tiles.model_copy(update={"tissue": tissue, "stain": stain})
        changed = {"store": store, "slides": slides, "out": out, "tiles": tiles, "encoder": encoder}
        return self.model_copy(update=changed)

    def read_by_workers(self) -> list[Path]:
        """What workers read besides slides: masks, an image of the stain, and the encoder's weights."""
        _, colon, folder = self.encoder.name.partition("local-dir:")
        paths = [
            self.tiles.tissue.masks,
            self.tiles.stain.target,
            self.encoder.weights,
            Path(folder) if colon else None,
        ]
        return [path for path in paths if path is not None]

    def _check(self, contender: "Contender") -> None:
        """Raise InputError where a contender cannot be trained on what is given."""
        model, no_genes = MODELS[contender.model], self.genes is None and not self.further_tables
        if self.slides is None and not model.reads_genes:
            raise InputError(f"--model {contender.model} looks at slides only, and SLIDES is none: give slides")
        if no_genes and not model.reads_slides:
            raise InputError(f"--model {contender.model} looks at genes only, and GENES is none: give a gene table")
        if no_genes and model.subspaces:
            raise InputError(
                f"--model {contender.model} is led by the genes of {' and '.join(model.subspaces)}, and GENES is none: "
                "give a gene table"
            )
        cases, least = self.train.batch_cases, contender.settings.least_cases
        if cases is not None and cases < least:
            raise InputError(
                f"train.batch_cases = {cases}: {contender.name} compares the cases of a training step with each other and "
                f"needs {least}; give more with --set train.batch_cases=8, or see the settings under models.{contender.model}"
            )

    def contenders(self) -> tuple[Contender, ...]:
        """The model, and behind it its rivals: the further models, and the variants of the first."""
        first = self.model[0]
        models = [
            Contender(name, name, _settings(name, self.models[name], key=f"models.{name}")) for name in self.model
        ]
        variants = [
            Contender(name, first, _settings(first, self.models[first] | changed, key=f"variants.{name}"))
            for name, changed in self.variants.items()
        ]
        return (*models, *variants)


# Keys that say what is trained on a fold, and which groups of genes it is shown: a job holds its own.
CONTENDERS = {"model", "models", "variants", "tumour_genes", "microenvironment_genes"}
# A preset is but a name for values, which stand in the configuration themselves.
WHERE_NOT_WHAT = {
    *("out", "store", "until", "dry_run", "device", "workers", "scheduler", "cluster", "slurm", "slide_minutes"),
    *("gpu_tiles", "preset"),
    "explain",  # looks at what was decided
}


def identity(config: Config) -> dict[str, Any]:
    """What decides the result: the configuration less where and how far the run goes."""
    return config.model_dump(mode="json", exclude=WHERE_NOT_WHAT)


def load_config(flags: Mapping[str, Any], *, file: Path | None = None, sets: Iterable[str] = ()) -> Config:
    """The resolved configuration.

    Args:
        flags: values by dotted key ("tiles.mpp"), from the command line.
        file: a YAML file of the same keys, nested.
        sets: `key=value` texts, the value in YAML.

    Raises:
        InputError: an unknown key, with the nearest known one, or a value that does not fit.
    """
    values = _read_yaml(file) if file else {}
    for key, value in flags.items():
        _put(values, key, value)
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: give it as key=value, as in --set train.epochs=10")
        _put(values, key.strip(), _read_value(text, value))
    try:
        return Config(**values)
    except ValidationError as error:
        raise InputError("\n".join(_explain(problem) for problem in error.errors())) from None


def _names(value: Any) -> tuple[str, ...]:
    """Of a text with commas, or of a list of such texts."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(name for item in items for name in _names_in_text(item))


def _names_in_text(value: Any, *, separator: str = ",") -> tuple[str, ...]:
    """Of a text with commas; what is a list already is taken as it is, for names of files and of gene sets may hold commas."""
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    return tuple(name.strip() for name in str(value or "").split(separator) if name.strip())


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Both, nested; where both have a value, the one of `high`."""
    return {**low, **high} | {
        key: _merged(low[key], high[key])
        for key in low.keys() & high.keys()
        if isinstance(low[key], dict) and isinstance(high[key], dict)
    }


def _settings(model: str, values: Mapping[str, Any], *, key: str) -> ModelSettings:
    """A model's configuration; errors call it by its key in the run's."""
    try:
        return MODELS[model].Config(**values)
    except ValidationError as error:
        messages = [_explain(problem, MODELS[model].Config, key) for problem in error.errors()]
        raise InputError("\n".join(messages)) from None


def _read_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: the value is not YAML; quote what YAML takes for its own signs") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    if problem := why_no_file(file):
        raise InputError(f"--config {file} {problem}")
    try:
        values = yaml.safe_load(read_text(file)) or {}
    except yaml.YAMLError as error:
        raise InputError(f"--config {file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {file}: expected keys and values, found {type(values).__name__}")
    return values


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f'configuration: "{dotted}": "{parent}" has no parts')
    values[last] = value


def _explain(problem: Any, root: type[BaseModel] = Config, prefix: str = "") -> str:
    where = [str(part) for part in problem["loc"]]
    key = ".".join([prefix, *where] if prefix else where)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f'configuration: unknown key "{key}": {nearest(where[-1], _known_keys(root, where[:-1]))}'
    if problem["type"] == "missing":
        return f"configuration: {key} is not given; usage: run_pipeline SLIDES GENES [options]"
    if problem["type"] == "value_error":
        stands_alone = isinstance(problem["ctx"]["error"], UnknownNameError | InputError)
        return message if stands_alone else f"configuration: {key}: {message}"
    return f"configuration: {key} = {problem['input']!r}: {message}"


def _known_keys(root: type[BaseModel], parents: Iterable[str]) -> list[str]:
    for name in parents:
        annotation = root.model_fields[name].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        root = annotation
    return list(root.model_fields)
