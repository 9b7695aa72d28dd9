"""Gene tables and clinical tables: brought to one row a case, every dropped row named."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from preprocessing.io.errors import InputError, some
from preprocessing.tables import case_ids
from preprocessing.tables.column_names import is_label, plain_name
from preprocessing.tables.gene_columns import DATED_GENE, FROM_DATES, ROW_NUMBERS, gene_columns
from preprocessing.tables.reading import names_in, read_number, read_table, text_columns

_CASE_NAMES = names_in(
    "case_id case_submitter_id submitter_id bcr_patient_barcode patient_barcode patient_id patient case"
)
_SAMPLE_NAMES = names_in("sample_id sample_barcode bcr_sample_barcode sample_submitter_id sample barcode aliquot_id id")
_SLIDE_NAMES = names_in("slide_id slide_ids slide filename file_name file")
# Of a transposed table: the columns of gene names, the best first, and of other facts of the genes.
_GENE_NAMES = names_in("hugo_symbol gene_symbol symbol gene_name gene genes hgnc_symbol gene_id")
_GENE_FACTS = frozenset(_GENE_NAMES) | {
    *names_in("entrez_gene_id entrez_id entrez locus_id ensembl_id ensembl hgnc_id description gene_type biotype"),
    *names_in("chr chrom chromosome start end length strand cytoband"),
}

# What STAR and HTSeq count beside the genes.
_READ_COUNTS = frozenset(
    names_in(
        "N_unmapped N_multimapping N_noFeature N_ambiguous __no_feature __ambiguous __too_low_aQual __not_aligned "
        "__alignment_not_unique"
    )
)


@dataclass(frozen=True)
class Dropped:
    """A row or column that was left out: its id as the file has it, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class GeneTable:
    """One row a case.

    Attributes:
        values: cases × genes, float64, NaN where missing; indexed by case id.
        annotations: the same cases × the columns that are no genes (labels among them), as the file has them.
        notes: what was decided: orientation, id column, which columns are no genes.
        dropped: the rows that were left out.
    """

    values: pd.DataFrame
    annotations: pd.DataFrame
    notes: list[str]
    dropped: list[Dropped]


@dataclass(frozen=True)
class ClinicalTable:
    """One row a case; the columns as the file has them.

    Attributes:
        frame: indexed by case id.
        notes: what was decided.
        dropped: the rows that were left out.
    """

    frame: pd.DataFrame
    notes: list[str]
    dropped: list[Dropped]


def read_genes(
    path: Path | str,
    *,
    known_cases: Collection[str] | None,
    ignore: Sequence[str] = (),
    must_share: bool = True,
) -> GeneTable:
    """The genes of each case, whichever way round the table is; primary samples only.

    Args:
        path: the table; cases or samples in rows and genes in columns, or transposed.
        known_cases: the slides' cases, by which ids are recognised that are not TCGA's; None: whatever is there.
        ignore: columns that are neither genes nor annotations.
        must_share: whether a table of none of the known cases is refused; else a note says so.

    Raises:
        InputError: what `read_table` refuses, no case in common, genes that are not numbers, cases that disagree.
    """
    path, notes = Path(path), list[str]()
    known = None if known_cases is None else frozenset(case_ids.case_of(case) for case in known_cases)
    as_written = _without_read_counts(read_table(path), notes)
    frame = _cases_in_rows(path, as_written, known, notes)
    id_column = _id_column(path, frame, known, notes, samples=True)
    ignored = [column for column in frame.columns if column in set(ignore)]
    if ignored:
        notes.append(f"columns left out as configured: {some(ignored)}")
    if frame is as_written:
        _refuse_long(path, frame.drop(columns=[*ignored, id_column]))
    frame, ids, dropped = _primary(path, frame.drop(columns=ignored), id_column, known if must_share else None)
    _note_rows(ids, dropped, known, notes)
    if known is not None and not known & {case_ids.case_of(one) for one in ids}:
        notes.append(f"warning: {path}: not one case in common with the slides: {_apart(id_column, ids, known)}")
    genes, others = gene_columns(path, frame, id_column, notes)
    values = pd.DataFrame(_numbers(path, frame, genes, ids), columns=genes)
    cases, firsts = _one_row_a_case(ids)
    _check_agreement(path, values, ids, cases, firsts, notes)
    annotations = _merge_annotations(path, frame[others], cases, firsts, notes)
    values = values.iloc[firsts].set_axis(annotations.index, axis=0)
    return GeneTable(values, annotations, notes, dropped)


def read_clinical(path: Path | str, known_cases: Collection[str] | None) -> ClinicalTable:
    """The clinical columns of each case; rows of one case must agree in the labels, other columns are joined by ";".

    Raises:
        InputError: what `read_table` refuses, no case in common, cases that disagree.
    """
    path, notes = Path(path), list[str]()
    known = None if known_cases is None else frozenset(case_ids.case_of(case) for case in known_cases)
    frame = read_table(path)
    id_column = _id_column(path, frame, known, notes, samples=False)
    frame, ids, dropped = _primary(path, frame, id_column, known)
    _note_rows(ids, dropped, known, notes)
    cases, firsts = _one_row_a_case(ids)
    merged = _merge_annotations(path, frame.drop(columns=id_column), cases, firsts, notes)
    return ClinicalTable(merged, notes, dropped)


def _is_id(value: object, known: frozenset[str] | None) -> bool:
    if not isinstance(value, str):
        return False
    return case_ids.is_barcode(value) or (known is not None and value.strip() in known)


def _without_read_counts(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table without the counts of reads that are of no gene, whichever way round it is."""
    columns = [column for column in frame.columns if column in _READ_COUNTS]
    texts = frame[text_columns(frame)]
    named = texts.isin(_READ_COUNTS)
    rows = named.any(axis=1).to_numpy()
    names = [*columns, *texts.to_numpy()[named.to_numpy()]]
    if not names:
        return frame
    notes.append(f"counts of reads that are of no gene, left out: {some(names)}")
    return frame.loc[~rows].drop(columns=columns)


def _cases_in_rows(path: Path, frame: pd.DataFrame, known: frozenset[str] | None, notes: list[str]) -> pd.DataFrame:
    """The table with cases in rows, whichever way round it came."""
    if {"unstranded", "tpm_unstranded"} <= set(frame.columns):
        raise InputError(
            f"{path}: is the GDC's file of one sample; join one column of each sample's file, as tpm_unstranded, to one table: "
            "genes in rows, and a column a sample under its barcode"
        )
    in_rows = max((sum(_is_id(v, known) for v in frame[c]) for c in text_columns(frame)), default=0)
    in_header = [column for column in frame.columns if _is_id(column, known)]
    names = [column for column in text_columns(frame) if not ROW_NUMBERS.fullmatch(plain_name(column))]
    of_genes = names[0] if names and plain_name(names[0]) in _GENE_NAMES else None
    if len(in_header) <= in_rows and (in_rows or of_genes is None):
        how = f"{in_rows} ids recognised" if in_rows else "no id recognised on either side: assumed"
        notes.append(f"orientation: cases in rows, genes in columns ({how})")
        return frame
    how = f"{len(in_header)} ids recognised" if in_header else f"no id recognised, but column {of_genes} names genes"
    notes.append(f"orientation: genes in rows, cases in columns ({how}): transposed")
    recognised = set(in_header)
    facts = [column for column in frame.columns if column not in recognised and _is_gene_fact(frame, column)]
    samples = [column for column in frame.columns if column not in facts]
    if not samples:
        raise InputError(
            f"{path}: column {of_genes} names genes, but there is no column of numbers beside it for a case"
        )
    turned = pd.DataFrame(frame[samples].to_numpy().T, columns=_gene_names(path, frame, facts, notes))
    turned.insert(0, "case_id", samples, allow_duplicates=False)
    return turned


def _is_gene_fact(frame: pd.DataFrame, column: str) -> bool:
    """Of a transposed table: whether the column tells something of the genes (its first column, by name, or by text)."""
    if column == frame.columns[0] or plain_name(column) in _GENE_FACTS:
        return True
    return bool(pd.to_numeric(frame[column], errors="coerce").isna().all())


def _gene_names(path: Path, frame: pd.DataFrame, facts: list[str], notes: list[str]) -> list[str]:
    """Of a transposed table: each row's gene, by its symbol; where rows share one or have none, with another name behind."""
    by_name = {plain_name(column): column for column in facts}
    candidates = [by_name[name] for name in _GENE_NAMES if name in by_name] + facts
    if not candidates:
        raise InputError(f"{path}: cases are in columns, but there is no column of gene names; add one, as the first")
    best = candidates[0]
    unique = [column for column in candidates if frame[column].notna().all() and frame[column].is_unique]
    if not unique:
        _refuse_names(path, best, frame[best])
    names = frame[best].astype("string").fillna("?")
    shared = names.duplicated(keep=False) | frame[best].isna()
    notes.append(f"gene names: column {best or '(unnamed)'}")
    left_out = [column or "(unnamed)" for column in facts if column != best]
    if shared.any():
        names = names.mask(shared, names + "|" + frame[unique[0]].astype("string"))
        left_out = [column for column in left_out if column != unique[0]]
        notes[-1] += (
            f", in {shared.sum()} rows that share a name or have none with {unique[0]} behind: {some(names[shared])}"
        )
    notes[-1] += f"; not used: {some(left_out)}" if left_out else ""
    return names.tolist()


def _refuse_names(path: Path, column: str, names: pd.Series) -> NoReturn:
    if names.isna().any():
        raise InputError(f"{path}: row {names.index[names.isna()][0]} has no gene name in column {column}")
    twice = sorted(set(names[names.duplicated()].astype(str)))
    dated = f" ({FROM_DATES}: then correct them)" if any(DATED_GENE.fullmatch(name) for name in twice) else ""
    raise InputError(f"{path}: {len(twice)} genes are there more than once: {some(twice)}; keep one row of each{dated}")


def _id_column(
    path: Path, frame: pd.DataFrame, known: frozenset[str] | None, notes: list[str], *, samples: bool
) -> str:
    """The column that says whose row it is: most cases known, then most ids, then a sample's (or case's) name."""

    def rank(column: str) -> tuple[float, float, float]:
        values = [value for value in frame[column] if isinstance(value, str)]
        n_known = sum(case_ids.case_of(value) in known for value in values) if known else 0
        n_barcodes = sum(case_ids.is_barcode(value) for value in values)
        # Of a sample's barcode the case is known, and whether it is primary; any other sample's id would pass for a case.
        names = [*_SAMPLE_NAMES, *_CASE_NAMES] if samples and n_barcodes else [*_CASE_NAMES, *_SAMPLE_NAMES]
        names += _SLIDE_NAMES
        name = plain_name(column)
        place = names.index(name) if name in names else len(names) + bool(ROW_NUMBERS.fullmatch(name))
        return n_known, n_barcodes, -place

    candidates = text_columns(frame)
    if not candidates:
        raise InputError(f"{path}: no column of case ids; add one called case_id")
    chosen = max(candidates, key=rank)
    notes.append(f"ids: column {chosen or '(unnamed)'}")
    return chosen


def _primary(
    path: Path, frame: pd.DataFrame, id_column: str, known: frozenset[str] | None
) -> tuple[pd.DataFrame, list[str], list[Dropped]]:
    """The rows of primary samples, one sample a case, with their ids; and the rows left out."""
    raw = frame[id_column].tolist()
    ids = [case_ids.normalise(value) if isinstance(value, str) else "" for value in raw]
    if known is not None and not known & {case_ids.case_of(identifier) for identifier in ids}:
        raise InputError(f"{path}: not one case in common: {_apart(id_column, ids, known)}")
    keys = [_sample_key(identifier) for identifier in ids]
    first: dict[str, str] = {}
    for key in sorted(key for key in keys if key and not case_ids.is_doubtful(key) and _is_primary(key)):
        first.setdefault(case_ids.case_of(key), key)
    keep, dropped = [], []
    for row, key in enumerate(keys):
        reason = _reason_to_drop(key, first)
        if reason:
            dropped.append(Dropped(str(raw[row]) if key else f"row {frame.index[row]}", reason))
        else:
            keep.append(row)
    if not keep:
        raise InputError(f"{path}: no row of a primary sample (type 01) among {len(raw)}, as {some(raw)}")
    return frame.iloc[keep].reset_index(drop=True), [ids[row] for row in keep], dropped


def _refuse_long(path: Path, frame: pd.DataFrame) -> None:
    """A table with cases in rows has its genes in the header; a column that names them makes it a list of single values."""
    for column in text_columns(frame):
        if plain_name(column) in _GENE_NAMES and frame[column].notna().any():
            raise InputError(
                f"{path}: column {column} names genes, as {some(frame[column].dropna().unique())}, in rows that are of cases: "
                "make it one row a case and one column a gene (of a MAF: 1 where the gene is mutated, else 0), or leave the "
                "column out with omics.ignore"
            )


def _note_rows(ids: Sequence[str], dropped: Sequence[Dropped], known: frozenset[str] | None, notes: list[str]) -> None:
    """Which rows were left out; and a warning of ids unlike the others: a sum below the table, a column that is of no case."""
    if dropped:
        notes.append(f"{len(dropped)} rows left out: {some(f'{row.id} ({row.reason})' for row in dropped)}")
    strange = [identifier for identifier in ids if not _is_id(identifier, known)]
    if 0 < len(strange) < len(ids) / 2 and any(map(case_ids.is_barcode, ids)):
        notes.append(
            f"warning: {len(strange)} ids are no TCGA barcodes as the others are, and are taken for cases: {some(strange)}; "
            "remove them from the table if they are none"
        )


def _apart(id_column: str, ids: Sequence[str], known: frozenset[str]) -> str:
    return (
        f"column {id_column or '(unnamed)'} has {some([identifier for identifier in ids if identifier])}; the slides (or genes) "
        f"are of {some(sorted(known))}; write the ids the same way (a manifest can say the slides' cases)"
    )


def _sample_key(identifier: str) -> str:
    """What a row is about: a slide's row stands for its case, any other for the sample that it names."""
    return case_ids.case_of(identifier) if case_ids.slide_kind(identifier) else identifier


def _is_primary(identifier: str) -> bool:
    return case_ids.sample_type(identifier) in (None, case_ids.PRIMARY)


def _reason_to_drop(key: str, first: dict[str, str]) -> str | None:
    if not key:
        return "no id"
    if case_ids.is_doubtful(key):
        return "begins as a TCGA barcode, but is none"
    if not _is_primary(key):
        return f"sample type {case_ids.sample_type(key)}, not primary ({case_ids.PRIMARY})"
    kept = first[case_ids.case_of(key)]
    return None if key == kept else f"another primary sample of the case is kept: {kept}"


def _one_row_a_case(ids: list[str]) -> tuple[list[str], list[int]]:
    """The case of each row, and the position of each case's first row."""
    cases = [case_ids.case_of(identifier) for identifier in ids]
    firsts: dict[str, int] = {}
    for row, case in enumerate(cases):
        firsts.setdefault(case, row)
    return cases, list(firsts.values())


def _check_agreement(
    path: Path, values: pd.DataFrame, ids: list[str], cases: list[str], firsts: list[int], notes: list[str]
) -> None:
    """Rows of one case are the same in every gene."""
    if len(firsts) == len(cases):
        return
    matrix = values.to_numpy()
    first_of = {cases[row]: row for row in firsts}
    for row, case in enumerate(cases):
        one, other = matrix[first_of[case]], matrix[row]
        differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
        if differs.any():
            at = int(differs.argmax())
            raise InputError(
                f"{path}: case {case} is there more than once, and column {values.columns[at]} is {one[at]:g} in one row "
                f"and {other[at]:g} in another; keep one row of the case"
            )
    notes.append(f"{len(cases) - len(firsts)} rows that repeat another of the same case were merged into it")


def _merge_annotations(
    path: Path, frame: pd.DataFrame, cases: list[str], firsts: list[int], notes: list[str]
) -> pd.DataFrame:
    """One row a case: labels must agree, other columns that differ are joined by ";"."""
    index = pd.Index([cases[row] for row in firsts], name="case_id")
    merged = frame.iloc[firsts].set_axis(index, axis=0)
    if len(firsts) == len(cases):
        return merged
    repeated = pd.Series(cases).duplicated(keep=False).to_numpy()
    joined: list[str] = []
    for column in frame.columns:
        for case, values in frame.loc[repeated, column].groupby(np.array(cases)[repeated]):
            distinct = list(dict.fromkeys(values.dropna()))
            if len(distinct) > 1 and is_label(column):
                raise InputError(
                    f"{path}: case {case} is there more than once, and column {column} is {distinct[0]} in one row and "
                    f"{distinct[1]} in another; keep one row of the case"
                )
            if len(distinct) > 1:
                merged[column] = merged[column].astype(object)
                joined.append(column)
            if distinct:
                merged.loc[case, column] = distinct[0] if len(distinct) == 1 else ";".join(map(str, distinct))
    if joined:
        notes.append(f'columns that differ within a case, joined by ";": {some(list(dict.fromkeys(joined)))}')
    return merged


def _numbers(path: Path, frame: pd.DataFrame, genes: list[str], ids: list[str]) -> np.ndarray:
    """The genes' values, float64 (rows, genes); what is not a finite number is refused by row and column."""
    texts = text_columns(frame[genes])
    try:
        odd = any(_has_odd_digits(frame[column]) for column in texts)
        values = None if odd else frame[genes].to_numpy().astype(np.float64)
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
    """Whether a number may be spelt as Python alone reads it: 1_000, or in the digits of another script."""
    text = "".join(value for value in values if isinstance(value, str))
    return "_" in text or not text.isascii()


def _refuse_gene(path: Path, row: str, column: str, value: object) -> None:
    raise InputError(
        f'{path}: row {row}, column {column}: "{value}" is not a finite number; correct it, leave it empty if it is missing, '
        f"or leave the column out with omics.ignore if it is no gene (decimals take a point)"
    )
