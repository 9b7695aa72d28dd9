"""Names of label and covariate columns: lists of usual spellings, and patterns where spellings have no end."""

import re
from dataclasses import dataclass
from functools import lru_cache

from preprocessing.case_tables.endpoint_names import survival_column
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
SEX = names_in("is_female female sex gender patient_sex patient_gender sex_at_birth is_male male")
SITE = names_in("site tissue_source_site tissue_source_site_code tss")
LABEL_NAMES = frozenset().union(GRADE, SUBTYPE, SEX, SITE)

# Tables that are named before a column: demographic.vital_status (GDC), paper_Grade (TCGAbiolinks).
_FROM_TABLES = re.compile(r"^(cases?|demographic|diagnos[ie]s|clinical|patient|follow_ups?|paper)_")
_AGE_WORDS = frozenset(
    names_in(
        "age ages years year yrs yr y months days day in at of the patient initial pathologic diagnosis dx index surgery"
    )
) | frozenset(names_in("sampling presentation inclusion enrollment onset when"))
_BIRTH = re.compile(r"(?P<unit>days|years)_(to|since|from)_birth")


@dataclass(frozen=True)
class AgeColumn:
    """Unit (years, months, days; None where the name has none) of an age, and whether it counts back to birth."""

    unit: str | None
    negative: bool = False


def plain_name(column: str) -> str:
    """Return the name in lower case with words joined by `_`, without the table that the GDC or TCGAbiolinks names first."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", column)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    short = _FROM_TABLES.sub("", name)
    return short if short in LABEL_NAMES else name


def age_column(column: str) -> AgeColumn | None:
    """Return unit and direction of an age by its name, as `Age (years at diagnosis)`, `days_to_birth`; else None."""
    words = words_of(column)
    while len(words) > 1 and words[0] in ("cases", "demographic", "diagnoses", "clinical", "paper"):
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
