"""Sample types: which rows are of primary tumours, by the codes of barcodes and by columns such as PRS_type or sample_type."""

import re
from collections.abc import Collection

import pandas as pd

from preprocessing.io.errors import InputError
from preprocessing.tables.case_ids import TCGA
from preprocessing.tables.reading import words_of

PRIMARY = "primary"
NORMAL = "normal"
CLASSES = (PRIMARY, "recurrent", "secondary", "metastatic", NORMAL, "other")
ALL = frozenset(CLASSES)

# The first pattern that fits a value decides. A column of sample types holds nothing else.
_VALUES = (
    (
        re.compile(
            r"(solid|adjacent|matched|blood|bone marrow|buccal|tissue)?.*\bnormal\b.*|healthy.*|control.*|non ?tumou?r.*"
        ),
        "normal",
    ),
    (re.compile(r"(prior|subsequent|synchronous|additional|second (malignancy|primary)).*"), "other"),
    (re.compile(r"deceased|autops.*|post ?mortem.*"), "other"),
    (re.compile(r"cell ?lines?.*|xenograft.*|organoid.*|premalignant.*"), "other"),
    (re.compile(r".*\b(recurrent|recurrence|relapsed?|rec)\b.*|progressi(on|ve).*|tr|r(?!0)\d*"), "recurrent"),
    (re.compile(r"secondary.*"), "secondary"),
    (re.compile(r".*metasta.*|tm|m(?!0)\d*"), "metastatic"),
    (
        re.compile(r"(new |de novo )?primary.*|initial.*|untreated primary.*|de novo.*|newly diagnosed.*|tp|tb|p"),
        PRIMARY,
    ),
    (re.compile(r"nt|nb|n"), "normal"),
    (re.compile(r"(solid )?tumou?r( tissue)?|t|cancer"), PRIMARY),
)
_NO_TUMOUR = re.compile(
    r"(non|no) ?(tumou?r|neoplas\w+|malignan\w+|glioma|cancer)( (brain|tissue|cortex|control))?|"
    r"(normal|healthy)( (brain|tissue|cortex|white matter|control)){0,2}|(brain )?controls?|epilep\w+( (brain|tissue|surgery))?"
)
_CODES = {
    "1": PRIMARY,
    "2": "recurrent",
    "3": PRIMARY,
    "6": "metastatic",
    "7": "metastatic",
    "10": "normal",
    "11": "normal",
}
_NAMES = re.compile(
    r"(.*_)?(sample|tissue|specimen|prs|tumou?r)_?type(_?id)?|sampletype|(.*_)?(recurrences?|recurrent)(_status)?|"
    r"tumou?r_?descriptor|short_?letter_?code|definition|(.*_)?classification_of_tumou?r|tumou?r_?normal|"
    r"(.*_)?is_primary(_disease)?|(primary|tumou?r)_(recurrent|or_recurrent)(_.*)?|type|primary_recurrent|disease_status"
)
_CODED_NAMES = re.compile(r"(.*_)?sample_?type(_id|_code)?")  # in which 1 and 2 are the codes of barcodes
_FLAG = re.compile(r"(.*_)?is_primary(_disease)?")
# Names that promise sample types so clearly that a few other values among them are no reason to pass the column over.
_SURE_NAMES = re.compile(r"(.*_)?(sample|prs)_?type|sampletype|tumou?r_?descriptor|short_?letter_?code")
MOST = 0.5  # of the rows have a known type then
# Of a tumour by its kind alone: "at recurrence" is when something was done, "progressive disease" an answer to treatment.
_PRIMARY_OR_RECURRENT = re.compile(
    r"((untreated|new|1st|2nd|3rd|first|second|third|\d+) )*"
    r"(primary|initial|de novo|newly diagnosed|recurrent|recurrence|relapsed?|secondary)"
    r"( \d+| \(.*\)| (tumou?rs?|gliomas?|gbm|glioblastomas?|astrocytomas?|samples?|specimens?|tissue|lesions?|cancer|disease))*"
)
_TREATMENT = re.compile(
    r"(chemo|radi|therap|treat|immuno|drug|regimen|respon|timing|trial|rt|tmz|ccrt|outcome|pattern|failure)"
)
_TUMOUR = re.compile(
    r"[a-z]{3,}oma(s|ta)?\b|glio|\b(gbm|lgg|hgg)|tumou?r|neoplas|cancer|malignan|karzin|sarkom|zytom|geom|phom|leuk|metasta"
)
_NEVER = {"event", "progression", "time", "days", "months", "new", "site", "age", "date", "free", "survival"}


def may_hold_sample_types(column: str) -> bool:
    """Whether a column of this name may hold sample types."""
    words = words_of(column)
    return _NAMES.fullmatch("_".join(words)) is not None and not _NEVER & set(words)


def sample_classes(column: str, values: pd.Series) -> pd.Series | None:
    """Return the sample class of each value (NaN where missing or not reported) if the column holds sample types.

    A column counts by its name and by its values, which must be sample types: `Recurrence` with yes and no is an event. Where all
    values are words for primary and recurrent tumours, any name will do but that of a treatment. In a column with a sure name,
    such as `sample_type`, most must be; the others have no class.
    """
    name = "_".join(words_of(column))
    texts = values.dropna().map(lambda value: _plain(str(value)))
    if not may_hold_sample_types(column) and not _distinguishes_recurrence(name, texts):
        return None
    if _FLAG.fullmatch(name):
        flags = {"true": PRIMARY, "yes": PRIMARY, "1": PRIMARY, "false": "other", "no": "other", "0": "other"}
        found = texts.map(flags)
    elif set(texts) <= set(_CODES):
        if not _CODED_NAMES.fullmatch(name) and not values.map(_is_barcode_code, na_action="ignore").any():
            return None  # 1 and 2 of a registry: yes and no, or kinds of tumours
        found = texts.map(_CODES)
    else:
        found = texts.map({text: _class_of(text) for text in texts.unique()})
    enough = found.notna().mean() >= MOST if _SURE_NAMES.fullmatch(name) else found.notna().all()
    if not len(texts) or not enough or (set(texts) <= {"p", "r", "n", "t", "m"} and len(set(texts)) < 2):
        return None
    return found.reindex(values.index)


def _distinguishes_recurrence(name: str, texts: pd.Series) -> bool:
    """Whether each value is a word for a primary or a recurrent tumour, and both occur, in a column that is of no treatment."""
    words = name.split("_")
    if texts.dtype.kind != "O" or _NEVER & set(words) or any(map(_TREATMENT.match, words)):
        return False
    classes = {_class_of(text) if _PRIMARY_OR_RECURRENT.fullmatch(text) else None for text in set(texts)}
    return {PRIMARY, "recurrent"} <= classes <= {PRIMARY, "recurrent", "secondary"}


def is_no_tumour(values: pd.Series) -> pd.Series:
    """Whether each value of a column of diagnoses says that there is no tumour: "Non-tumor", "normal brain", "control".

    None does unless others name a tumour: "normal" beside "elevated" and "control" beside "lupus" are of other things.
    """
    texts = values.dropna().map(lambda value: _plain(str(value)))
    normal = texts.map(lambda text: _NO_TUMOUR.fullmatch(text) is not None).astype(bool)
    if not texts[~normal].map(lambda text: _TUMOUR.search(text) is not None).any():
        normal[:] = False
    return normal.reindex(values.index, fill_value=False)


def is_tumour(values: pd.Series) -> pd.Series:
    """Whether each value of a column of diagnoses names a tumour."""
    found = values.dropna().map(lambda value: _TUMOUR.search(_plain(str(value))) is not None).astype(bool)
    return (found & ~is_no_tumour(values)[found.index]).reindex(values.index, fill_value=False)


def _is_barcode_code(value: object) -> bool:
    """Whether a value is written as in barcodes, with two digits: 01, 02, 11."""
    return re.fullmatch(r"\d\d(\.0)?", str(value).strip()) is not None


def _plain(text: str) -> str:
    text = re.sub(r"[\s_.-]+", " ", re.sub(r"(?<=\d)\.0$", "", text.strip().lower()))
    return re.sub(r"^0+(?=\d)", "", text)


def _class_of(text: str) -> str | None:
    return next((name for pattern, name in _VALUES if pattern.fullmatch(text)), None)


def class_of_name(text: str) -> str | None:
    """Return the class of a sample type given as a TCGA code or a name ("Solid Tissue Normal"); None where it is neither."""
    plain = _plain(text)
    return _CODES.get(plain) or _class_of(plain)


def parse_sample_types(text: str) -> frozenset[str]:
    """Return the classes of `--sample-types`: "primary", "all", or several as in "primary,recurrent"; TCGA codes count too.

    Raises:
        InputError: an unknown class.
    """
    names = {name.strip().lower() for name in text.split(",") if name.strip()}
    if names == {"all"}:
        return ALL
    names = {TCGA.class_of(name) if re.fullmatch(r"\d\d", name) else name for name in names}
    if unknown := sorted(names - ALL):
        raise InputError(
            f"--sample-types {text}: {unknown[0]} is no sample type; give all, or some of {', '.join(CLASSES)}, or TCGA "
            "codes such as 01,02"
        )
    return frozenset(names or {PRIMARY})


def why_excluded(sample_class: str | None, code: str | None, allowed: Collection[str]) -> str | None:
    """Return why a sample is left out; None if its class is among those allowed, or unknown."""
    if sample_class is None or sample_class in allowed:
        return None
    label = f"{code} ({sample_class})" if code and code.lower() != sample_class else sample_class
    return f"sample type {label}, not {' or '.join(sorted(allowed))}"
