"""Names of label and covariate columns, in their usual spellings."""

import re

from preprocessing.tables.reading import names_in

# The plainest name first. Names are compared as `plain_name` writes them.
GRADE = names_in(
    "grade tumor_grade tumour_grade who_grade grade_who cns_who_grade histologic_grade histological_grade "
    "neoplasm_histologic_grade glioma_grade pathologic_grade who2021_grade who_2021_grade grade_who2021"
)
SUBTYPE = names_in(
    "subtype who_subtype molecular_subtype who2021_subtype who_2021_subtype subtype_who2021 idh_codel_subtype "
    "who2021_diagnosis who_2021_diagnosis integrated_diagnosis subtype_ceccarelli original_subtype"
)
MONTHS = names_in(
    "survival_months months_survival time_months survival_time_months os_months overall_survival_months os_time_months "
    "overall_survival_time_months follow_up_months followup_months"
)
DAYS = names_in(
    "survival_days time_days survival_time_days os_days overall_survival_days os_time_days overall_survival_time_days "
    "follow_up_days followup_days os_time"
)  # os_time: the TCGA clinical data resource counts it in days
YEARS = names_in("survival_years time_years os_years overall_survival_years")
UNIT_UNKNOWN = names_in(
    "time survival_time overall_survival_time survival overall_survival follow_up_time followup_time futime os"
)
DAYS_TO_DEATH = names_in("days_to_death death_days_to")
DAYS_TO_LAST = names_in("days_to_last_follow_up days_to_last_followup last_contact_days_to days_to_last_known_alive")
EVENT = names_in(
    "event death dead deceased died is_dead death_event os_event event_os survival_event overall_survival_event "
    "os_status overall_survival_status survival_status vital_status os fustat status censor_alive_0_dead_1"
)  # the last: the CGGA writes "Censor (alive=0; dead=1)"
CENSORSHIP = names_in("censorship censored censor is_censored censoring")
AGE = names_in(
    "age age_years age_in_years patient_age age_at_index age_at_diagnosis diagnosis_age "
    "age_at_initial_pathologic_diagnosis age_days age_in_days age_at_diagnosis_days days_to_birth"
)
SEX = names_in("is_female female sex gender is_male male")
SITE = names_in("site tissue_source_site tissue_source_site_code tss")
LABEL_NAMES = frozenset().union(
    GRADE, SUBTYPE, MONTHS, DAYS, YEARS, UNIT_UNKNOWN, DAYS_TO_DEATH, DAYS_TO_LAST, EVENT, CENSORSHIP, AGE, SEX, SITE
)

# The GDC puts its table in front: demographic.vital_status.
_FROM_TABLES = re.compile(r"^(cases?|demographic|diagnos[ie]s|clinical|patient|follow_ups?)_")


def plain_name(column: str) -> str:
    """The column's name in lower case, words joined by `_`, without the GDC's table in front."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", column)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    short = _FROM_TABLES.sub("", name)
    return short if short in LABEL_NAMES else name


def is_label(column: str) -> bool:
    """Whether `recognise` might take the column for a label or a covariate."""
    return plain_name(column) in LABEL_NAMES
