"""Columns of samples in a gene table with genes in rows: one value per sample, under the sample's id."""

import re
from collections.abc import Sequence
from pathlib import Path

from preprocessing.case_tables.comparisons import comparison_columns
from preprocessing.io.errors import InputError, some
from preprocessing.tables.reading import names_in

_PARTS = r"[\s._:-]+"
# Columns of a sample beside its value: of Illumina's GenomeStudio, of methylation arrays, of CPTAC's mass spectrometry.
_COMPANION = re.compile(
    rf"(.+?){_PARTS}(detection[\s._]*p[\s._-]*val(ue)?s?|p[\s._-]?val(ue)?s?|bead[\s._]?std[\s._]?err|(avg[\s._]?)?nbeads|narrays|"
    r"array[\s._]?stdev|(min|max)[\s._]?signal|unshared log ratio)",
    re.IGNORECASE,
)
_VALUE = re.compile(
    rf"(.+?){_PARTS}(avg[\s._]?signal|avg[\s._]?beta|beta([\s._]?value)?|log ratio|tpm|fpkm|rpkm|((raw|expected)[\s._]?)?counts?|"
    r"(un)?methylated[\s._]signal|signal[\s._]?[ab])",
    re.IGNORECASE,
)
# Aligned reads, as featureCounts names the samples.
_ALIGNED = re.compile(
    r"(?:.*/)?([^/]+?)(?:[._](?:aligned|sorted|sortedbycoord|out|dedup|markdup))*\.(?:bam|cram|sam)", re.IGNORECASE
)
# Columns of a table of one sample, and of the result of a comparison (limma, DESeq2, edgeR).
_MEASURES = frozenset(
    names_in(
        "read_count reads_per_million_mirna_mapped unstranded tpm fpkm rpkm count counts raw_count normalized_count "
        "scaled_estimate expected_count est_counts eff_length effective_length numreads value abs_call basemean base_mean "
        "log2foldchange log2_fold_change log2fc logfc log_fc lfcse stat pvalue p_value padj adj_p_val fdr q_value aveexpr "
        "ave_expr hazard_ratio hr"
    )
)


def name_samples(path: Path, columns: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Return the columns of values, and the id of the sample of each: without p-values, and without the name of the value.

    Args:
        path: the file.
        columns: those that do not describe the genes.
        notes: what was left out or renamed is appended.

    Raises:
        InputError: several values per sample, or measures instead of samples.
    """
    columns = _without_comparison(path, columns, notes)
    measures = [column for column in columns if re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_") in _MEASURES]
    if columns and len(measures) >= len(columns) / 2:
        raise InputError(
            f"{path}: its columns are {some(columns)}, which are measures, not samples: a table of one sample, or the result of "
            "a comparison; make one table with a column per sample under its id"
        )
    companions = {column for column in columns if _COMPANION.fullmatch(column)}
    values = [column for column in columns if column not in companions] or list(columns)
    ids, suffixes = _without_suffixes(values)
    if len(set(ids.values())) < len(values):
        raise InputError(
            f"{path}: several values per sample ({suffixes}), as in {some(values)}; keep one column per sample"
        )
    if companions - set(values):
        notes.append(f"{len(companions)} columns of samples are no values and are left out: {some(sorted(companions))}")
    if suffixes:
        notes.append(f"samples are named without {suffixes}: {some(ids.values())}")
    return ids


def _without_comparison(path: Path, columns: Sequence[str], notes: list[str]) -> Sequence[str]:
    """The columns without those of a differential-expression result; InputError where there are no others."""
    compared = comparison_columns(columns)
    if not compared:
        return columns
    if rest := [column for column in columns if column not in compared]:
        listed = ", ".join(column for column in columns if column in compared)
        notes.append(f"columns of a differential-expression result, which are no cases, left out: {listed}")
        return rest
    raise InputError(
        f"{path}: is a differential-expression result ({some(columns)}), which compares groups and has no values of cases; give "
        "the table of expression that was compared, with a column per sample under its id"
    )


def _without_suffixes(columns: Sequence[str]) -> tuple[dict[str, str], str]:
    """The id of each column, and what was taken off all of them: the name of the value, or folder and suffix of a file."""
    named = {column: found for column in columns if (found := _VALUE.fullmatch(column))}
    if named and len(named) == len(columns):
        kinds = sorted({found[2].lower() for found in named.values()})
        return {column: found[1] for column, found in named.items()}, " and ".join(kinds)
    files = {column: found[1] for column in columns if (found := _ALIGNED.fullmatch(column))}
    if files and len(files) == len(columns):
        return files, "folder and suffix"
    return {column: column for column in columns}, ""
