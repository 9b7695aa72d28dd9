"""The configuration of a run: defaults < `--config FILE` < flags < `--set`; resolved, it is saved with the run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from models.catalogue import MODELS
from models.registry import UnknownNameError, nearest
from models.settings import Settings
from pipeline.fit import TrainConfig
from pipeline.tasks import TASKS
from preprocessing.encoders import EncoderConfig, encoder_spec
from preprocessing.errors import InputError
from preprocessing.omics import OmicsConfig
from preprocessing.slides import MPP_RANGE
from preprocessing.tiles import TileConfig

Stage = Literal["tile", "embed", "join", "train"]


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
    splits: Path | None = None
    out: Path | None = None
    store: Path = Path("features.zarr")

    task: list[str] = Field([], description="empty: every task whose labels are there")
    model: str = "umeml"
    slide_kind: Literal["DX", "all"] = "DX"
    default_mpp: float | None = Field(None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    split_by: Literal["case", "site"] = Field("case", description="site: a tissue source site stays in one fold")
    baselines: Literal["all", "none"] = "all"
    folds: int = Field(5, ge=2, le=50)
    seed: int = Field(0, ge=0)
    bootstrap: int = Field(1000, ge=0, description="resamples behind each interval")

    until: Stage = "train"
    dry_run: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(
        None, ge=0, description="processes; 0 works in this process; default: one a core or GPU"
    )
    batch_tiles: int = Field(32, ge=1, description="tiles embedded at once")

    tiles: TileConfig = TileConfig()
    encoder: EncoderConfig = EncoderConfig()
    omics: OmicsConfig = OmicsConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, dict[str, Any]] = Field(
        {}, validate_default=True, description="settings of each model, by its name"
    )

    @field_validator("slides", "genes", mode="before")
    @classmethod
    def _or_none(cls, value: Any) -> Any:
        return None if str(value).lower() == "none" else value

    @field_validator("covariates", "further_tables", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str) else value or []
        return tuple(name.strip() for item in items for name in str(item).split(",") if name.strip())

    @field_validator("task", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str) else value or []
        names = [name.strip() for item in items for name in str(item).split(",")]
        for name in names:
            TASKS[name]
        return list(dict.fromkeys(names))

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        MODELS[value]
        return value

    @field_validator("models")
    @classmethod
    def _model_settings(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in value:
            MODELS[name]
        resolved = {}
        for name, model in MODELS.items():
            try:
                resolved[name] = model.Config(**value.get(name, {})).model_dump(mode="json")
            except ValidationError as error:
                messages = [_explain(problem, model.Config, f"models.{name}") for problem in error.errors()]
                raise InputError("\n".join(messages)) from None
        return resolved

    @field_validator("encoder")
    @classmethod
    def _encoder(cls, value: EncoderConfig) -> EncoderConfig:
        encoder_spec(value.name)
        if value.weights is not None and not value.weights.exists():
            raise InputError(
                f"encoder: weights {value.weights} do not exist; give a file or folder with --encoder-weights"
            )
        return value

    def model_settings(self) -> Any:
        """The configuration of the model that is trained."""
        return MODELS[self.model].Config(**self.models[self.model])


WHERE_NOT_WHAT = {"out", "store", "until", "dry_run", "device", "workers", "batch_tiles"}


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


def _read_value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: the value is not YAML; quote what YAML takes for its own signs") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"--config {file} does not exist")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
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
