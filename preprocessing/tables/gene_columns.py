"""Which columns of a table of cases are genes, and which speak of ids, labels or patients."""

import re
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import InputError, some
from preprocessing.tables.column_names import is_label
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
FROM_DATES = "a spreadsheet made dates of names such as SEPT2 or MARCH1"
_RENAMED_GENE = re.compile(r"(.+)\.\d{1,2}")  # what pandas and R make of a second EGFR: EGFR.1
# No gene is called so: words with blanks between them, or in small letters and without a digit.
_ODD_GENE = re.compile(r"\w+ .*|[a-z][a-z_.]*")
_NUMBER_LIKE = re.compile(
    r"[-+−]?([\d.,]*\d[\d.,]*(e[-+]?\d+)?|\d{1,3}([ \u00a0\u202f'’]\d{3})+([.,]\d+)?)", re.IGNORECASE
)


def is_annotation(name: str) -> bool:
    """Whether a column of this name speaks of ids, labels or patients, and so is never a gene."""
    words = words_of(name)
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


def gene_columns(path: Path, frame: pd.DataFrame, id_column: str, notes: list[str]) -> tuple[list[str], list[str]]:
    """The columns that are genes, and those that are not (the ids apart); InputError where there are none."""
    columns = [column for column in frame.columns if column != id_column]
    named = [column for column in columns if is_annotation(column)]
    rest = frame.drop(columns=[id_column, *named])
    words = [column for column in text_columns(rest) if _is_words(rest[column])]
    counters = _row_counters(rest)
    no_gene = {*named, *words, *counters}
    others = [column for column in columns if column in no_gene]
    genes = [column for column in columns if column not in no_gene]
    if named:
        notes.append(
            f"taken as labels or annotations, not as genes: {', '.join(name or '(unnamed)' for name in named)}"
        )
    if words:
        notes.append(f"taken as annotations, for they hold words: {', '.join(words)}")
    if counters:
        notes.append(f"taken as row numbers, not as genes: {', '.join(counters)}")
    if not genes:
        remedy = (
            "is it separated by commas, semicolons or tabs, and the header its first line?"
            if len(frame.columns) == 1
            else "write each gene's values as plain numbers, mutations as 1 and 0"
        )
        raise InputError(
            f"{path}: no column of numbers that could be a gene, among {some(list(frame.columns))}; {remedy}"
        )
    _warn_of_names(genes, notes)
    return genes, others


def _row_counters(frame: pd.DataFrame) -> list[str]:
    """Columns that count the rows, one by one."""
    numbers = frame.select_dtypes("number")
    if len(frame) < ENOUGH_ROWS:
        return []
    likely = numbers.columns[numbers.iloc[1].to_numpy() - numbers.iloc[0].to_numpy() == 1]
    return [column for column in likely if (numbers[column].diff()[1:] == 1).all()]


def _warn_of_names(genes: list[str], notes: list[str]) -> None:
    if dated := [name for name in genes if DATED_GENE.fullmatch(name)]:
        notes.append(
            f"warning: {len(dated)} genes are called like dates ({some(dated)}): {FROM_DATES}, and no gene set will find "
            "them; correct the names"
        )
    every = set(genes)
    if again := [name for name in genes if (found := _RENAMED_GENE.fullmatch(name)) and found[1] in every]:
        notes.append(
            f"warning: {len(again)} genes seem to be there more than once, renamed by a program ({some(again)}), and count as "
            "genes of their own; keep one of each"
        )
    odd = [name for name in genes if _ODD_GENE.fullmatch(name)]
    if 0 < len(odd) < len(genes) / 2:
        notes.append(
            f"warning: {len(odd)} columns are taken as genes, though they are not called like any: {some(odd)}; leave them out "
            "with omics.ignore if they are none"
        )


def _is_words(values: pd.Series) -> bool:
    """Whether a text column holds words and nothing that was meant as a number."""
    there = values.dropna().astype(str)
    return len(there) > 0 and not there.map(lambda text: _NUMBER_LIKE.fullmatch(text) is not None).any()
