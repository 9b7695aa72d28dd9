"""Clinical tables, in either orientation: brought to one row per case."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from preprocessing.case_tables.case_rows import Dropped, merge_columns, one_row_per_case, select_samples
from preprocessing.case_tables.column_names import is_label
from preprocessing.case_tables.gene_names import is_counter
from preprocessing.case_tables.id_columns import Evidence, choose_id_column, id_kind, with_whole_numbers
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.tables.containers import naming_sheets
from preprocessing.tables.loading import LoadedTable, load_table, sample_table
from preprocessing.tables.reading import read_number, text_columns

_SECOND_HEADERS = ("composite element ref",)  # of Firehose: a row that repeats "value" in every column
_MOST_SUBHEADERS = 3


@dataclass(frozen=True)
class ClinicalTable:
    """The clinical columns with one row per case, as in the file.

    Attributes:
        frame: indexed by case id.
        notes: what was decided.
        dropped: the rows that are not used.
        excluded: cases all of whose samples are of a type that is not used, with the reason.
    """

    frame: pd.DataFrame
    notes: list[str]
    dropped: list[Dropped]
    excluded: dict[str, str] = field(default_factory=dict)


@naming_sheets
def read_clinical(
    path: Path | str,
    evidence: Evidence | None = None,
    options: TableOptions | None = None,
    *,
    loaded: LoadedTable | None = None,
) -> ClinicalTable:
    """Return the clinical columns of each case; rows of one case must agree in the labels, other columns are joined by ";".

    Args:
        path: the table; cases in rows, or attributes in rows (Firehose, LinkedOmics); any layout of `load_table`.
        evidence: from other inputs, on the ids.
        options: of the user.
        loaded: the content of the file, if it was read before.

    Raises:
        InputError: what `load_table` refuses, no case in common, rows of a case that disagree.
    """
    path, notes = Path(path), list[str]()
    evidence, options = evidence or Evidence(), options or TableOptions()
    loaded = loaded or load_table(path)
    notes += loaded.notes(path)
    frame = _without_subheaders(_with_ids_as_header(sample_table(path, loaded), evidence, notes), notes)
    frame = _cases_in_rows(frame, evidence, options, notes)
    frame = with_whole_numbers(frame, notes)
    # Of a sample sheet the samples count, so that one of each case is chosen; barcodes of samples are as good as their cases'.
    is_sheet = evidence.identity.has_sample_sheet
    id_column = choose_id_column(path, frame, evidence, options, notes, samples=is_sheet)
    rows = select_samples(path, frame, id_column, evidence, options, notes)
    cases, firsts = one_row_per_case(rows.ids, evidence.identity)
    columns = rows.frame.drop(columns=id_column)
    merged = merge_columns(path, columns, cases, firsts, notes, labels=options.labels)
    return ClinicalTable(merged, notes, rows.dropped, rows.excluded)


def _with_ids_as_header(frame: pd.DataFrame, evidence: Evidence, notes: list[str]) -> pd.DataFrame:
    """A table of attributes in rows whose ids are one of them, under a header of V1, V2, … (Firehose's clin.merged)."""
    if len(frame.columns) < 3 or any(map(evidence.is_id, frame.columns)):
        return frame
    names = frame.columns[0]
    likely = [row for row, value in enumerate(frame[names]) if isinstance(value, str) and id_kind(value)]
    for row in likely:
        ids = frame.iloc[row, 1:].tolist()
        if (
            sum(map(evidence.is_id, ids)) > len(ids) / 2
            and len(set(ids)) == len(ids)
            and all(isinstance(i, str) for i in ids)
        ):
            notes.append(f"header: the row {frame.iloc[row, 0]}, which has the ids")
            return frame.drop(index=frame.index[row]).set_axis([names, *ids], axis=1)
    return frame


def _without_subheaders(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table without rows below the header that describe the columns, as TCGA's biotab files have two of."""
    kept = 0
    while kept < min(_MOST_SUBHEADERS, len(frame) - 1) and _is_subheader(frame.iloc[kept]):
        kept += 1
    if not kept:
        return frame
    notes.append(f"{kept} rows below the header, which describe the columns, left out")
    return frame.iloc[kept:]


def _is_subheader(row: pd.Series) -> bool:
    """Whether the cells name their columns (as themselves or by other label names), or give codes of common data elements."""
    cells = {str(name): value for name, value in row.items() if isinstance(value, str)}
    named = sum(value == name or (is_label(value) and is_label(name)) for name, value in cells.items())
    coded = sum(value.startswith("CDE_ID:") for value in cells.values())
    return max(named, coded) > len(row) / 2


def _cases_in_rows(frame: pd.DataFrame, evidence: Evidence, options: TableOptions, notes: list[str]) -> pd.DataFrame:
    """The table with cases in rows: attributes are in rows where ids are in the header, or labels in a column."""
    if options.id_column is not None and options.id_column in frame.columns:
        return frame
    texts = text_columns(frame)
    in_rows = max((sum(map(evidence.is_id, frame[column])) for column in texts), default=0)
    in_header = sum(map(evidence.is_id, frame.columns))
    names = next((c for c in texts if not is_counter(list(frame[c]))), None)
    if names is None:
        return frame
    attributes = [value for value in frame[names] if isinstance(value, str)]
    labels_in_rows, labels_in_header = sum(map(is_label, attributes)), sum(map(is_label, frame.columns))
    by_ids = in_header > in_rows
    if not by_ids and (in_rows or labels_in_rows < 2 or labels_in_header):
        return frame
    ground = f"{in_header} ids in the header" if by_ids else f"{labels_in_rows} labels in column {names or '(unnamed)'}"
    notes.append(f"orientation: attributes in rows, cases in columns ({ground}): transposed")
    return _transposed(frame, names, evidence if by_ids else None)


def _transposed(frame: pd.DataFrame, names: str, evidence: Evidence | None) -> pd.DataFrame:
    """Cases in rows, attributes in columns; a later attribute of the same name is left out."""
    attributes = frame[names].astype("string")
    kept = attributes.notna() & ~attributes.str.lower().isin(_SECOND_HEADERS) & ~attributes.duplicated()
    before = list(frame.columns)[: list(frame.columns).index(names) + 1]
    cases = [c for c in frame.columns if c not in before and (evidence is None or evidence.is_id(c) or _may_be_case(c))]
    turned = pd.DataFrame(frame.loc[kept, cases].to_numpy(dtype=object).T, columns=attributes[kept].tolist())
    for column in turned.columns:
        turned[column] = _as_numbers(turned[column])
    turned = turned.drop(columns="case_id", errors="ignore")
    turned.insert(0, "case_id", cases)
    return turned


def _may_be_case(column: str) -> bool:
    return bool(column) and column.lower() not in ("description", "comment", "unit", "units", "na_count")


def _as_numbers(values: pd.Series) -> pd.Series:
    """The column as float where every value is a plain number without a leading zero, else as text."""
    texts = values.dropna().map(str)
    if texts.map(
        lambda text: read_number(text) is not None and not (len(text) > 1 and text[0] == "0" and text.isdecimal())
    ).all():
        return values.map(lambda value: read_number(str(value)), na_action="ignore").astype(float)
    return values.map(str, na_action="ignore").astype(object)
