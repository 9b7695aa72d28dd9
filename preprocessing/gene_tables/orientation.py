"""Which side of a gene table holds the cases, and which column the gene names.

The evidence, in this order: ids that other inputs of the run know; barcodes of a known scheme; the features of a trained
model; the names of columns; what looks like gene names and labels. A position alone is no evidence. Where two
readings remain, an error names the option that decides.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from preprocessing.case_tables.column_names import is_label, plain_name
from preprocessing.case_tables.gene_names import SURE_GENE_NAMES, gene_share, is_counter
from preprocessing.case_tables.id_columns import SURE_KINDS, Evidence, has_measurement, id_kind
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.gene_tables.gene_rows import transposed
from preprocessing.io.errors import InputError, count, some
from preprocessing.tables.reading import text_columns

MOST = 0.5  # of the names are genes, where the names are those of genes
_ASK = "name the column of case ids with --id-column, or the orientation with --genes-in rows or --genes-in columns"


def cases_in_rows(
    path: Path, frame: pd.DataFrame, evidence: Evidence, options: TableOptions, notes: list[str]
) -> pd.DataFrame:
    """Return a gene table with the cases in rows, whichever way round it is in the file.

    Raises:
        InputError: the file of one GDC sample; no gene names; or two readings remain, with the options that decide.
    """
    if len(frame.columns) == 1:
        raise InputError(
            f"{path}: only one column, {some(frame.columns)}: is the file separated by commas, semicolons "
            "or tabs, and the header its first line?"
        )
    if {"unstranded", "tpm_unstranded"} <= set(frame.columns):
        raise InputError(
            f"{path}: is the GDC's file of one sample; join one column of each sample's file, as tpm_unstranded, to one table: "
            "genes in rows, and a column per sample under its barcode"
        )
    side, ground = _side_of_genes(path, frame, evidence, options)
    if side == "columns":
        notes.append(f"orientation: cases in rows, genes in columns ({ground})")
        return frame
    notes.append(f"orientation: genes in rows, cases in columns ({ground}): transposed")
    return transposed(path, frame, evidence, notes)


def _side_of_genes(path: Path, frame: pd.DataFrame, evidence: Evidence, options: TableOptions) -> tuple[str, str]:
    """Where the genes are, "columns" or "rows", and by which evidence."""
    if options.genes_in:
        return options.genes_in, f"genes in {options.genes_in}, as given"
    if options.id_column is not None and options.id_column in frame.columns:
        return "columns", f"--id-column {options.id_column}"
    texts = text_columns(frame)
    in_rows = max((sum(evidence.is_id(value) for value in frame[column]) for column in texts), default=0)
    in_header = sum(evidence.is_id(column) for column in frame.columns)
    if in_rows != in_header:
        side, n = ("columns", in_rows) if in_rows > in_header else ("rows", in_header)
        return side, f"{count(n, 'id')} recognised"
    by_names = _by_column_names(frame, texts)
    if in_rows or by_names:
        return by_names or ("columns", f"{in_rows} ids recognised")
    return _by_gene_names(path, frame, texts, evidence)


def _by_column_names(frame: pd.DataFrame, texts: Sequence[str]) -> tuple[str, str] | None:
    """The side that a column of gene names, or of ids, settles; None where no column is called so, or both are."""
    names = [column for column in texts if not is_counter(list(frame[column]))]
    of_genes = next((column for column in names if plain_name(column) in SURE_GENE_NAMES), None)
    of_ids = next((column for column in names if id_kind(column) in SURE_KINDS), None)
    if of_genes is not None and of_ids is None and of_genes == names[0]:
        return "rows", f"column {of_genes} names genes"
    if of_ids is None or (of_genes is not None and plain_name(of_ids) == "id"):
        return None
    # UCSC Xena calls its column of genes `sample`; patients may be called like genes (GB12, CT3).
    is_of_genes = gene_share(list(frame[of_ids])) >= MOST
    if is_of_genes and (id_kind(of_ids) != "case" or gene_share(list(frame.columns)) < MOST):
        return None
    return "columns", f"column {of_ids} names cases"


def _by_gene_names(path: Path, frame: pd.DataFrame, texts: Sequence[str], evidence: Evidence) -> tuple[str, str]:
    """The side whose names are genes or labels; InputError where that cannot be seen."""
    header = [column for column in frame.columns if column]
    columns = {column: [value for value in frame[column] if isinstance(value, str)] for column in texts}
    shared = sum(name in evidence.features for name in header)
    shared_rows = max((sum(value in evidence.features for value in values) for values in columns.values()), default=0)
    if shared != shared_rows:
        side, n = ("columns", shared) if shared > shared_rows else ("rows", shared_rows)
        return side, f"{n} genes of the trained model"
    of_header, of_rows = gene_share(header), max(map(gene_share, columns.values()), default=0.0)
    if (of_header >= MOST) != (of_rows >= MOST):
        return ("columns" if of_header > of_rows else "rows"), "gene names recognised"
    labels = sum(map(is_label, header))
    labels_in_rows = max((sum(map(is_label, values)) for values in columns.values()), default=0)
    if of_header < MOST and labels != labels_in_rows:
        return ("columns" if labels > labels_in_rows else "rows"), "labels recognised"
    if not texts or all(has_measurement(values) for values in columns.values()):
        raise InputError(
            f"{path}: no column of case ids: every column holds numbers; add one called case_id (or name one with --id-column)"
        )
    header_names = f"the header ({some(header)})"
    column_values = f"the column {texts[0] or '(unnamed)'} ({some(frame[texts[0]].dropna())})"
    if of_header >= MOST:
        raise InputError(f"{path}: gene names are recognised in both, {header_names} and {column_values}; {_ASK}")
    raise InputError(
        f"{path}: neither gene names nor case ids are recognised, in {header_names} or in {column_values}; {_ASK}"
    )
