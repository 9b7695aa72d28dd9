"""Labels and covariates out of the columns of a clinical table, under their usual spellings.

For each label the plainest column name wins: the lists below are in that order. Whatever is assumed is said in a note.
"""

import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pandas as pd

from preprocessing.io.errors import InputError, some
from preprocessing.tables import case_ids
from preprocessing.tables.reading import names_in, read_number

DAYS_PER_YEAR = 365.25
DAYS_PER_MONTH = DAYS_PER_YEAR / 12
LONGEST_MONTHS = 400  # 33 years: a follow-up beyond it is counted in days
TOO_MANY_MONTHS = 600  # 50 years: no follow-up is so long
FEW_DAYS = 400  # a cohort that was followed no longer may have been counted in months
MUCH_APART = 0.02  # as a share, by which months that are counted otherwise do not differ
ENOUGH_TIMES = 10  # to judge by the longest of them
OLDEST_YEARS = 130


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
_UNITS = {"months": MONTHS, "days": DAYS, "years": YEARS}
_MONTHS_IN = {"months": 1.0, "days": 1 / DAYS_PER_MONTH, "years": 12.0}
_TIME_WORDS = frozenset(names_in("date dates day days month months year years time followup followed follow"))

# The GDC puts its table in front: demographic.vital_status.
_FROM_TABLES = re.compile(r"^(cases?|demographic|diagnos[ie]s|clinical|patient|follow_ups?)_")
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4}
_GRADE = re.compile(r"(?:cns )?(?:who )?(?:grade )?g? ?(iv|i{1,3}|[1-4])(?:\.0+)?")
_YES = {"1", "1.0", "true", "yes", "dead", "deceased", "died", "death", "1:deceased", "1:dead", "event"}
_NO = {"0", "0.0", "false", "no", "alive", "living", "0:living", "0:alive", "censored"}
_PLAIN = 'give a plain number (decimals take a point, ">90" is 90), or leave it empty'
_FEMALE = {"female", "f", "woman"}
_MALE = {"male", "m", "man"}


def plain_name(column: str) -> str:
    """The column's name in lower case, words joined by `_`, without the GDC's table in front."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", column)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    short = _FROM_TABLES.sub("", name)
    return short if short in LABEL_NAMES else name


def is_label(column: str) -> bool:
    """Whether `recognise` might take the column for a label or a covariate."""
    return plain_name(column) in LABEL_NAMES


@dataclass(frozen=True)
class Labels:
    """What is known of each case.

    Attributes:
        frame: a row a case, those of these columns that were found: grade (Int64), subtype (string), survival_months
            (float), event (boolean: it happened), age (float, years), is_female (boolean), site (string).
        notes: which column was taken for what, and what was assumed.
    """

    frame: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class _Table:
    """The annotations under search: columns by plain name, and the notes that are gathered."""

    frame: pd.DataFrame
    source: str
    notes: list[str] = field(default_factory=list)

    def named(self, names: Collection[str]) -> list[str]:
        """The columns that go by one of the names and hold a value, the plainest name first."""
        by_name: dict[str, list[str]] = {}
        for column in self.frame.columns:
            if self.frame[column].notna().any():
                by_name.setdefault(plain_name(column), []).append(column)
        return [column for name in names for column in by_name.get(name, [])]

    def first(
        self,
        names: Collection[str],
        label: str,
        *,
        accept: Callable[[str, pd.Series], bool] = lambda name, values: True,
        read: Callable[[str], Any] = str,
    ) -> str | None:
        """The plainest acceptable column for the label, noted with those passed over and how far they differ."""
        columns = [column for column in self.named(names) if accept(plain_name(column), self.frame[column])]
        if not columns:
            return None
        chosen, others = columns[0], columns[1:]
        differing = {other: self._differing(chosen, other, read) for other in others}
        passed = ", ".join(f"{other} (differs in {n} cases)" for other, n in differing.items())
        doubt = f"warning: {self.source}: " if any(differing.values()) else ""
        self.notes.append(f"{doubt}{label}: column {chosen}" + (f"; also there, not used: {passed}" if others else ""))
        return chosen

    def _differing(self, one: str, other: str, read: Callable[[str], Any]) -> int:
        both = self.frame[[one, other]].map(lambda value: read(_text(value)), na_action="ignore").dropna()
        return int((both[one] != both[other]).sum())

    def value(self, column: str | None, case: Any) -> str:
        return str(self.frame[column][case])

    def refuse(self, column: str, case: Any, remedy: str) -> NoReturn:
        value = self.value(column, case)
        raise InputError(f'{self.source}: column {column}, case {case}: "{value}" is not understood; {remedy}')

    def parse(self, column: str, read: Callable[[str], Any], *, dtype: Any, remedy: str) -> pd.Series:
        """The column's values as `read` understands them; a value for which it returns None is refused."""
        values = {}
        for case, value in self.frame[column].dropna().items():
            values[case] = read(_text(value))
            if values[case] is None:
                self.refuse(column, case, remedy)
        return pd.Series(values, dtype=object).reindex(self.frame.index).astype(dtype)

    def numbers(self, column: str) -> pd.Series:
        return self.parse(column, read_number, dtype="Float64", remedy=_PLAIN).astype(float)


def _text(value: Any) -> str:
    return " ".join(str(value).split())


def read_grade(text: str) -> Any:
    """1 to 4 from "3", "G3", "III", "WHO grade III"; pd.NA where it was not assessed (GX); None if not understood."""
    words = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text).lower())  # "Ⅳ" is one sign
    if words in ("gx", "gb", "grade x"):
        return pd.NA
    found = _GRADE.fullmatch(words)
    return (_ROMAN.get(found[1]) or int(found[1])) if found else None


def read_flag(text: str) -> bool | None:
    """True for "1", "Dead", "1:DECEASED", "yes"; False for "0", "Alive", "0:LIVING", "no"; None for anything else."""
    word = text.lower()
    return True if word in _YES else False if word in _NO else None


def recognise(annotations: pd.DataFrame, *, source: str) -> Labels:
    """Grade, subtype, survival, age, sex and site of each case, where there are columns for them.

    Args:
        annotations: a row a case, indexed by case id.
        source: the file, as messages name it.

    Raises:
        InputError: a value that is not understood, or columns that contradict each other.
    """
    table = _Table(annotations, source)
    found = {
        "grade": _grade(table),
        "subtype": _subtype(table),
        **_survival(table),
        "age": _age(table),
        "is_female": _sex(table),
        "site": _site(table),
    }
    kept = {name: values for name, values in found.items() if values is not None}
    return Labels(pd.DataFrame(kept, index=annotations.index).rename_axis("case_id"), table.notes)


def _grade(table: _Table) -> pd.Series | None:
    column = table.first(GRADE, "grade", read=read_grade)
    if column is None:
        return None
    return table.parse(
        column, read_grade, dtype="Int64", remedy='write grades as 2, 3, 4 (or "G2", "II", "WHO grade 2")'
    )


def _subtype(table: _Table) -> pd.Series | None:
    column = table.first(SUBTYPE, "subtype")
    if column is None:
        return None
    values = table.frame[column].map(_text, na_action="ignore").astype("string")
    spellings: dict[str, str] = {}
    for case, value in values.dropna().items():
        other = spellings.setdefault(value.lower(), value)
        if other != value:
            table.refuse(column, case, f'it is written "{other}" elsewhere: spell each subtype one way')
    return values


def _survival(table: _Table) -> dict[str, pd.Series | None]:
    event = _event(table)
    time, event = _time(table, event)
    if time is None and (event is not None or table.named(DAYS_TO_DEATH)):
        table.notes.append(_no_time(table))
    if time is not None and event is None:
        table.notes.append(
            f"warning: {table.source}: there is a survival time, but no column says who died, so survival cannot be learnt; give "
            "a column event (1: died, 0: alive at the last follow-up)"
        )
    if time is not None:
        negative = time.index[time < 0]
        if len(negative):
            table.notes.append(
                f"warning: {table.source}: survival_months: negative in {len(negative)} cases, taken as missing: {some(negative)}"
            )
        time = time.mask(time < 0)
    return {"survival_months": time, "event": event}


def _no_time(table: _Table) -> str:
    """The warning that deaths are told, and no time that could be used with them."""
    dated = [name for name in table.frame.columns if _TIME_WORDS & set(plain_name(name).split("_"))]
    unused = f" (not used: {some(dated)})" if dated else ""
    return (
        f"warning: {table.source}: there are deaths but no survival time, so survival cannot be learnt{unused}; give a "
        "column survival_months or survival_days, from the diagnosis to the death or the last follow-up"
    )


def _time(table: _Table, event: pd.Series | None) -> tuple[pd.Series | None, pd.Series | None]:
    """Survival in months, and the event, which the GDC's days to death may be the only ones to tell."""
    for unit, names in _UNITS.items():
        column = table.first(names, "survival_months", read=read_number)
        if column is not None:
            if unit != "months":
                table.notes.append(f"survival_months: {column} taken as {unit} (a month has {DAYS_PER_MONTH} days)")
            months = _in_months(table, column, unit)
            _compare_units(table, column, unit, months)
            return months, event
    if table.named(DAYS_TO_LAST):
        return _days_to_death(table, event)
    column = table.first(UNIT_UNKNOWN, "survival_months", accept=_is_time)
    if column is None:
        return None, event
    values = table.numbers(column)
    unit = "days" if values.max() > LONGEST_MONTHS else "months"
    table.notes.append(
        f"survival_months: column {column} names no unit; its largest value is {values.max():g}, so {unit} are assumed "
        f"(call it time_months or time_days to be sure)"
    )
    return values * _MONTHS_IN[unit], event


def _compare_units(table: _Table, column: str, unit: str, months: pd.Series) -> None:
    """Warns of columns in other units that tell other times."""
    others = [(name, other) for other in _UNITS if other != unit for name in table.named(_UNITS[other])]
    for name, other in others:
        told = table.frame[name].map(lambda value: read_number(_text(value)), na_action="ignore").astype(float)
        apart = (told * _MONTHS_IN[other] - months).abs()
        rounded = max(1.0, _MONTHS_IN[other], _MONTHS_IN[unit])  # as whole years are
        differing = apart.index[apart > rounded + MUCH_APART * months]
        if len(differing):
            table.notes.append(
                f"warning: {table.source}: survival_months: column {name} tells other times than {column}, which is used, in "
                f"{len(differing)} cases: {some(differing)}"
            )


def _in_months(table: _Table, column: str, unit: str) -> pd.Series:
    """The column in months; a follow-up longer than anybody's is refused."""
    numbers = table.numbers(column)
    months = numbers * _MONTHS_IN[unit]
    absurd = months.index[months > TOO_MANY_MONTHS]
    if len(absurd):
        remedy = "days go into a column survival_days, months into survival_months, and an unknown time is left empty"
        table.refuse(column, absurd[0], f"that is {months[absurd[0]]:,.0f} months; {remedy}")
    if unit == "days" and numbers.count() >= ENOUGH_TIMES and numbers.max() <= FEW_DAYS:
        table.notes.append(
            f"warning: {table.source}: the longest of {numbers.count()} times in column {column} is {numbers.max():g} days; if "
            "it counts months or years, call it survival_months or survival_years"
        )
    return months


def _days_to_death(table: _Table, event: pd.Series | None) -> tuple[pd.Series, pd.Series]:
    """The GDC's two columns: days to death where the case died, else days to the last follow-up."""
    followed = table.numbers(table.named(DAYS_TO_LAST)[0])
    columns = table.named(DAYS_TO_DEATH)
    death = table.numbers(columns[0]) if columns else pd.Series(float("nan"), index=followed.index)
    table.notes.append("survival_months: days to death where there are any, else days to the last follow-up")
    if event is None:
        event = death.notna().astype("boolean").mask(death.isna() & followed.isna())
        table.notes.append("event: happened where there are days to death")
    contradicted = event.index[event.eq(False).fillna(False) & death.notna()]
    if len(contradicted):
        raise InputError(
            f"{table.source}: case {contradicted[0]} is alive by its vital status but has {columns[0]} = "
            f"{death[contradicted[0]]:g}; correct one of them"
        )
    # A death without its date happened at a time that nobody knows: the last follow-up is not that time.
    time = death.fillna(followed.mask(event.eq(True).fillna(False)))
    return time / DAYS_PER_MONTH, event


def _event(table: _Table) -> pd.Series | None:
    column = table.first(EVENT, "event", accept=_is_event, read=read_flag)
    opposite = table.first(CENSORSHIP, "event, as the opposite of censorship")
    remedy = "write 1 (it happened), 0 (it did not), Dead or Alive, or leave it empty"
    event = table.parse(column, read_flag, dtype="boolean", remedy=remedy) if column else None
    if opposite is None:
        return event
    remedy = "write 1 (censored: it was not seen to happen) or 0 (it happened)"
    censored = table.parse(opposite, _read_censored, dtype="boolean", remedy=remedy)
    if event is None:
        return ~censored
    contradicted = event.index[(event == censored).fillna(False)]
    if len(contradicted):
        case = contradicted[0]
        raise InputError(
            f"{table.source}: case {case} has {column} = {table.value(column, case)} and {opposite} = "
            f"{table.value(opposite, case)}, which contradict each other ({len(contradicted)} such cases); {opposite} "
            f"means the opposite of an event: correct one, or remove it"
        )
    return event.fillna(~censored)


def _is_event(name: str, values: pd.Series) -> bool:
    """OS is the event where it holds 0 and 1 (TCGA clinical data resource), else a time (CGGA)."""
    return name != "os" or _is_binary(values)


def _is_time(name: str, values: pd.Series) -> bool:
    """Numbers, and not 0 and 1 alone: those are an event, whatever the name."""
    numbers = values.dropna().map(_text).map(read_number)
    return bool(numbers.notna().any()) and not _is_binary(values)


def _read_censored(text: str) -> bool | None:
    """Censorship in its own words: "censored" is True here, though as an event it is False."""
    word = text.lower()
    return word == "censored" if word in ("censored", "uncensored") else _yes_no(word)


def _yes_no(word: str) -> bool | None:
    words = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
    return words.get(word)


def _is_binary(values: pd.Series) -> bool:
    return set(values.dropna().map(_text)) <= {"0", "1", "0.0", "1.0"}


def _age(table: _Table) -> pd.Series | None:
    column = table.first(AGE, "age", read=read_number)
    if column is None:
        return None
    years = table.numbers(column)
    if plain_name(column) == "days_to_birth":
        years = -years
    in_days = "days" in plain_name(column)
    if not in_days and years.max() > OLDEST_YEARS and years.median() <= OLDEST_YEARS * 12:
        table.refuse(
            column, years.idxmax(), f"an age lies between 0 and {OLDEST_YEARS} years; days go into a column age_days"
        )
    if in_days or years.median() > OLDEST_YEARS:
        table.notes.append(f"age: {column} taken as days")
        years = years / DAYS_PER_YEAR
    absurd = years.index[(years < 0) | (years > OLDEST_YEARS)]
    if len(absurd):
        table.refuse(column, absurd[0], f"an age lies between 0 and {OLDEST_YEARS} years")
    return years


def _sex(table: _Table) -> pd.Series | None:
    for name in table.named(SEX):
        if not _says_sex(plain_name(name), table.frame[name]):
            table.notes.append(f"is_female: {name} has 0 and 1, not which is female: not used (call it is_female)")
    column = table.first(SEX, "is_female", accept=_says_sex)
    if column is None:
        return None
    inverted = plain_name(column) in ("is_male", "male")

    def read(text: str) -> bool | None:
        word = text.lower()
        if word in _FEMALE | _MALE:
            return word in _FEMALE
        flag = _yes_no(word)
        return None if flag is None or plain_name(column) in ("sex", "gender") else flag != inverted

    return table.parse(column, read, dtype="boolean", remedy="write female or male, or leave it empty")


def _says_sex(name: str, values: pd.Series) -> bool:
    return name not in ("sex", "gender") or not _is_binary(values)


def _site(table: _Table) -> pd.Series | None:
    column = table.first(SITE, "site")
    if column is not None:
        return table.frame[column].map(_text, na_action="ignore").astype("string")
    sites = pd.Series(
        [case_ids.source_site(str(case)) for case in table.frame.index], index=table.frame.index, dtype="string"
    )
    if sites.isna().all():
        return None
    table.notes.append("site: tissue source site from the TCGA barcode")
    return sites
