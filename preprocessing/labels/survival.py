"""Survival: time and event of each case."""

import pandas as pd

from preprocessing.io.errors import InputError, some
from preprocessing.labels.columns import LabelTable, is_binary, read_flag, text_of, yes_no
from preprocessing.tables.column_names import (
    CENSORSHIP,
    DAYS,
    DAYS_TO_DEATH,
    DAYS_TO_LAST,
    EVENT,
    MONTHS,
    UNIT_UNKNOWN,
    YEARS,
    plain_name,
)
from preprocessing.tables.reading import names_in, read_number

DAYS_PER_MONTH = 365.25 / 12
LONGEST_MONTHS = 400  # 33 years: a follow-up beyond it is counted in days
TOO_MANY_MONTHS = 600  # 50 years: no follow-up is so long
FEW_DAYS = 400  # a cohort that was followed no longer may have been counted in months
TOLERANCE = 0.02  # as a share, by which months that are counted otherwise do not differ
ENOUGH_TIMES = 10  # to judge by the longest of them
_UNITS = {"months": MONTHS, "days": DAYS, "years": YEARS}
_MONTHS_IN = {"months": 1.0, "days": 1 / DAYS_PER_MONTH, "years": 12.0}
_TIME_WORDS = frozenset(names_in("date dates day days month months year years time followup followed follow"))


def read_survival(table: LabelTable) -> dict[str, pd.Series | None]:
    """Return survival_months (float) and event (boolean, True: died) by case; None where no column has them.

    Raises:
        InputError: a value that is not understood, or columns that contradict each other.
    """
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


def _no_time(table: LabelTable) -> str:
    """The warning that deaths are told, and no time that could be used with them."""
    dated = [name for name in table.frame.columns if _TIME_WORDS & set(plain_name(name).split("_"))]
    unused = f" (not used: {some(dated)})" if dated else ""
    return (
        f"warning: {table.source}: there are deaths but no survival time, so survival cannot be learnt{unused}; give a "
        "column survival_months or survival_days, from the diagnosis to the death or the last follow-up"
    )


def _time(table: LabelTable, event: pd.Series | None) -> tuple[pd.Series | None, pd.Series | None]:
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


def _compare_units(table: LabelTable, column: str, unit: str, months: pd.Series) -> None:
    """Warns of columns in other units that tell other times."""
    others = [(name, other) for other in _UNITS if other != unit for name in table.named(_UNITS[other])]
    for name, other in others:
        told = table.frame[name].map(lambda value: read_number(text_of(value)), na_action="ignore").astype(float)
        difference = (told * _MONTHS_IN[other] - months).abs()
        rounded = max(1.0, _MONTHS_IN[other], _MONTHS_IN[unit])  # as whole years are
        differing = difference.index[difference > rounded + TOLERANCE * months]
        if len(differing):
            table.notes.append(
                f"warning: {table.source}: survival_months: column {name} tells other times than {column}, which is used, in "
                f"{len(differing)} cases: {some(differing)}"
            )


def _in_months(table: LabelTable, column: str, unit: str) -> pd.Series:
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


def _days_to_death(table: LabelTable, event: pd.Series | None) -> tuple[pd.Series, pd.Series]:
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


def _event(table: LabelTable) -> pd.Series | None:
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
    return name != "os" or is_binary(values)


def _is_time(name: str, values: pd.Series) -> bool:
    """Numbers, and not 0 and 1 alone: those are an event, whatever the name."""
    numbers = values.dropna().map(text_of).map(read_number)
    return bool(numbers.notna().any()) and not is_binary(values)


def _read_censored(text: str) -> bool | None:
    """Censorship in its own words: "censored" is True here, though as an event it is False."""
    word = text.lower()
    return word == "censored" if word in ("censored", "uncensored") else yes_no(word)
