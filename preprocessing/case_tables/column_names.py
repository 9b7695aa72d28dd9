"""Names of label and covariate columns: lists of usual spellings, and patterns where spellings have no end."""

import re
from dataclasses import dataclass
from functools import lru_cache

from preprocessing.case_tables.endpoint_names import survival_column, without_table
from preprocessing.tables.reading import names_in, words_of

# The most specific name last. Names are compared as `plain_name` writes them.
GRADE = names_in(
    "grade tumor_grade tumour_grade who_grade grade_who cns_who_grade histologic_grade histological_grade "
    "neoplasm_histologic_grade glioma_grade pathologic_grade who2021_grade who_2021_grade grade_who2021"
)
SUBTYPE = names_in(
    "subtype who_subtype molecular_subtype who2021_subtype who_2021_subtype subtype_who2021 idh_codel_subtype "
    "who2021_diagnosis who_2021_diagnosis integrated_diagnosis subtype_ceccarelli original_subtype"
)
SEX_WORDS = frozenset(names_in("sex gender"))
_SEX_FILLER = frozenset(
    names_in(
        "patient donor subject reported self biological at birth assigned of the legal clinical demographic recorded"
    )
)
_GRADE_WORDS = frozenset(
    names_in(
        "grade who cns tumor tumour glioma histologic histological pathologic pathological neoplasm tcga cgga "
        "final initial integrated of the at diagnosis 2000 2007 2016 2021 cns5 revised central"
    )
)
SEX = names_in("is_female female sex gender is_male male")
SITE = names_in("site tissue_source_site tissue_source_site_code tss")
LABEL_NAMES = frozenset().union(GRADE, SUBTYPE, SEX, SITE)

_TUMOUR = re.compile(
    r"(.*_)?(histolog\w*|patholog\w*|diagnos(e|[ie]s)|oncotree(_code)?|entity|tumou?r_type|cancer_type(_detailed)?)(_.*)?|"
    r"(.*_)?(disease|primary_disease|disease_(type|code)|project(_id)?)|type|acronym"
)
# Of another time, person or kind than the diagnosis of the case; and what is no histology.
_NO_TUMOUR = frozenset(
    names_in(
        "recurrence recurrent relapse progression second family relative year date age days months method site grade prior "
        "previous slide status at before since to other comorbid symptom symptoms preoperative preop presenting imaging mri "
        "radiological radiologic stage margin margins response node nodes"
    )
)
# Tables that are named before a column: demographic.vital_status (GDC), paper_Grade (TCGAbiolinks).
_FROM_TABLES = re.compile(
    r"^((gdc|cases?|demographic|diagnos[ie]s|clinical|patient|donor|follow_ups?|paper|tcga|xml|cgc)_)+"
)
_AGE_WORDS = frozenset(
    names_in(
        "age ages years year yrs yr y months month days day in at of the patient initial pathologic diagnosis dx index surgery "
        "sampling presentation inclusion enrollment onset when sequencing seq report procurement scan mri imaging operation "
        "resection"
    )
)
_TABLES = frozenset(names_in("gdc case cases demographic diagnoses clinical paper donor tcga xml cgc"))
_BIRTH = re.compile(r"(?P<unit>days|years)_(to|since|from)_birth")


@dataclass(frozen=True)
class AgeColumn:
    """Unit (years, months, days; None where the name has none) of an age, and whether it counts back to birth."""

    unit: str | None
    negative: bool = False


def plain_name(column: str) -> str:
    """Return the name in lower case with words joined by `_`, without the table that the GDC or TCGAbiolinks names first."""
    name = _snake_case(column)
    short = _FROM_TABLES.sub("", _snake_case(without_table(column)))
    if short in LABEL_NAMES:
        return short
    if {"grade"} <= set(short.split("_")) <= _GRADE_WORDS:
        return "who2021_grade" if "2021" in short else "grade"
    return "sex" if _is_sex(short) else name


def _snake_case(text: str) -> str:
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", text)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _is_sex(name: str) -> bool:
    words = set(name.split("_"))
    return bool(words & SEX_WORDS) and words <= SEX_WORDS | _SEX_FILLER


def age_column(column: str) -> AgeColumn | None:
    """Return unit and direction of an age by its name, as `Age (years at diagnosis)`, `days_to_birth`; else None."""
    words = words_of(without_table(column))
    while len(words) > 1 and words[0] in _TABLES:
        words = words[1:]
    if found := _BIRTH.fullmatch("_".join(words)):
        return AgeColumn(found["unit"], negative=found["unit"] == "days")
    if "age" not in words or not set(words) <= _AGE_WORDS:
        return None
    units = {unit for unit in ("days", "months", "years") if {unit, unit[:-1]} & set(words)}
    return AgeColumn(next(iter(units)) if len(units) == 1 else None)


@lru_cache(maxsize=1 << 17)
def is_label(column: str) -> bool:
    """Whether labels or covariates may be read from a column of this name."""
    return plain_name(column) in LABEL_NAMES or age_column(column) is not None or survival_column(column) is not None


def names_tumour(column: str) -> bool:
    """Whether a column of this name may hold the diagnosis or histology of the tumour."""
    words = words_of(column)
    return _TUMOUR.fullmatch("_".join(words)) is not None and _NO_TUMOUR.isdisjoint(words)
