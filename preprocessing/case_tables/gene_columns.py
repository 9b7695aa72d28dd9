"""Which columns of a table of cases are features, and which describe ids, labels, scores or patients."""

import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from preprocessing.case_tables.column_names import is_label
from preprocessing.case_tables.gene_names import are_integers, is_accession, is_counter, is_gene_name
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError, count, some
from preprocessing.tables.reading import names_in, text_columns, words_of

ROW_NUMBERS = re.compile(r"|index|row(_?names?|_?num(ber)?s?)?|nr|no|s_?no|unnamed(_\d+)*|x(_\d+)?")
ENOUGH_ROWS = 10  # that a column which counts them, one by one, is no gene

# A column of which any word is here is never a gene. No word is a gene's symbol, nor a part of one between hyphens
# (ids, mag and efs are: such columns are known by their whole name).
_LABEL_WORDS = frozenset(
    names_in(
        "grade survival censorship censored censor event events vital status subtype subtypes diagnosis day days month "
        "months week weeks year years death dead deceased died alive living followup recurrence progression relapse "
        "metastasis stage age sex gender race ethnicity female male site train project histology histological "
        "morphology oncotree karnofsky kps ecog purity estimate score cluster class label labels target outcome "
        "response treatment therapy radiation chemotherapy time tumor tumour cancer disease patient sample case slide "
        "slides barcode id batch cohort fold split who codel codeletion mpp date count counts burden fraction percent "
        "ploidy height weight volume dose interval hazard risk group type surv cens exitus resection"
    )
)
_NO_GENES = {"bmi", "eor", "rin", "tmb"}  # as the whole name: body mass, extent of resection, RNA integrity, mutations
_ENDPOINTS = {"os", "pfs", "dss", "pfi", "dfi", "dfs", "rfs"}  # as the first word: OS_MONTHS, PFI.time; EFS is a gene
_LABEL_PARTS = ("survival", "censor", "subtype", "diagnos", "histolog", "oncotree", "vitalstat", "followup")
_LABEL_ENDS = ("grade", "event", "status", "death", "months", "days")  # tumorgrade, timetoevent
# What a spreadsheet makes of SEPT2, MARCH1 and DEC1 (Ziemann et al., Genome Biology 2016).
_MONTH = "(mar|mrz|mär|sept?|oct|okt|dec|dez|nov|apr|feb)"
DATED_GENE = re.compile(
    rf"\d{{1,2}}[-/. ]+{_MONTH}\.?([-/. ]+\d+)?|{_MONTH}[-/. ]+\d{{1,4}}|"
    r"\d{4}-\d\d-\d\d( 00:00:00)?|\d{1,2}([/.])\d{1,2}\3\d{2,4}",
    re.IGNORECASE,
)
# Components, scores and outcomes that are called like genes, or whose names are aliases of genes.
_SCORES = re.compile(
    r"(pc|pca|dim|umap|tsne|component|factor)_?\d+|ttp|tte|lts|idh|ki_?67(_.*)?|(g_)?cimp(_.*)?|mdnasi|mrnasi|m_dnasi|m_rnasi|"
    r"absolute|os|lgg|gbm|gbmlgg|race|msi|hrd|tmb|p_value|(pearson_)?correlation|rmse"  # the last three: CIBERSORT
)
ENOUGH_GENES = 10  # with names, to tell by them that others are none
FEW_UNNAMED, FEW_UNNAMED_SHARE, MOST_UNNAMED_SHARE = 20, 0.02, 0.4
LISTED = 30
FROM_DATES = "a spreadsheet made dates of names such as SEPT2 or MARCH1"
_RENAMED_GENE = re.compile(r"(.+)\.\d{1,2}")  # what pandas and R make of a second EGFR: EGFR.1
# No gene is called so: words with blanks between them, or in small letters and without a digit.
_ODD_GENE = re.compile(r"\w+ .*|[a-z][a-z_.]*")
_NUMBER_LIKE = re.compile(
    r"[-+−]?([\d.,]*\d[\d.,]*(e[-+]?\d+)?\s*%?|\d{1,3}([ \u00a0\u202f'’]\d{3})+([.,]\d+)?)", re.IGNORECASE
)


def is_annotation(name: str) -> bool:
    """Whether a column of this name describes ids, labels, scores or patients, and so is never a gene."""
    if is_accession(name):
        return False
    words = words_of(name)
    if _SCORES.fullmatch("_".join(words)):
        return True
    if name.startswith("...") or ROW_NUMBERS.fullmatch("_".join(words)):  # "...1" is a tibble's column without a name
        return True
    if is_label(name) or (words and words[0] in _ENDPOINTS):
        return True
    if (
        name in ("n_slides", "slide_ids", "has_rna", "mag")
        or name.lower() in _NO_GENES
        or any(word in _LABEL_WORDS for word in words)
    ):
        return True
    long_words = [word.rstrip("0123456789") for word in words]
    if any(word in _LABEL_WORDS and len(word) > 4 for word in long_words):
        return True
    return any(word.endswith(_LABEL_ENDS) or any(part in word for part in _LABEL_PARTS) for word in words)


def gene_columns(
    path: Path,
    frame: pd.DataFrame,
    id_column: str,
    notes: list[str],
    options: TableOptions,
    *,
    features: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """Return the columns that are features, and the others except the ids.

    Args:
        path: the file.
        frame: cases in rows.
        id_column: the column of ids.
        notes: what was left out, and warnings of odd names.
        options: columns that are features, or that the run names for something else, whatever they are called.
        features: of a trained model.

    Raises:
        InputError: no features, or features that are row numbers.
    """
    columns, kept = [column for column in frame.columns if column != id_column], {*options.keep, *features}
    no_genes = {*options.labels, *options.named}
    named = [column for column in columns if column in no_genes or (column not in kept and is_annotation(column))]
    rest = set(columns) - set(named)
    words = [column for column in text_columns(frame) if column in rest and _is_words(frame[column])]
    counters = [column for column in _row_counters(frame) if column in rest and column not in kept]
    no_gene = {*named, *words, *counters}
    genes = [column for column in columns if column not in no_gene]
    if named:
        notes.append(f"read as labels or annotations, not as genes: {', '.join(name or '(unnamed)' for name in named)}")
    if words:
        notes.append(f"read as annotations, since they contain words: {', '.join(words)}")
    if counters:
        notes.append(f"read as row numbers, not as genes: {', '.join(counters)}")
    _require_names(path, frame, genes, kept)
    genes = _without_unnamed(genes, kept, notes)
    _warn_of_names(genes, notes)
    left = set(genes)
    return genes, [column for column in columns if column not in left]


def _require_names(path: Path, frame: pd.DataFrame, genes: list[str], kept: Collection[str]) -> None:
    if dated := [name for name in genes if DATED_GENE.fullmatch(name) and name not in kept]:
        raise InputError(
            f"{path}: {count(len(dated), 'gene')} with names like dates ({some(dated)}): {FROM_DATES}, "
            "and no gene set or trained model would find them; correct the names, leave the genes out with "
            "--set 'omics.ignore=[…]', or keep them as they are with --set 'omics.keep=[…]'"
        )
    if not genes:
        remedy = (
            "is it separated by commas, semicolons or tabs, and the header its first line?"
            if len(frame.columns) == 1
            else "write each gene's values as plain numbers, mutations as 1 and 0"
        )
        if any(map(is_label, frame.columns)):
            remedy = "a table of labels is given with --clinical, and GENES is the gene table, or none"
        raise InputError(
            f"{path}: no column of numbers that could be a gene, among {some(list(frame.columns))}; {remedy}"
        )
    if is_counter(genes):
        raise InputError(
            f"{path}: the genes are called {some(genes)}, which are row numbers; write their names into the header, or give the "
            "column of gene names as the first"
        )


def _without_unnamed(genes: list[str], kept: Collection[str], notes: list[str]) -> list[str]:
    """The features without those that have no gene name among many that do: labels and scores rather than genes."""
    known = [name for name in genes if name in kept or is_gene_name(name)]
    unknown = sorted(set(genes) - set(known), key=genes.index)
    if len(known) < max(ENOUGH_GENES, len(genes) / 2):
        return genes
    few = len(unknown) <= max(min(FEW_UNNAMED, MOST_UNNAMED_SHARE * len(genes)), FEW_UNNAMED_SHARE * len(genes))
    if unknown and few:
        notes.append(
            f"warning: {count(len(unknown), 'column')} without a gene name, among {len(known)} with one, left out: "
            f"{', '.join(unknown[:LISTED])}{', …' if len(unknown) > LISTED else ''}; "
            "--set 'omics.keep=[…]' keeps those that are genes"
        )
        return [name for name in genes if name not in set(unknown)]
    if unknown:
        notes.append(f"{len(unknown)} of {len(genes)} features have no known gene name: {some(unknown)}")
    return genes


def _row_counters(frame: pd.DataFrame) -> list[str]:
    """Columns that count the rows."""
    if len(frame) < ENOUGH_ROWS:
        return []
    numbers = frame.iloc[:2].select_dtypes("number")
    likely = numbers.columns[numbers.iloc[1].to_numpy() - numbers.iloc[0].to_numpy() == 1]
    return [column for column in likely if (frame[column].diff()[1:] == 1).all()]


def _warn_of_names(genes: list[str], notes: list[str]) -> None:
    if are_integers(genes):
        notes.append(f"warning: gene names are bare integers ({some(genes)}), read as Entrez ids; check that they are")
    every = set(genes)
    if again := [name for name in genes if (found := _RENAMED_GENE.fullmatch(name)) and found[1] in every]:
        notes.append(
            f"warning: {count(len(again), 'gene name')} with a suffix that programs give to duplicates ({some(again)}), taken for "
            "separate genes; keep one of each"
        )
    spellings: dict[str, str] = {}
    twice = [f"{other} and {name}" for name in genes if (other := spellings.setdefault(name.upper(), name)) != name]
    if twice:
        notes.append(
            f"warning: {count(len(twice), 'gene')} with the name of another but for capitals ({some(twice)}), which count as "
            "separate genes; keep one of each"
        )
    odd = [name for name in genes if _ODD_GENE.fullmatch(name)]
    if 0 < len(odd) < len(genes) / 2:
        notes.append(
            f"warning: read as genes, though named unlike genes: {some(odd)} ({count(len(odd), 'column')}); leave out what is no "
            "gene with --set 'omics.ignore=[…]'"
        )


def _is_words(values: pd.Series) -> bool:
    """Whether a text column contains words, and nothing that was meant as a number."""
    there = values.dropna().astype(str)
    return len(there) > 0 and not there.map(lambda text: _NUMBER_LIKE.fullmatch(text) is not None).any()
