"""Gene tables with genes in rows: transposed, with the name of each gene and one value per sample."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from preprocessing.case_tables.column_names import plain_name
from preprocessing.case_tables.gene_columns import DATED_GENE, FROM_DATES
from preprocessing.case_tables.gene_names import GENE_METADATA, GENE_NAMES, are_integers, is_counter
from preprocessing.case_tables.id_columns import Evidence, has_measurement
from preprocessing.gene_tables.sample_columns import name_samples
from preprocessing.io.errors import InputError, some

_SUMMARY_ROWS = frozenset({"Mean", "Median", "StdDev"})  # above the proteins in CPTAC's reports
_LIST_REMEDY = (
    "a list with one value per row (gene, sample, value) has to be made a table first, with a row per gene and a column per "
    "sample: pandas.read_table(FILE).pivot(index=GENE, columns=SAMPLE, values=VALUE)"
)
_LISTED_TWICE = 2  # rows per gene from which on a table is a list of single values


def transposed(path: Path, frame: pd.DataFrame, evidence: Evidence, notes: list[str]) -> pd.DataFrame:
    """Return a table of genes in rows with the cases in rows under `case_id`, and the genes' names as columns.

    Raises:
        InputError: no names of genes, names that several genes share, or no or several values per sample.
    """
    metadata = [c for c in frame.columns if not evidence.is_id(c) and _is_gene_metadata(frame, c)]
    described = set(metadata)
    samples = name_samples(path, [c for c in frame.columns if c not in described], notes)
    if not samples:
        words = next(
            (str(v) for c in metadata for v in frame[c].dropna() if any(map(str.isdigit, str(v))) and "," in str(v)), ""
        )
        example = f" ({words} is none: decimals take a point, and nothing separates thousands)" if words else ""
        raise InputError(
            f"{path}: genes are in rows, but there is no column of plain numbers for a case beside their names{example}"
        )
    frame, names = _gene_names(path, frame, metadata, evidence, notes)
    turned = pd.DataFrame(frame[list(samples)].to_numpy().T, columns=names)
    if turned.shape[1] and "case_id" in turned:
        turned = turned.drop(columns="case_id")
    turned.insert(0, "case_id", list(samples.values()))
    return turned


def _is_gene_metadata(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column of a transposed table describes the genes: by its name, as text or as a counter."""
    if plain_name(column) in GENE_METADATA:
        return True
    values = frame[column]
    if values.dtype.kind == "O":
        return bool(pd.to_numeric(values, errors="coerce").isna().all()) or is_counter(list(values)) or column == ""
    return not column or (column == frame.columns[0] and is_counter(values.astype("Int64").astype(str).tolist()))


def _gene_names(
    path: Path, frame: pd.DataFrame, metadata: Sequence[str], evidence: Evidence, notes: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of genes, and the gene of each by symbol; where rows share one or have none, another name is appended."""
    texts = [c for c in metadata if frame[c].dtype.kind == "O" or plain_name(c) in GENE_METADATA]
    columns = {c: _texts(frame[c]) for c in texts}
    columns = {c: v for c, v in columns.items() if v.notna().any() and not is_counter(v.dropna().tolist())}
    columns = {c: values for c, values in columns.items() if not has_measurement(values.dropna())}
    if not columns:
        raise InputError(
            f"{path}: cases are in columns, but no column names the genes (row numbers are no gene names); add one, as the first"
        )
    best, *others = sorted(columns, key=lambda column: _rank(frame, column, columns[column].dropna(), evidence))
    names = columns[best]
    shared = names.isna() | names.duplicated(keep=False)
    appended = pd.Series("", index=names.index, dtype="string")
    used = ""
    for other in others if shared.any() else ():
        fills = shared & (appended == "") & columns[other].notna()
        if fills.any() and len(columns[other][fills].unique()) > 1:
            appended, used = appended.mask(fills, "|" + columns[other]), used or other
    if used and min(_rows_per_name(names), _rows_per_name(columns[used])) >= _LISTED_TWICE:
        raise InputError(f"{path}: columns {best} and {used} both repeat their values; {_LIST_REMEDY}")
    complete = names.fillna("?") + appended
    notes.append(f"gene names: column {best or '(unnamed)'}")
    if used:
        without = f"{int((appended != '').sum())} rows without a name of their own: {some(complete[appended != ''])}"
        notes[-1] += f", with {used} appended in {without}"
    left_out = [column or "(unnamed)" for column in metadata if column not in (best, used)]
    notes[-1] += f"; not used: {some(left_out)}" if left_out else ""
    return _named_rows(path, frame, best, complete.mask(names.isna() & (appended == "")), notes)


def _rank(frame: pd.DataFrame, column: str, values: pd.Series, evidence: Evidence) -> tuple[float, bool, int, int]:
    """Lower is better: genes of the trained model, names before integers, place among the usual names, position."""
    name = plain_name(column)
    place = GENE_NAMES.index(name) if name in GENE_NAMES else len(GENE_NAMES)
    share = float(values.isin(evidence.features).mean()) if evidence.features else 0.0
    return -round(share, 1), are_integers(values.tolist()), place, list(frame.columns).index(column)


def _named_rows(
    path: Path, frame: pd.DataFrame, column: str, names: pd.Series, notes: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The rows that have a name, which no other row has; summaries of the samples above the genes are left out."""
    summaries = names.isin(_SUMMARY_ROWS)
    if int(summaries.sum()) == len(_SUMMARY_ROWS) == int(summaries.head(len(_SUMMARY_ROWS)).sum()):
        notes.append(f"rows that summarise the samples, left out: {some(names[summaries])}")
        frame, names = frame[~summaries], names[~summaries]
    nameless = names.isna()
    if nameless.mean() > 0.5:
        raise InputError(
            f"{path}: {int(nameless.sum())} of {len(names)} rows have no gene name in column {column or '(unnamed)'}, such as row "
            f"{names.index[nameless][0]}; name the genes"
        )
    if nameless.any():
        rows = some(map(str, names.index[nameless]))
        notes.append(f"warning: {path}: {int(nameless.sum())} rows without a gene name are left out: row {rows}")
        frame, names = frame[~nameless], names[~nameless]
    if names.duplicated().any():
        _refuse_duplicates(path, names)
    return frame, names.tolist()


def _texts(values: pd.Series) -> pd.Series:
    """Values as texts, whole numbers without a point (Entrez ids that R or pandas wrote as 1956.0); missing ones stay."""
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]
    texts = [text[:-2] if text.endswith(".0") and text[:-2].isdecimal() else text for text in texts]
    return pd.Series(texts, index=values.index, dtype="string").mask(values.isna())


def _rows_per_name(names: pd.Series) -> float:
    return float(names.notna().sum() / max(1, names.nunique()))


def _refuse_duplicates(path: Path, names: pd.Series) -> None:
    twice = sorted(set(names[names.duplicated()].astype(str)))
    if any(map(DATED_GENE.fullmatch, twice)):
        remedy = f"{FROM_DATES}: correct them"
    elif len(names) > 2 * _LISTED_TWICE and _rows_per_name(names) >= _LISTED_TWICE:
        remedy = _LIST_REMEDY
    else:
        remedy = "keep one row of each"
    raise InputError(f"{path}: {len(twice)} duplicate genes: {some(twice)}; {remedy}")
