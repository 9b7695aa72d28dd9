"""Reading the gene table, further molecular tables and the clinical table together: each is evidence for the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from models.registry import nearest
from preprocessing.case_tables.case_rows import Dropped
from preprocessing.case_tables.clinical_table import read_clinical
from preprocessing.case_tables.column_names import is_label, plain_name
from preprocessing.case_tables.gene_names import FEATURE_KINDS, has_suffix, with_suffix
from preprocessing.case_tables.id_columns import Evidence, possible_ids
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.cohort.cohort_inputs import CohortFiles
from preprocessing.cohort.matching import match_cases
from preprocessing.cohort.sample_sheets import read_sample_sheet
from preprocessing.gene_tables.gene_table import GeneTable, read_genes
from preprocessing.io.errors import InputError, count, some
from preprocessing.omics.doubtful_values import doubts
from preprocessing.omics.matrix import OmicsMatrix, concatenate
from preprocessing.omics.value_scale import describe_features, kind_of_values
from preprocessing.tables.containers import XLSX
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.loading import LoadedTable, load_table, sample_table
from preprocessing.tables.reading import read_number

_MEANING = {"mutation": "mutations", "cnv": "copy numbers"}


@dataclass
class Tables:
    """Joined content of the tables.

    Attributes:
        omics: features of all molecular tables, by case.
        annotations: clinical columns by case: of the clinical table, else of the gene table.
        dropped: rows that are not used.
        excluded: cases all of whose samples are of a type that is not used, with the reason.
        notes: what was decided, one sentence each.
        any_genes: whether a molecular table was given.
    """

    omics: OmicsMatrix = field(default_factory=lambda: OmicsMatrix(np.zeros((0, 0)), (), (), ()))
    annotations: pd.DataFrame = field(default_factory=pd.DataFrame)
    dropped: list[Dropped] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    any_genes: bool = False


def load_clinical(path: Path | None, identity: IdentityScheme) -> tuple[LoadedTable | None, IdentityScheme, list[str]]:
    """Return the clinical table as in its file, the identity scheme with the samples that it lists, and a note on them.

    Args:
        path: the table, if there is one.
        identity: of the cohort; a pattern of case ids takes the place of a sample sheet.
    """
    if path is None:
        return None, identity, []
    loaded = load_table(path)
    sheet = None if identity.by_pattern else read_sample_sheet(sample_table(path, loaded), identity)
    if sheet is None:
        return loaded, identity, []
    return loaded, identity.with_samples(sheet.samples), [f"{path.name}: {sheet.describe()}"]


def read_tables(
    files: CohortFiles, slides: Evidence, options: TableOptions, *, clinic: LoadedTable | None = None
) -> Tables:
    """Return the content of all tables, joined by case.

    Args:
        files: the gene table, further molecular tables and the clinical table.
        slides: cases of the slides, and what else is known before any table is read.
        options: of the user.
        clinic: the clinical table as `load_clinical` returns it.
    """
    genes, clinical = files.genes, files.clinical
    tables, matrices = Tables(), list[OmicsMatrix]()
    hints = frozenset[str]()
    if clinical is not None and clinic is not None:
        hints = possible_ids(sample_table(clinical, clinic), slides.identity)
    if genes is not None:
        # The columns that the run names are in the clinical table, if there is one: a gene of that name is a gene.
        of_genes = options if clinical is None else replace(options, labels=(), named=())
        table = read_genes(genes, replace(slides, hints=hints), of_genes)
        matrices.append(_matrix_of(table, None, slides, path=genes))
        tables.annotations = table.annotations
        _add_molecular(tables, matrices[-1], table, prefix="")
    paths = list[Path]()
    for text in files.further_tables:
        path, kind = further_table(text)
        paths.append(path)
        cases = frozenset(matrices[0].case_ids) if matrices else slides.cases
        table = read_genes(path, replace(slides, cases=cases, hints=hints), options)
        if matrices:
            names = _names_of_genes(matrices[0], table.values.index, path.name, slides.identity, tables.notes)
            table.values.index = pd.Index([names.get(case, case) for case in table.values.index])
        matrices.append(_matrix_of(table, kind, slides, path=path))
        _refuse_repeated_features(matrices, [*([genes] if genes else []), *paths])
        _add_molecular(tables, matrices[-1], table, prefix=f"{path.name}: ")
    if matrices:
        tables.omics, tables.any_genes = concatenate(matrices), True
        tables.notes += _describe_lacking(matrices, [*([genes] if genes else []), *paths], tables.omics.case_ids)
    if clinical is not None:
        _add_clinical(tables, clinical, clinic, slides, options)
    _require_id_column(tables, options)
    return tables


def _matrix_of(table: GeneTable, kind: str | None, evidence: Evidence, *, path: Path) -> OmicsMatrix:
    """The features of a table, of the kind that the user names, else of that of the trained model's features or of the values."""
    plain = [name for name in table.values.columns if not has_suffix(name)]
    if kind is None and plain:
        known = {
            name: sum(with_suffix(one, name) in evidence.features for one in plain) for name in ("rna", *FEATURE_KINDS)
        }
        kind = max(known, key=lambda name: known[name])
        if not any(known.values()) and (found := kind_of_values(table.values[plain].to_numpy())):
            kind = found
            table.notes.append(
                f"read as {_MEANING[kind]} by its values, under names as {with_suffix(plain[0], kind)}; {path}:KIND names "
                "another kind (with --omics)"
            )
    return OmicsMatrix.from_frame(table.values, kind=kind or "rna")


def _describe_lacking(matrices: Sequence[OmicsMatrix], paths: Sequence[Path], cases: Sequence[str]) -> list[str]:
    """Warnings of cases of one molecular table that another does not have."""
    notes = []
    for matrix, path in zip(matrices, paths, strict=True):
        known = set(matrix.case_ids)
        if lacking := [case for case in cases if case not in known]:
            notes.append(
                f"warning: {path.name} lacks {len(lacking)} of the {count(len(cases), 'case')} of all molecular tables "
                f"({some(lacking)}), which count there as the average of the training cases; leave them out of the other tables if "
                "they are not to be used"
            )
    return notes


def _refuse_repeated_features(matrices: Sequence[OmicsMatrix], paths: Sequence[Path]) -> None:
    """Raise InputError where the last table has a feature that an earlier one has, too."""
    for matrix, path in zip(matrices[:-1], paths, strict=False):
        if both := [name for name in matrices[-1].features if name in set(matrix.features)]:
            raise InputError(
                f"{count(len(both), 'feature')} ({some(both)}) are in {path} and in {paths[-1]}; leave one of them out, or, if the "
                f"second is of another kind, name its kind: --omics {paths[-1]}:KIND ({', '.join(sorted(FEATURE_KINDS))})"
            )


def _add_molecular(tables: Tables, matrix: OmicsMatrix, table: GeneTable, *, prefix: str) -> None:
    for note in [*table.notes, *describe_features(matrix), *doubts(matrix)]:
        # The word stays first: by it a note is recognised as a warning.
        warning = "warning: " if note.startswith("warning: ") else ""
        tables.notes.append(warning + prefix + note.removeprefix(warning))
    tables.dropped += table.dropped
    tables.excluded |= table.excluded


def _add_clinical(
    tables: Tables, path: Path, loaded: LoadedTable | None, slides: Evidence, options: TableOptions
) -> None:
    known = frozenset(tables.omics.case_ids) | (slides.cases or frozenset())
    evidence = Evidence(known or None, identity=slides.identity)
    clinic = read_clinical(path, evidence, options, loaded=loaded)
    tables.notes += [f"{path.name}: {note}" if not note.startswith("warning: ") else note for note in clinic.notes]
    names = _names_of_genes(tables.omics, clinic.frame.index, path.name, slides.identity, tables.notes)
    labels = clinic.frame.rename(index=names)
    tables.notes += _differing_labels(tables.annotations, labels, path.name)
    tables.annotations = labels
    tables.dropped += clinic.dropped
    tables.excluded |= {names.get(case, case): reason for case, reason in clinic.excluded.items()}


def _differing_labels(of_genes: pd.DataFrame, of_clinic: pd.DataFrame, name: str) -> list[str]:
    """Warnings of labels that the gene table has, too, with other values for some cases."""
    columns = {plain_name(column): column for column in of_genes.columns if is_label(column)}
    notes = []
    for other in of_clinic.columns:
        if (column := columns.get(plain_name(other))) is None:
            continue
        both = pd.concat([of_genes[column], of_clinic[other]], axis=1, join="inner", keys=["genes", "clinic"]).dropna()
        if differing := _disagreeing(both["genes"], both["clinic"]):
            here, there = of_clinic[other][differing[0]], of_genes[column][differing[0]]
            notes.append(
                f"warning: {name}: {other} differs from {column} of the gene table in {count(len(differing), 'case')} "
                f"({some(differing)}; of the first, {here} here and {there} there); {name} counts"
            )
    return notes


def _disagreeing(one: pd.Series, other: pd.Series) -> list[str]:
    """Cases of which two columns have different values: numbers, or words that are not only spelt in another way (G2 and II)."""
    texts = [column.map(lambda value: " ".join(str(value).split())) for column in (one, other)]
    numbers = [column.map(read_number).astype(float) for column in texts]
    if not any(column.isna().any() for column in numbers):
        return [str(case) for case in one.index[numbers[0] != numbers[1]]]
    usual = texts[1].groupby(texts[0]).agg(lambda values: values.value_counts().index[0])
    return [str(case) for case in one.index[texts[1] != texts[0].map(usual)]]


def _names_of_genes(
    genes: OmicsMatrix, cases: Iterable[str], name: str, identity: IdentityScheme, notes: list[str]
) -> dict[str, str]:
    """The gene table's spelling of cases of a further table that differ in capitals only; similar ids are noted."""
    ids = [case for case in cases if not identity.is_barcode(case)]  # all barcodes resemble each other
    matched, found = match_cases(
        ids, genes.case_ids, noun=f"case of {name}", among="the genes", remedy="write them alike"
    )
    notes += found
    return matched


def _require_id_column(tables: Tables, options: TableOptions) -> None:
    """A column that the user names is in one of the tables."""
    if options.id_column is not None and not any("(--id-column)" in note for note in tables.notes):
        raise InputError(f"--id-column {options.id_column}: no table has a column of this name")


def further_table(text: str) -> tuple[Path, str | None]:
    """Return file and feature kind of `FILE` (None) or `FILE:KIND`; the kind applies to columns without a suffix.

    Raises:
        InputError: an unknown kind.
    """
    path, _, kind = text.rpartition(":")
    if kind in FEATURE_KINDS:
        return Path(path), kind
    if path and Path(path).is_file() and not Path(text).exists() and not path.lower().endswith(XLSX):
        raise InputError(f'--omics {text}: unknown kind "{kind}": {nearest(kind, FEATURE_KINDS)}')
    return Path(text), None
