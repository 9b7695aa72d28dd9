"""Which tumour the words of a table name: gliomas, to which WHO 2021 and its leakage rules apply, and glioblastomas among them.

A glioblastoma is of grade 4 by definition, which is why tables often leave its grade out.
"""

import re

import pandas as pd

from preprocessing.case_tables.column_names import names_tumour
from preprocessing.labels.columns import text_of
from preprocessing.tables.reading import names_in, text_columns, words_of

GLIOMA, OTHER = "glioma", "other"
_WORDS = re.compile(r"gliom|glioblast|astrocyt|oligodendro|(?<![a-z])(gbm|lgg|idh)", re.IGNORECASE)
GLIOBLASTOMA_GRADE = 4  # of histological glioblastoma, by every edition of the WHO classification
_INTEGRATED = frozenset(names_in("integrated molecular who2021 2021 cns5"))
_GLIOBLASTOMA = re.compile(r"(?<![a-z])(glioblastom(a|e|as|es)?|gbm|gliosarkom|gliosarcom[ae])(?![a-z])")
_DOUBT = re.compile(
    r"(?<![a-z])(no|not|non|without|like|or|vs|versus|suspect\w*|possibl[ey]|probabl[ey]|rule|history|prior|progress\w*|"
    r"favou?r\w*|lgg|hgg|lower[\s_-]?grade)(?![a-z])|\?"
)
_UNSPECIFIED = re.compile(r"not (otherwise specified|elsewhere classified)")
_OTHER_GLIOMA = re.compile(
    r"astrocyt|astrozyt|oligo|ependym|ganglio|xantho|midline|lower.?grade|(?<![a-z])lgg(?![a-z])"
)


_DENIED = re.compile(
    r"(?<![a-z])(no|not|without) (?!otherwise|elsewhere)[^,;.()]*|"
    r"h3[\s_.-]?((3|k27|g34)[\s_.-]?[a-z]?[\s_./-]?)*[\s_-]?(wild|wt|neg|unmut|not)[\w-]*"
)
# Tumours that are no adult-type diffuse glioma, by a piece of their name.
_OTHER_TUMOUR = re.compile(
    r"medulloblast|ependym|pilocytic|pilozyt|xanthoastro|ganglio|neurocytom|meningi|metasta|lymphom|craniophar|schwannom|germinom|"
    r"embryonal|atrt|at/rt|h3[ _.-]?(k27|g34)|midline glioma|subependym|choroid|pituitar|adenom|sarcoma of|carcinom|melanom"
)


def other_tumours(frame: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return the diagnosis of each case that is of no adult-type diffuse glioma by the first column that says so; else missing."""
    found = pd.Series(pd.NA, index=frame.index, dtype="string")
    for column in columns:
        words = frame[column].map(text_of, na_action="ignore")
        is_other = words.map(lambda text: _is_other_tumour(text.lower()), na_action="ignore").eq(True)
        found = found.mask(found.isna() & is_other, words)
    return found


def _is_other_tumour(text: str) -> bool:
    text = _DENIED.sub("", text)
    is_of_adults = re.search(r"glioblast|oligodendro|(?<![a-z])(gbm|idh)", text) and not re.search(r"h3|midline", text)
    return _OTHER_TUMOUR.search(text) is not None and not is_of_adults


def recognise_tumour(annotations: pd.DataFrame) -> str:
    """Return GLIOMA where a column or a word in the clinical columns names one, or IDH status; else OTHER."""
    if any(_WORDS.search(str(column)) for column in annotations.columns):
        return GLIOMA
    texts = annotations.select_dtypes(["object", "string"])
    named = (_WORDS.search(str(value)) for column in texts for value in texts[column].dropna().unique())
    return GLIOMA if any(named) else OTHER


def diagnosis_columns(frame: pd.DataFrame, *, histological: bool = False) -> list[str]:
    """Return the columns of words that name the tumour of each case; with `histological`, without integrated diagnoses."""
    return [column for column in text_columns(frame) if _names_tumour(column, histological=histological)]


def _names_tumour(column: str, *, histological: bool) -> bool:
    return names_tumour(column) and not (histological and _INTEGRATED & set(words_of(column)))


def glioblastomas(frame: pd.DataFrame, columns: list[str]) -> tuple[pd.Series, list[str]]:
    """Return whether any of the columns names a glioblastoma, and none another glioma, for each case (boolean), and which do."""
    other = pd.Series(False, index=frame.index)
    named: dict[str, pd.Series] = {}
    for column in columns:
        words = frame[column].map(lambda value: text_of(value).lower(), na_action="ignore")
        is_named = words.map(_is_glioblastoma, na_action="ignore").eq(True)
        other |= words.map(lambda text: bool(_OTHER_GLIOMA.search(text)), na_action="ignore").eq(True) & ~is_named
        if is_named.any():
            named[column] = is_named
    found = pd.Series(False, index=frame.index) if not named else pd.concat(named, axis=1).any(axis=1)
    return found & ~other, list(named)


def _is_glioblastoma(text: str) -> bool:
    return _GLIOBLASTOMA.search(text) is not None and not _DOUBT.search(_UNSPECIFIED.sub("", text))
