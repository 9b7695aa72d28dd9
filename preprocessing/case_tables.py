"""Gene tables and clinical tables: brought to one row a case, every dropped row named."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing import barcodes, labels
from preprocessing.errors import InputError, some
from preprocessing.tables import names_in, read_table, text_columns, words_of

_CASE_NAMES = names_in(
    "case_id case_submitter_id submitter_id bcr_patient_barcode patient_barcode patient_id patient case"
)
_SAMPLE_NAMES = names_in("sample_id sample_barcode bcr_sample_barcode sample_submitter_id sample barcode aliquot_id id")
_SLIDE_NAMES = names_in("slide_id slide_ids slide filename file_name file")
_ROW_NUMBERS = {"", "index", "row_names", "rownames", "unnamed_0"}

# Of a transposed table: the columns of gene names, the best first, and of other facts of the genes.
_GENE_NAMES = names_in("hugo_symbol gene_symbol symbol gene_name gene genes hgnc_symbol gene_id")
_GENE_FACTS = frozenset(_GENE_NAMES) | {
    *names_in("entrez_gene_id entrez_id entrez ensembl_id ensembl hgnc_id description gene_type biotype"),
    *names_in("chr chrom chromosome start end length strand cytoband"),
}

# A column of which any word is here is never a gene. No word is a gene's symbol, nor a part of one between hyphens
# (ids, mag and efs are: such columns are known by their whole name).
_LABEL_WORDS = frozenset(
    names_in(
        "grade survival censorship censored censor event events vital status subtype subtypes diagnosis day days month "
        "months week weeks year years death dead deceased died alive living followup recurrence progression relapse "
        "metastasis stage age sex gender race ethnicity female male site train project histology histological "
        "morphology oncotree karnofsky kps ecog purity estimate score cluster class label labels target outcome "
        "response treatment therapy radiation chemotherapy time tumor tumour cancer disease patient sample case slide "
        "slides barcode id batch cohort fold split who codel codeletion mpp"
    )
)
_ENDPOINTS = {"os", "pfs", "dss", "pfi", "dfi", "dfs", "rfs"}  # as the first word: OS_MONTHS, PFI.time; EFS is a gene
_LABEL_PARTS = ("survival", "censor", "subtype", "diagnos", "histolog", "oncotree", "vitalstat", "followup")
_LABEL_ENDS = ("grade", "event", "status", "death", "months", "days")  # tumorgrade, timetoevent
# What a spreadsheet makes of SEPT2, MARCH1 and DEC1 (Ziemann et al., Genome Biology 2016).
_DATED_GENE = re.compile(
    r"\d{1,2}[-/.](mar|sept?|oct|dec|nov|apr|feb)([-/.]\d+)?|(mar|sept?|oct|dec|nov|apr|feb)[-/.]\d{1,4}", re.IGNORECASE
)
# What STAR and HTSeq count beside the genes.
_READ_COUNTS = frozenset(
    names_in(
        "N_unmapped N_multimapping N_noFeature N_ambiguous __no_feature __ambiguous __too_low_aQual __not_aligned "
        "__alignment_not_unique"
    )
)
_NUMBER_LIKE = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?", re.IGNORECASE)


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


# --- one row a case --------------------------------------------------------------------------------------------------


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
    known = None if known_cases is None else frozenset(barcodes.case_of(case) for case in known_cases)
    frame = _cases_in_rows(path, _without_read_counts(read_table(path), notes), known, notes)
    id_column = _id_column(path, frame, known, notes, samples=True)
    ignored = [column for column in frame.columns if column in set(ignore)]
    if ignored:
        notes.append(f"columns left out as configured: {some(ignored)}")
    frame, ids, dropped = _primary(path, frame.drop(columns=ignored), id_column, known if must_share else None)
    if known is not None and not known & {barcodes.case_of(one) for one in ids}:
        notes.append(f"warning: {path}: not one case in common with the slides: {_apart(id_column, ids, known)}")
    genes, others = _gene_columns(path, frame, id_column, notes)
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
    known = None if known_cases is None else frozenset(barcodes.case_of(case) for case in known_cases)
    frame = read_table(path)
    id_column = _id_column(path, frame, known, notes, samples=False)
    frame, ids, dropped = _primary(path, frame, id_column, known)
    cases, firsts = _one_row_a_case(ids)
    merged = _merge_annotations(path, frame.drop(columns=id_column), cases, firsts, notes)
    return ClinicalTable(merged, notes, dropped)


def _is_id(value: object, known: frozenset[str] | None) -> bool:
    if not isinstance(value, str):
        return False
    return barcodes.is_barcode(value) or (known is not None and value.strip() in known)


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
    return frame.loc[~rows].drop(columns=columns).reset_index(drop=True)


def _cases_in_rows(path: Path, frame: pd.DataFrame, known: frozenset[str] | None, notes: list[str]) -> pd.DataFrame:
    """The table with cases in rows, whichever way round it came."""
    in_rows = max((sum(_is_id(v, known) for v in frame[c]) for c in text_columns(frame)), default=0)
    in_header = [column for column in frame.columns if _is_id(column, known)]
    if len(in_header) <= in_rows:
        how = f"{in_rows} ids recognised" if in_rows else "no id recognised on either side: assumed"
        notes.append(f"orientation: cases in rows, genes in columns ({how})")
        return frame
    notes.append(f"orientation: genes in rows, cases in columns ({len(in_header)} ids recognised): transposed")
    recognised = set(in_header)
    facts = [column for column in frame.columns if column not in recognised and _is_gene_fact(frame, column)]
    gene_column = _gene_name_column(path, frame, facts)
    left_out = [column or "(unnamed)" for column in facts if column != gene_column]
    notes.append(
        f"gene names: column {gene_column or '(unnamed)'}" + (f"; not used: {some(left_out)}" if left_out else "")
    )
    samples = [column for column in frame.columns if column not in facts]
    turned = pd.DataFrame(frame[samples].to_numpy().T, columns=frame[gene_column].to_numpy())
    turned.insert(0, "case_id", samples, allow_duplicates=False)
    return turned


def _is_gene_fact(frame: pd.DataFrame, column: str) -> bool:
    """Of a transposed table: whether the column tells something of the genes (its first column, by name, or by text)."""
    if column == frame.columns[0] or labels.plain_name(column) in _GENE_FACTS:
        return True
    return bool(pd.to_numeric(frame[column], errors="coerce").isna().all())


def _gene_name_column(path: Path, frame: pd.DataFrame, facts: list[str]) -> str:
    """The column of gene symbols; another one if the symbols are not unique."""
    by_name = {labels.plain_name(column): column for column in facts}
    candidates = [by_name[name] for name in _GENE_NAMES if name in by_name] + facts
    if not candidates:
        raise InputError(f"{path}: cases are in columns, but there is no column of gene names; add one, as the first")
    for column in candidates:
        if frame[column].notna().all() and frame[column].is_unique:
            return column
    names = frame[candidates[0]]
    if names.isna().any():
        raise InputError(f"{path}: row {int(names.isna().argmax()) + 2} has no gene name in column {candidates[0]}")
    twice = sorted(set(names[names.duplicated()].astype(str)))
    raise InputError(f"{path}: {len(twice)} genes are there more than once: {some(twice)}; keep one row of each")


def _id_column(
    path: Path, frame: pd.DataFrame, known: frozenset[str] | None, notes: list[str], *, samples: bool
) -> str:
    """The column that says whose row it is: most cases known, then most ids, then a sample's (or case's) name."""
    preferred = [*_SAMPLE_NAMES, *_CASE_NAMES] if samples else [*_CASE_NAMES, *_SAMPLE_NAMES]
    preferred += _SLIDE_NAMES

    def rank(column: str) -> tuple[float, float, float]:
        values = [value for value in frame[column] if isinstance(value, str)]
        n_known = sum(barcodes.case_of(value) in known for value in values) if known else 0
        name = labels.plain_name(column)
        place = preferred.index(name) if name in preferred else len(preferred) + (name in _ROW_NUMBERS)
        return n_known, sum(barcodes.is_barcode(value) for value in values), -place

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
    ids = [barcodes.normalise(value) if isinstance(value, str) else "" for value in raw]
    if known is not None and not known & {barcodes.case_of(identifier) for identifier in ids}:
        raise InputError(f"{path}: not one case in common: {_apart(id_column, ids, known)}")
    keys = [_sample_key(identifier) for identifier in ids]
    first: dict[str, str] = {}
    for key in sorted(key for key in keys if key and not barcodes.is_doubtful(key) and _is_primary(key)):
        first.setdefault(barcodes.case_of(key), key)
    keep, dropped = [], []
    for row, key in enumerate(keys):
        reason = _reason_to_drop(key, first)
        if reason:
            dropped.append(Dropped(str(raw[row]) if key else f"row {row + 2}", reason))
        else:
            keep.append(row)
    if not keep:
        raise InputError(f"{path}: no row of a primary sample (type 01) among {len(raw)}, as {some(raw)}")
    return frame.iloc[keep].reset_index(drop=True), [ids[row] for row in keep], dropped


def _apart(id_column: str, ids: Sequence[str], known: frozenset[str]) -> str:
    return (
        f"column {id_column or '(unnamed)'} has {some([identifier for identifier in ids if identifier])}; the slides (or genes) "
        f"are of {some(sorted(known))}; write the ids the same way (a manifest can say the slides' cases)"
    )


def _sample_key(identifier: str) -> str:
    """What a row is about: a slide's row stands for its case, any other for the sample that it names."""
    return barcodes.case_of(identifier) if barcodes.slide_kind(identifier) else identifier


def _is_primary(identifier: str) -> bool:
    return barcodes.sample_type(identifier) in (None, barcodes.PRIMARY)


def _reason_to_drop(key: str, first: dict[str, str]) -> str | None:
    if not key:
        return "no id"
    if barcodes.is_doubtful(key):
        return "begins as a TCGA barcode, but is none"
    if not _is_primary(key):
        return f"sample type {barcodes.sample_type(key)}, not primary ({barcodes.PRIMARY})"
    kept = first[barcodes.case_of(key)]
    return None if key == kept else f"another primary sample of the case is kept: {kept}"


def _one_row_a_case(ids: list[str]) -> tuple[list[str], list[int]]:
    """The case of each row, and the position of each case's first row."""
    cases = [barcodes.case_of(identifier) for identifier in ids]
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
            if len(distinct) > 1 and labels.is_label(column):
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


# --- genes and other columns -----------------------------------------------------------------------------------------


def is_annotation(name: str) -> bool:
    """Whether a column of this name speaks of ids, labels or patients, and so is never a gene."""
    words = words_of(name)
    if "_".join(words) in _ROW_NUMBERS or labels.is_label(name) or (words and words[0] in _ENDPOINTS):
        return True
    if name in ("n_slides", "slide_ids", "has_rna", "mag") or any(word in _LABEL_WORDS for word in words):
        return True
    long_words = [word.rstrip("0123456789") for word in words]
    if any(word in _LABEL_WORDS and len(word) > 4 for word in long_words):
        return True
    return any(word.endswith(_LABEL_ENDS) or any(part in word for part in _LABEL_PARTS) for word in words)


def _gene_columns(path: Path, frame: pd.DataFrame, id_column: str, notes: list[str]) -> tuple[list[str], list[str]]:
    """The columns that are genes, and those that are not (the ids apart)."""
    columns = [column for column in frame.columns if column != id_column]
    named = [column for column in columns if is_annotation(column)]
    rest = frame.drop(columns=[id_column, *named])
    words = [column for column in text_columns(rest) if _is_words(rest[column])]
    no_gene = {*named, *words}
    others = [column for column in columns if column in no_gene]
    genes = [column for column in columns if column not in no_gene]
    if named:
        notes.append(
            f"taken as labels or annotations, not as genes: {', '.join(name or '(unnamed)' for name in named)}"
        )
    if words:
        notes.append(f"taken as annotations, for they hold words: {', '.join(words)}")
    if dated := [name for name in genes if _DATED_GENE.fullmatch(name)]:
        notes.append(
            f"warning: {len(dated)} genes are called like dates ({some(dated)}): a spreadsheet made them of names such as "
            "SEPT2 or MARCH1, and no gene set will find them; correct the names"
        )
    if not genes:
        raise InputError(f"{path}: no column of numbers that could be a gene, among {some(list(frame.columns))}")
    return genes, others


def _is_words(values: pd.Series) -> bool:
    """Whether a text column holds words and nothing that was meant as a number."""
    there = values.dropna().astype(str)
    return len(there) > 0 and not there.map(lambda text: _NUMBER_LIKE.fullmatch(text) is not None).any()


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
            bad = frame[column].map(lambda value: isinstance(value, str) and labels.read_number(value) is None)
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
        f"or leave the column out with the ignore option if it is no gene (decimals take a point)"
    )
