"""Gene tables: brought to one row per case, features separated from labels and annotations."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing.case_tables.case_rows import (
    Dropped,
    merge_columns,
    mismatch,
    one_row_per_case,
    require_agreement,
    select_samples,
)
from preprocessing.case_tables.column_names import plain_name
from preprocessing.case_tables.gene_columns import gene_columns
from preprocessing.case_tables.gene_names import SURE_GENE_NAMES
from preprocessing.case_tables.id_columns import Evidence, choose_id_column, id_kind, with_whole_numbers
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.gene_tables.orientation import cases_in_rows
from preprocessing.io.errors import InputError, count, some
from preprocessing.tables.containers import naming_sheets
from preprocessing.tables.loading import LoadedTable, load_table
from preprocessing.tables.reading import names_in, read_number, text_columns

_MOST_SUBHEADERS = 3
# What STAR and HTSeq count beside the genes.
_READ_COUNTS = frozenset(
    names_in(
        "N_unmapped N_multimapping N_noFeature N_ambiguous __no_feature __ambiguous __too_low_aQual __not_aligned "
        "__alignment_not_unique"
    )
)


@dataclass(frozen=True)
class GeneTable:
    """Features and annotations with one row per case.

    Attributes:
        values: cases × features, float64, NaN where missing; indexed by case id.
        annotations: the same cases × the other columns (labels among them), as in the file.
        notes: orientation, id column, which columns are no features.
        dropped: the rows that are not used.
        excluded: cases all of whose samples are of a type that is not used, with the reason.
    """

    values: pd.DataFrame
    annotations: pd.DataFrame
    notes: list[str]
    dropped: list[Dropped]
    excluded: dict[str, str] = field(default_factory=dict)


@naming_sheets
def read_genes(
    path: Path | str,
    evidence: Evidence | None = None,
    options: TableOptions | None = None,
    *,
    loaded: LoadedTable | None = None,
) -> GeneTable:
    """Return the features of each case, whichever way round the table is.

    Args:
        path: the table; cases or samples in rows and genes in columns, or transposed; any layout of `load_table`.
        evidence: from other inputs, on ids and genes.
        options: of the user.
        loaded: the content of the file, if it was read before.

    Raises:
        InputError: what `load_table` refuses, no case in common, values that are no numbers, rows of a case that disagree, or two
            possible readings.
    """
    path, notes = Path(path), list[str]()
    evidence, options = evidence or Evidence(), options or TableOptions()
    loaded = loaded or load_table(path)
    frame = _without_subheaders(_without_read_counts(_matrix(path, loaded, notes), notes), notes)
    loaded, as_written = replace(loaded, frame=None), id(frame)  # a large table is held once
    frame = cases_in_rows(path, frame, evidence, _with_layout(options, loaded), notes)
    turned = id(frame) != as_written
    frame = with_whole_numbers(_with_sample_attributes(frame, loaded), notes)
    id_column = choose_id_column(path, frame, evidence, options, notes, samples=True)
    ignored = [column for column in frame.columns if column in set(options.ignore)]
    if ignored:
        notes.append(f"columns left out by omics.ignore: {some(ignored)}")
        frame = frame.drop(columns=ignored)
    if not turned:
        _refuse_long(path, frame, id_column)
    rows = select_samples(path, frame, id_column, evidence, options, notes)
    del frame
    if evidence.cases is not None and not evidence.cases & set(map(evidence.identity.case_of, rows.ids)):
        notes.append(
            f"warning: {path}: not one case in common with the slides: {mismatch(id_column, rows.ids, evidence.cases)}"
        )
    genes, others = gene_columns(path, rows.frame, id_column, notes, options, features=evidence.features)
    values = pd.DataFrame(_numbers(path, rows.frame, genes, rows.ids), columns=genes)
    cases, firsts = one_row_per_case(rows.ids, evidence.identity)
    require_agreement(path, values, rows.ids, cases, firsts, notes)
    annotations = merge_columns(path, rows.frame[others], cases, firsts, notes, labels=options.labels)
    values = values if len(firsts) == len(values) else values.iloc[firsts]
    values.index = annotations.index
    return GeneTable(values, annotations, notes, rows.dropped, rows.excluded)


def _matrix(path: Path, loaded: LoadedTable, notes: list[str]) -> pd.DataFrame:
    notes += loaded.notes(path)
    if loaded.frame is None:
        raise InputError(
            f"{path}: this {loaded.layout} has no values, only attributes of its samples: give it as --clinical, and the "
            "table of values (often a supplementary file of the series) as GENES"
        )
    return loaded.frame


def _with_layout(options: TableOptions, loaded: LoadedTable) -> TableOptions:
    """The options, with the side of the genes that the layout fixes: GEO's samples are in the header; AnnData may be turned."""
    if loaded.genes_in is None or (loaded.genes_in == "columns" and options.genes_in):
        return options
    return replace(options, genes_in=loaded.genes_in)


def _with_sample_attributes(frame: pd.DataFrame, loaded: LoadedTable) -> pd.DataFrame:
    """The table with the attributes of its samples as further columns; an attribute never replaces a feature."""
    if loaded.samples is None or not loaded.samples.shape[1]:
        return frame
    attributes = loaded.samples.loc[:, [name for name in loaded.samples.columns if name not in frame.columns]]
    matched = attributes.reindex(frame["case_id"]).set_axis(frame.index, axis=0)
    return pd.concat([frame, matched], axis=1)


def _without_read_counts(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table without counts of reads outside genes, whichever way round it is."""
    columns = [column for column in frame.columns if column in _READ_COUNTS]
    texts = frame[text_columns(frame)]
    named = texts.isin(_READ_COUNTS)
    rows = named.any(axis=1).to_numpy()
    names = [*columns, *texts.to_numpy()[named.to_numpy()]]
    if not names:
        return frame
    notes.append(f"counts of reads outside genes, left out: {some(names)}")
    return frame.loc[~rows].drop(columns=columns)


def _without_subheaders(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table without rows below the header that give the genes' further names, as tables of the package cptac have.

    In such a row no column but the first holds a number, while below it nearly all of them do.
    """
    texts = [column for column in text_columns(frame)[1:] if not id_kind(column)]
    if len(texts) < len(frame.columns) / 2 or len(frame) < _MOST_SUBHEADERS + 2:
        return frame
    top, below = frame[texts].iloc[:_MOST_SUBHEADERS], frame[texts].iloc[_MOST_SUBHEADERS:]
    of_names = [not any(isinstance(v, str) and read_number(v) is not None for v in row) for row in top.to_numpy()]
    n_rows = of_names.index(False) if False in of_names else len(of_names)
    sample = below.iloc[:20].to_numpy().ravel()
    if not n_rows or np.mean([isinstance(v, str) and read_number(v) is None for v in sample]) > 0.1:
        return frame
    notes.append(f"{count(n_rows, 'row')} below the header, which give further names of the genes, left out")
    rest = frame.iloc[n_rows:]
    return rest.assign(**{column: _as_numbers(rest[column]) for column in texts})


def _as_numbers(values: pd.Series) -> pd.Series:
    """The column as float if it holds nothing but numbers, else as it is."""
    numbers = values.map(lambda value: read_number(str(value)), na_action="ignore")
    return numbers.astype(float) if numbers.notna().equals(values.notna()) else values


def _refuse_long(path: Path, frame: pd.DataFrame, id_column: str) -> None:
    """A table with cases in rows has its genes in the header; a column that names them makes it a list of single values."""
    for column in text_columns(frame):
        if column != id_column and plain_name(column) in SURE_GENE_NAMES and frame[column].notna().any():
            raise InputError(
                f"{path}: column {column} names genes, as {some(frame[column].dropna().unique())}, in rows that are of cases: "
                "give one row per case and one column per gene (of a MAF: 1 where the gene is mutated, else 0), or leave the "
                "column out with --set 'omics.ignore=[…]'"
            )


def _numbers(path: Path, frame: pd.DataFrame, genes: list[str], ids: list[str]) -> np.ndarray:
    """Values of the genes, float64 (rows, genes); what is not a finite number is refused by row and column."""
    wanted = set(genes)
    texts = [column for column in text_columns(frame) if column in wanted]
    try:
        odd = any(_has_odd_digits(frame[column]) for column in texts)
        values = None if odd else frame[genes].to_numpy().astype(np.float64, copy=False)
    except ValueError:
        values = None
    if values is None:
        for column in texts:
            bad = frame[column].map(lambda value: isinstance(value, str) and read_number(value) is None)
            if bad.any():
                _refuse_gene(path, ids[int(bad.argmax())], column, frame[column].iloc[int(bad.argmax())])
        raise InputError(f"{path}: the genes cannot be read as numbers; write plain decimal numbers")
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        row, at = infinite[0]
        _refuse_gene(path, ids[row], genes[at], values[row, at])
    return values


def _has_odd_digits(values: pd.Series) -> bool:
    """Whether a number may be spelt as only Python reads it: 1_000, or in the digits of another script."""
    text = "".join(value for value in values if isinstance(value, str))
    return "_" in text or not text.isascii()


def _refuse_gene(path: Path, row: str, column: str, value: object) -> None:
    raise InputError(
        f'{path}: row {row}, column {column}: "{value}" is not a finite number; correct it, leave it empty if it is missing, '
        f"or leave the column out with --set 'omics.ignore=[…]' if it is no gene (decimals take a point)"
    )
