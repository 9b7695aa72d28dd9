"""Gene tables and clinical tables: read exactly, brought to one row a case, every dropped row named."""

import csv
import gzip
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from preprocessing import barcodes, labels
from preprocessing.errors import InputError, some


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NOTHING = {
    *_names("NA N/A NaN nan na n/a #N/A #NA null NULL Null None none -- '-- - . ? not_reported"),
    *_names("unknown Unknown UNKNOWN missing Missing"),
    *_names("[Unknown] [Discrepancy] [Completed]"),
    *("not reported", "Not Reported", "NOT REPORTED", "[Not Reported]", "[Not Evaluated]"),
    *("not available", "Not Available", "[Not Available]", "not applicable", "Not Applicable", "[Not Applicable]"),
    "",
}
LARGE = 20_000_000  # bytes; beyond it numpy reads the numbers: as exact as pandas, and four times faster

# Columns that are read as text whatever they look like, so that "02" stays "02".
_TEXT_WORDS = {"id", "ids", "barcode", "case", "sample", "patient", "slide", "submitter", "site", "tss", "bcr"}
_CASE_NAMES = _names(
    "case_id case_submitter_id submitter_id bcr_patient_barcode patient_barcode patient_id patient case"
)
_SAMPLE_NAMES = _names("sample_id sample_barcode bcr_sample_barcode sample_submitter_id sample barcode aliquot_id id")
_SLIDE_NAMES = _names("slide_id slide_ids slide filename file_name file")
_ROW_NUMBERS = {"", "index", "row_names", "rownames", "unnamed_0"}

# Of a transposed table: the columns of gene names, the best first, and of other facts of the genes.
_GENE_NAMES = _names("hugo_symbol gene_symbol symbol gene_name gene genes hgnc_symbol gene_id")
_GENE_FACTS = frozenset(_GENE_NAMES) | {
    *_names("entrez_gene_id entrez_id entrez ensembl_id ensembl hgnc_id description gene_type biotype"),
    *_names("chr chrom chromosome start end length strand cytoband"),
}

# A column of which any word is here is never a gene. No word is a gene's symbol, nor a part of one between hyphens
# (ids, mag and efs are: such columns are known by their whole name).
_LABEL_WORDS = frozenset(
    _names(
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


# --- any table -------------------------------------------------------------------------------------------------------


def read_table(path: Path | str) -> pd.DataFrame:
    """The file's columns, numbers exact, missing values NaN, ids as text.

    CSV, TSV or semicolons, gzipped or not, with or without a byte order mark; lines that begin with # in front of the
    header are passed over. A header that lacks the name of the first column (R) gets "".

    Raises:
        InputError: no such file, not text, empty, a column twice, a row with too many or too few fields.
    """
    path = Path(path)
    data = _file_bytes(path)
    names, sep, body = _header(path, data)
    _check_fields(path, body, sep, len(names))
    frame = _read_large(names, sep, body) if len(body) > LARGE else None
    if frame is None:
        frame = _read_small(path, names, sep, body)
    for column in _text_columns(frame):
        frame[column] = frame[column].map(lambda value: value.strip() if isinstance(value, str) else value)
        frame[column] = frame[column].mask(frame[column].isin(_NOTHING))
    return frame


def _file_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if data[:4] == b"PK\x03\x04":
        raise InputError(f"{path}: is a spreadsheet or a zip archive; save it as CSV")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data if data.endswith(b"\n") or not data else data + b"\n"


def _header(path: Path, data: bytes) -> tuple[list[str], str, bytes]:
    """The columns' names, the separator, and what follows the header."""
    while data.startswith((b"#", b"\n")):
        data = data.partition(b"\n")[2]
    line, _, body = data.partition(b"\n")
    if not line.strip() or not body.strip():
        raise InputError(f"{path}: is empty: a header and at least one row are needed")
    text = line.decode()
    sep = max("\t,;", key=text.count)
    names = [name.strip() for name in next(csv.reader([text], delimiter=sep, skipinitialspace=True))]
    first = next(csv.reader([body.partition(b"\n")[0].decode()], delimiter=sep))
    if len(first) == len(names) + 1:
        names = ["", *names]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{path}: {len(twice)} columns are there more than once: {some(twice)}; keep one of each")
    return names, sep, body


def _check_fields(path: Path, body: bytes, sep: str, n_names: int) -> None:
    """Every row has as many fields as the header: pandas would fill or drop in silence."""
    bare = re.sub(rb'"[^"]*"', b"", body) if b'"' in body else body
    for row, line in enumerate(io.BytesIO(bare), start=2):
        n_fields = line.count(sep.encode()) + 1
        if n_fields != n_names and line.strip():
            raise InputError(f"{path}: row {row} has {n_fields} fields, the header {n_names}; is the file cut short?")


def _text_columns(frame: pd.DataFrame) -> list[str]:
    return [column for column, dtype in zip(frame.columns, frame.dtypes, strict=True) if dtype.kind == "O"]


def _is_text_name(position: int, name: str) -> bool:
    return position == 0 or bool(_TEXT_WORDS & set(_words(name)))


def _read_small(path: Path, names: list[str], sep: str, body: bytes) -> pd.DataFrame:
    text: dict[Any, Any] = {i: str for i, name in enumerate(names) if _is_text_name(i, name)}
    try:
        frame = pd.read_csv(
            io.BytesIO(body), sep=sep, header=None, index_col=False, dtype=text, low_memory=False, skipinitialspace=True,
            keep_default_na=False, na_values=list(_NOTHING), float_precision="round_trip",
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error
    return frame.set_axis(names, axis=1)


def _read_large(names: list[str], sep: str, body: bytes) -> pd.DataFrame | None:
    """The same as `_read_small`, faster; None where a column of numbers holds something else here and there."""
    numeric = _numeric_positions(names, sep, body)
    text = sorted(set(range(len(names))) - set(numeric))
    cell, numbers = sep.encode(), body
    for missing in (b"", b"NA"):
        for end in (cell, b"\n"):
            while (found := cell + missing + end) in numbers:
                numbers = numbers.replace(found, cell + b"nan" + end)
    try:
        values = np.loadtxt(io.BytesIO(numbers), delimiter=sep, comments=None, usecols=numeric, ndmin=2, quotechar='"')
    except ValueError:
        return None
    frame = pd.DataFrame(values, columns=[names[i] for i in numeric])
    rows = list(_text_fields(body, sep, text))
    strings = pd.DataFrame(rows, columns=[names[i] for i in text], dtype=object)
    return pd.concat([strings, frame], axis=1)


def _text_fields(body: bytes, sep: str, positions: list[int]) -> Iterator[list[str]]:
    """These fields of each row; without quotes in the file, the rest of a row need not be taken apart."""
    lines = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8", newline="")
    last = max(positions) + 1
    rows = csv.reader(lines, delimiter=sep) if b'"' in body else (line.rstrip("\n").split(sep, last) for line in lines)
    for row in rows:
        if row and row != [""]:
            yield [row[position] for position in positions]


def _numeric_positions(names: list[str], sep: str, body: bytes) -> list[int]:
    """The columns that hold numbers, or nothing, in the first rows."""
    lines = [line.decode() for line in itertools.islice(io.BytesIO(body), 3)]
    columns = zip(*csv.reader(lines, delimiter=sep, skipinitialspace=True), strict=True)
    return [
        position
        for position, (name, column) in enumerate(zip(names, columns, strict=True))
        if not _is_text_name(position, name)
        and all(text in _NOTHING or labels.read_number(text) is not None for text in column)
    ]


# --- one row a case --------------------------------------------------------------------------------------------------


def read_genes(path: Path | str, *, known_cases: Collection[str] | None, ignore: Sequence[str] = ()) -> GeneTable:
    """The genes of each case, whichever way round the table is; primary samples only.

    Args:
        path: the table; cases or samples in rows and genes in columns, or transposed.
        known_cases: the slides' cases, by which ids are recognised that are not TCGA's; None: whatever is there.
        ignore: columns that are neither genes nor annotations.

    Raises:
        InputError: what `read_table` refuses, no case in common, genes that are not numbers, cases that disagree.
    """
    path, notes = Path(path), list[str]()
    known = None if known_cases is None else frozenset(barcodes.case_of(case) for case in known_cases)
    frame = _cases_in_rows(path, read_table(path), known, notes)
    id_column = _id_column(path, frame, known, notes, samples=True)
    ignored = [column for column in frame.columns if column in set(ignore)]
    if ignored:
        notes.append(f"columns left out as configured: {some(ignored)}")
    frame, ids, dropped = _primary(path, frame.drop(columns=ignored), id_column, known)
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


def _cases_in_rows(path: Path, frame: pd.DataFrame, known: frozenset[str] | None, notes: list[str]) -> pd.DataFrame:
    """The table with cases in rows, whichever way round it came."""
    in_rows = max((sum(_is_id(v, known) for v in frame[c]) for c in _text_columns(frame)), default=0)
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

    candidates = _text_columns(frame)
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
        there = some([identifier for identifier in ids if identifier])
        raise InputError(
            f"{path}: not one case in common: column {id_column or '(unnamed)'} has {there}; the slides (or genes) are of "
            f"{some(sorted(known))}; write the ids the same way (a manifest can say the slides' cases)"
        )
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


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def is_annotation(name: str) -> bool:
    """Whether a column of this name speaks of ids, labels or patients, and so is never a gene."""
    words = _words(name)
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
    words = [column for column in _text_columns(rest) if _is_words(rest[column])]
    no_gene = {*named, *words}
    others = [column for column in columns if column in no_gene]
    genes = [column for column in columns if column not in no_gene]
    if named:
        notes.append(
            f"taken as labels or annotations, not as genes: {', '.join(name or '(unnamed)' for name in named)}"
        )
    if words:
        notes.append(f"taken as annotations, for they hold words: {', '.join(words)}")
    if not genes:
        raise InputError(f"{path}: no column of numbers that could be a gene, among {some(list(frame.columns))}")
    return genes, others


def _is_words(values: pd.Series) -> bool:
    """Whether a text column holds words and nothing that was meant as a number."""
    there = values.dropna().astype(str)
    return len(there) > 0 and not there.map(lambda text: _NUMBER_LIKE.fullmatch(text) is not None).any()


def _numbers(path: Path, frame: pd.DataFrame, genes: list[str], ids: list[str]) -> np.ndarray:
    """The genes' values, float64 (rows, genes); what is not a finite number is refused by row and column."""
    try:
        values = frame[genes].to_numpy().astype(np.float64)
    except ValueError:
        values = None
    if values is None:
        for column in genes:
            bad = pd.to_numeric(frame[column], errors="coerce").isna() & frame[column].notna()
            if bad.any():
                _refuse_gene(path, ids[int(bad.argmax())], column, frame[column].iloc[int(bad.argmax())])
        raise InputError(f"{path}: the genes cannot be read as numbers; write plain decimal numbers")
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        row, at = infinite[0]
        _refuse_gene(path, ids[row], genes[at], values[row, at])
    return values


def _refuse_gene(path: Path, row: str, column: str, value: object) -> None:
    raise InputError(
        f'{path}: row {row}, column {column}: "{value}" is not a finite number; correct it, leave it empty if it is missing, '
        f"or leave the column out with the ignore option if it is no gene (decimals take a point)"
    )
