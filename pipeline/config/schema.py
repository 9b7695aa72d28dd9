"""The configuration of a run: every key with its default, its range and a description."""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from models.catalogue import MODELS
from models.registry import nearest
from pipeline.baselines import BASELINES
from pipeline.cluster.slurm import SlurmConfig
from pipeline.config.candidates import SINGLE_TASK, ModelCandidate, model_candidates, model_settings, require_trainable
from pipeline.config.cohorts import CohortInput, with_cohorts
from pipeline.config.inputs import InputSettings, read_path, read_store
from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.config.values import merge, split_names, split_text, with_task_definitions
from pipeline.tasks import BUILT_IN, KINDS, TaskSpec
from pipeline.tasks.task_names import require_task_name
from preprocessing.case_tables.endpoint_names import ENDPOINTS
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.encoders.config import EncoderConfig, encoder_spec
from preprocessing.io.errors import InputError
from preprocessing.io.files import why_no_file
from preprocessing.omics.config import OmicsConfig
from preprocessing.slide_lists.selection import SlideOptions
from preprocessing.slides.resolution import MPP_RANGE
from preprocessing.tables.identity import IdentityScheme, identity_scheme
from preprocessing.tables.sample_types import parse_sample_types
from preprocessing.tiling.tiles import TileConfig

ALL_CASES = ("all",)  # the value of `explain` for every case
Stage = Literal["tile", "embed", "join", "train"]


class Config(InputSettings):
    """All settings of a run: what decides its result, and where it runs."""

    cohorts: dict[str, CohortInput] = Field(
        {},
        description="two or more cohorts by name, pooled; each with its slides, genes, clinical and further_tables, and where its "
        "tables differ in layout, with id_column, genes_in, case_pattern and site_column",
    )
    sample_types: str = Field(
        "primary",
        description="types of samples that are used, of slides and tables: primary, or several of recurrent, metastatic, "
        "normal, …; all",
    )
    rescale: Literal["none", "cohort", "rank", "matched"] = Field(
        "none",
        description="with trained: map expression to the training cohort by standardising each gene (cohort), by ranks (rank), "
        "or by standardising to training cases with the same proportions of known classes as the new cohort (matched)",
    )
    endpoint: str = Field(
        "OS",
        description="survival endpoint: OS, DSS, PFS, PFI, DFS, DFI, RFS, EFS or MFS; with trained, that of the model unless given",
    )
    covariates: tuple[str, ...] = Field((), description="clinical columns that become an additional gene group")
    cases: Literal["both", "any"] = Field(
        "both", description="both: a case needs slides and genes; any: either is enough"
    )
    tumour: Literal["glioma", "other"] | None = Field(
        None,
        description="glioma: apply the WHO 2021 diagnoses and the rules on features that define them; other: apply neither; "
        "default: recognised in the tables",
    )
    defining_features: Path | None = Field(
        None, description="CSV file of molecular features that define a label: feature, and optionally reason and task"
    )
    allow_defining_features: bool = Field(False, description="let features that define a label predict it")
    gene_sets: Path | None = Field(
        None, description="gene sets, CSV with a column per set or GMT; default: groups of co-expressed genes"
    )
    tumour_genes: tuple[str, ...] = Field(
        (),
        description="model subspace: tumour gene sets by name, or files of gene names; default: by the names of sets",
    )
    microenvironment_genes: tuple[str, ...] = Field(
        (), description="model subspace: microenvironment gene sets by name, or files of gene names; default: by name"
    )
    splits: Path | None = Field(None, description="folder of predefined folds, splits_0.csv, splits_1.csv, …")
    out: Path | None = Field(None, description="run folder; default: a new one under runs/")
    store: str = Field(
        "features.zarr", description="feature store: a folder, or a URL such as s3://bucket/features.zarr"
    )

    preset: tuple[str, ...] = Field((), description="named groups of settings; later ones override earlier ones")
    task: list[str] = Field(
        [],
        description="tasks to learn, by name, or as NAME=COLUMN[:KIND]; default: those of survival, grade and subtype that have "
        "labels, and those of the key tasks",
    )
    tasks: dict[str, TaskSpec] = Field({}, description="tasks of your own, by name: their columns, kind and classes")
    model: tuple[str, ...] = Field(
        ("umeml",), min_length=1, description="models; the first is exported, the others are comparators"
    )
    slide_kind: Literal["DX", "all"] = Field(
        "DX", description="DX: of TCGA slides only diagnostic ones; all: every slide"
    )
    default_mpp: float | None = Field(
        None, ge=MPP_RANGE[0], le=MPP_RANGE[1], description="fallback µm/px for slides without resolution metadata"
    )
    trust_manifest_mpp: bool = Field(
        False, description="the mpp column of the manifest overrides the metadata of slides"
    )
    slide_hash: Literal["sampled", "full"] = Field(
        "sampled",
        description="bytes by which an unchanged slide is recognised: its length and 32 samples of 16 KiB, or all of them",
    )
    max_upsample: float = Field(
        1.25,
        ge=1,
        le=16,
        description="largest factor by which slides coarser than the tiles are enlarged",
    )
    split_by: tuple[str, ...] = Field(
        ("case",),
        min_length=1,
        description="fold schemes; case keeps each case in one fold, site each tissue source site, and the name of a column "
        "(scanner, batch, hospital) all cases with the same value; with several cohorts, cohort leaves each out once, and "
        "cohort-pairs trains on each one and tests on each other; predictions.csv has the first scheme",
    )
    baselines: Literal["all", "none"] = Field("all", description="baselines trained on the same folds: all or none")
    folds: int = Field(5, ge=2, le=50, description="number of cross-validation folds")
    seed: int = Field(0, ge=0, description="seed of all random numbers")
    bootstrap: int = Field(1000, ge=0, description="number of bootstrap resamples for each confidence interval")

    trained: Path | None = Field(
        None, description="a model folder, or the models folder of a run: predict with it instead of training"
    )
    max_missing_genes: float = Field(
        0.5,
        ge=0,
        le=1,
        description="a gene group of a trained model counts as absent if more than this share is missing",
    )
    explain: int | tuple[str, ...] = Field(
        1,
        description="cases whose predictions are explained: a number of each kind (such as most certain), case ids, or all; 0: "
        "none",
    )

    until: Stage = Field("train", description="last stage: tile, embed, join or train")
    dry_run: bool = Field(False, description="check the input and estimate the work; compute nothing")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of encoder and models")
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="GPUs to use, by number as in nvidia-smi; default: all that are visible"
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="worker processes; 0: work in this process; default: one per core, or one per GPU (in training, folds_per_gpu)",
    )
    scheduler: str | None = Field(None, description="address of a running Dask scheduler whose workers are used")
    track: Literal["none", "tensorboard", "mlflow"] = Field(
        "none",
        description="log settings, losses and metrics of the run with TensorBoard or MLflow, which must be installed",
    )
    slide_minutes: float = Field(
        720,
        gt=0,
        description="time limit per slide, or per part of one: the worker is ended and the slide fails (not with workers: 0)",
    )
    cluster: Literal["slurm"] | None = Field(None, description="submit jobs to this batch system, see slurm")
    slurm: SlurmConfig = SlurmConfig()
    gpu_tiles: int = Field(128, ge=1, description="tiles per batch on a GPU; halved when GPU memory runs out")
    folds_per_gpu: int | None = Field(
        None,
        ge=1,
        description="folds that train at once on a GPU; default: as many as have 8 GiB of its memory and a core, at most 8",
    )

    tiles: TileConfig = TileConfig()
    encoder: EncoderConfig = EncoderConfig()
    omics: OmicsConfig = OmicsConfig()
    train: TrainConfig = TrainConfig()
    models: dict[str, dict[str, Any]] = Field(
        {}, validate_default=True, description="settings of each model, by its name"
    )
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="comparators, each with a name of your choice: the first model with these settings changed"
    )

    @model_validator(mode="before")
    @classmethod
    def _over_presets(cls, values: dict[str, Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name in split_names(values.get("preset")):
            merged = merge(merged, PRESETS[name].values)
        return with_task_definitions(with_cohorts(merge(merged, values)))

    @field_validator("gene_sets", "splits", "trained", mode="before")
    @classmethod
    def _on_disk(cls, value: Any, info: ValidationInfo) -> Any:
        return read_path(value, f"--{str(info.field_name).replace('_', '-')}")

    @field_validator("store", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return read_store(value)

    @field_validator("covariates", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return split_text(value)

    @field_validator("tumour_genes", "microenvironment_genes", mode="before")
    @classmethod
    def _listed_genes(cls, value: Any) -> Any:
        """Split at semicolons where there are any, since names of gene sets may contain commas."""
        names = split_text(value, separator=";" if ";" in str(value) else ",")
        return [os.path.expanduser(name) for name in names]

    @field_validator("preset", "task", "model", "split_by", mode="before")
    @classmethod
    def _listed_once(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(split_names(value)))

    @field_validator("gpus", mode="before")
    @classmethod
    def _listed_gpus(cls, value: Any) -> Any:
        """Read a number or a text such as 0,1."""
        return value if value is None or isinstance(value, list | tuple) else str(value).split(",")

    @field_validator("explain", mode="before")
    @classmethod
    def _cases(cls, value: Any) -> Any:
        """Read a number, all, or ids of cases, samples or slides."""
        if str(value).strip().lower() == "all":
            return ALL_CASES
        if isinstance(value, int) or re.fullmatch(r"\s*-?\d+\s*", str(value)):
            return int(value)
        return tuple(dict.fromkeys(split_names(value)))

    @field_validator("explain")
    @classmethod
    def _not_negative(cls, value: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if isinstance(value, int) and value < 0:
            raise ValueError("give the number of cases of each kind, 0 for none, or case ids")
        return value

    @field_validator("tasks")
    @classmethod
    def _tasks(cls, value: dict[str, TaskSpec]) -> dict[str, TaskSpec]:
        for name, spec in value.items():
            require_task_name(name)
            if spec.kind is not None:
                KINDS[spec.kind]
        return value

    @model_validator(mode="after")
    def _known_tasks(self) -> "Config":
        if self.trained is None and (unknown := [name for name in self.task if name not in self.task_specs()]):
            raise InputError(
                f'unknown task "{unknown[0]}": {nearest(unknown[0], self.task_specs())}; a task of your own is --task '
                f"{unknown[0]}=COLUMN"
            )
        return self

    def task_specs(self) -> dict[str, TaskSpec]:
        """Return the definitions of all tasks, built-in ones first."""
        return {**BUILT_IN, **self.tasks}

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
            name: model_settings(name, value.get(name, {}), key=f"models.{name}").model_dump(mode="json")
            for name in MODELS
        }

    @field_validator("encoder")
    @classmethod
    def _encoder(cls, value: EncoderConfig) -> EncoderConfig:
        encoder_spec(value.name)
        if value.weights is not None and not value.weights.is_dir() and (problem := why_no_file(value.weights)):
            raise InputError(f"--encoder-weights {value.weights}: the path {problem}; give a file or folder")
        return value

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if value.upper() not in ENDPOINTS:
            raise InputError(f"--endpoint {value}: {nearest(value.upper(), ENDPOINTS)}")
        return value.upper()

    @field_validator("sample_types", mode="before")
    @classmethod
    def _sample_types(cls, value: Any) -> str:
        return ",".join(sorted(parse_sample_types(",".join(split_names(value)))))

    def for_cohort(self, name: str) -> "Config":
        """Return the configuration of one of several cohorts by itself; what the cohort lacks is that of the run."""
        given = {key: getattr(self.cohorts[name], key) for key in InputSettings.model_fields}
        return self.model_copy(
            update={"cohorts": {}} | {key: value for key, value in given.items() if value is not None}
        )

    def table_options(self, named: Iterable[str] = (), tasks: Iterable[str] = ()) -> TableOptions:
        """Return how the tables of the run are read.

        Args:
            named: columns that trained models name; none of them is a gene.
            tasks: of trained models.
        """
        groups = [name for name in self.split_by if name != "case"]
        of_run = [*self.covariates, *groups, *([self.site_column] if self.site_column else [])]
        return TableOptions(
            id_column=self.id_column,
            genes_in=self.genes_in,
            sample_types=parse_sample_types(self.sample_types),
            ignore=self.omics.ignore,
            keep=self.omics.keep,
            endpoint=self.endpoint,
            tumour=self.tumour,
            labels=tuple(dict.fromkeys(column for spec in self.tasks.values() for column in spec.column)),
            named=tuple(dict.fromkeys([*of_run, *named])),
            tasks=frozenset([*self.task, *tasks, *self.covariates, *named]) if self.task or tasks else None,
        )

    def identity_scheme(self) -> IdentityScheme:
        """Return how ids of slides, samples and tables are spelt."""
        return identity_scheme(self.case_pattern, site_column=self.site_column)

    @field_validator("tiles")
    @classmethod
    def _tiles(cls, value: TileConfig) -> TileConfig:
        masks, target = value.tissue.masks, value.stain.target
        if target is not None and not target.is_file():
            raise InputError(f"--set tiles.stain.target={target}: it is not a file; give an image of stained tissue")
        if masks is not None and not masks.is_dir():
            raise InputError(
                f"--tissue-masks {masks}: it is not a folder; give one with SLIDE_ID.geojson, .png or .tif"
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
            if name in {*self.model, *BASELINES, SINGLE_TASK}:
                raise InputError(
                    f'configuration: variants: "{name}" is the name of a model or baseline; choose another name'
                )
            if not re.fullmatch(r"\w[\w .,+=-]*", name):
                raise InputError(
                    f'configuration: variants: "{name}" must be usable as a folder name: letters, digits, spaces and . , + = - _'
                )
        inputs: list[InputSettings] = [*self.cohorts.values()] or [self]
        for candidate in self.candidates():
            require_trainable(
                candidate,
                has_slides=any(one.slides for one in inputs),
                has_genes=any(one.genes or one.further_tables for one in inputs),
                batch_cases=self.train.batch_cases,
            )
        return self

    def slide_options(self, *, masks: Path | None) -> SlideOptions:
        """Return what is requested of slides, with the folder of masks as this process sees it."""
        return SlideOptions(
            kind=self.slide_kind,
            sample_types=parse_sample_types(self.sample_types),
            default_mpp=self.default_mpp,
            trust_manifest_mpp=self.trust_manifest_mpp,
            tile_mpp=self.tiles.mpp,
            max_upsample=self.max_upsample,
            masks=masks,
            hashed=self.slide_hash,
        )

    def candidates(self) -> tuple[ModelCandidate, ...]:
        """Return the model, and after it its comparators: further models, variants of the first, and its single-task training."""
        candidates = model_candidates(self.model, self.models, self.variants)
        if not self.train.joint:
            return candidates
        alone = [replace(candidates[0], name=SINGLE_TASK)] if self.baselines == "all" else []
        return (*(replace(one, joint=True) for one in candidates), *alone)
