"""The inputs of a run, or of one of its cohorts, checked for what they cannot be before anything is read."""

import os
import re
from collections.abc import Mapping
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from models.settings import Settings
from pipeline.config.option_names import OPTIONS
from pipeline.config.values import split_text
from preprocessing.io.errors import InputError, count, some
from preprocessing.io.files import user_path
from preprocessing.slides.names import SUFFIXES, foreign_address, unusable_name
from preprocessing.tables.identity import identity_scheme

_SEEN_FILES = 10_000
_TABLE = re.compile(r"^(?!manifest|annotations).*\.(tsv|csv|txt|xlsx|counts)(\.gz)?$", re.IGNORECASE)
_JOIN_GDC = (
    ". Of the GDC's files, each of which has one sample, with their sample sheet, in Python: import pandas; sheet = "
    'pandas.read_table("gdc_sample_sheet.tsv"); pandas.concat({sample: pandas.read_table(f"FOLDER/{folder}/{file}", comment="#", '
    'index_col=[0, 1])["tpm_unstranded"] for folder, file, sample in zip(sheet["File ID"], sheet["File Name"], '
    'sheet["Sample ID"])}, axis=1).to_csv("genes.csv")'
)
_READ_BY_THEMSELVES = frozenset({"slides", "genes"})  # by validators of their own: none, several slides, swapped inputs


def read_slides(value: Any) -> Any:
    """Return SLIDES as a path, a tuple of several paths, or None for "none"; `~` is the home folder.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if isinstance(value, str) and set("*?[") & set(value) and not Path(value).exists():
        pattern, value = (
            value,
            sorted(glob(str(user_path(value)), recursive=True)),
        )  # in quotes, no shell has expanded it
        if not value:
            raise InputError(f"slides: no file matches {pattern}; give a folder, a slide or a manifest CSV")
    if isinstance(value, list | tuple):
        paths = tuple(read_slides(one) for one in value)
        return paths if len(paths) != 1 else paths[0]
    return read_path(value, "slides")


def read_path(value: Any, name: str) -> Any:
    """Return a path of the user, or None for "none"; `~` is the home folder.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if value is None or str(value).lower() == "none":
        return None
    if not str(value).strip():
        raise InputError(f"{name}: the path is empty; give a path, or none")
    if isinstance(value, str) and (problem := foreign_address(value)):
        raise InputError(f"{name}: {problem}")
    return user_path(value) if isinstance(value, str | Path) else value


def read_further_table(text: str) -> str:
    """Return `FILE` or `FILE:KIND` with the home folder for `~`.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    if problem := foreign_address(text):
        raise InputError(f"--omics: {problem}")
    return str(user_path(text))


def read_store(value: Any) -> Any:
    """Return the folder or URL of a store as text.

    Raises:
        InputError: a path of Windows, or a web page, which nothing can be written to.
    """
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and text.lower().startswith(("http://", "https://", "ftp://")):
        raise InputError(
            f"--store: {text} cannot be written to; give a folder, or an object store (s3://, gs://, az://)"
        )
    if isinstance(text, str) and "://" not in text and (problem := foreign_address(text)):
        raise InputError(f"--store: {problem}")
    return text


def read_paths(values: Mapping[str, Any], root: type[BaseModel], *, prefix: str = "") -> dict[str, Any]:
    """Return the values of a configuration with every path read by `read_path`, those of nested settings too.

    Args:
        values: as the user gave them, by key.
        root: the class of the configuration, whose annotations say which values are paths.
        prefix: dotted key of the class in the configuration of the run.

    Raises:
        InputError: an address that is not on a disk of this machine.
    """
    return {key: _with_paths(value, root.model_fields.get(key), f"{prefix}{key}") for key, value in values.items()}


def _with_paths(value: Any, field: FieldInfo | None, key: str) -> Any:
    annotation = field.annotation if field else None
    if isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return read_paths(value, annotation, prefix=f"{key}.")
    if not isinstance(value, str) or Path not in get_args(annotation) or key in _READ_BY_THEMSELVES:
        return value
    if key == "out" and "://" in value:
        raise InputError(
            f"--out: {value} is not on a disk; a run folder is a local one, only --store may be an object store"
        )
    return read_path(value, OPTIONS.get(key, key))


def require_table(genes: Path) -> None:
    """Raise InputError where GENES is a folder or a slide: then SLIDES and GENES are probably swapped."""
    if tables := _tables_in(genes):
        raise InputError(
            f"GENES {genes} is a folder with {count(len(tables), 'table')} ({some(tables)}), but one table is expected; join "
            "them: a row per gene, and a column per sample under its id"
            + (_JOIN_GDC.replace("FOLDER", str(genes)) if any("star_gene_counts" in name for name in tables) else "")
        )
    what = "a folder" if genes.is_dir() else "a slide" if _is_slide(genes) else None
    if what:
        raise InputError(
            f"GENES {genes} is {what}, but a table is expected: are SLIDES and GENES swapped, or is GENES missing? Usage: "
            "run_pipeline SLIDES GENES; none stands for a missing one"
        )


def _tables_in(folder: Path) -> list[str]:
    """Names of the tables in a folder and in its folders, as the GDC's client fills it; empty where it has a slide."""
    names = (Path(name) for _, _, files in os.walk(folder) for name in files) if folder.is_dir() else ()
    seen = list(islice(names, _SEEN_FILES))
    return [] if any(map(_is_slide, seen)) else sorted(name.name for name in seen if _TABLE.search(name.name))


def _is_slide(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or unusable_name(path.name) is not None


class InputSettings(Settings):
    """Slides and tables of a run, or of one of its cohorts, and where their layout leaves a choice."""

    slides: Path | tuple[Path, ...] | None = Field(description="folder, slides or manifest; none: genes only")
    genes: Path | None = Field(description="gene table; none: slides only")
    clinical: Path | None = Field(None, description="table of labels by case; default: label columns of the gene table")
    further_tables: tuple[str, ...] = Field((), description="more molecular tables, FILE or FILE:KIND")
    id_column: str | None = Field(None, description="column of case ids in the tables; default: recognised")
    genes_in: Literal["rows", "columns"] | None = Field(
        None, description="side of the genes in the gene tables: rows or columns; default: recognised"
    )
    case_pattern: str | None = Field(
        None,
        description="regular expression that finds the case in ids of slides, samples and tables (group 1, if there is one), as "
        "(\\w+-\\d+); default: TCGA, GLASS, TARGET and CPTAC barcodes, else the whole id",
    )
    site_column: str | None = Field(None, description="column of sites for split_by: site; default: recognised")

    @field_validator("slides", "genes", "clinical", mode="before")
    @classmethod
    def _paths(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        return read_slides(value) if name == "slides" else read_path(value, OPTIONS.get(name, name))

    @field_validator("genes")
    @classmethod
    def _is_table(cls, value: Path | None) -> Path | None:
        if value is not None:
            require_table(value)
        return value

    @field_validator("further_tables", mode="before")
    @classmethod
    def _further_tables(cls, value: Any) -> Any:
        return tuple(map(read_further_table, split_text(value)))

    @field_validator("case_pattern")
    @classmethod
    def _case_pattern(cls, value: str | None) -> str | None:
        identity_scheme(value)
        return value
