"""Times of survival in months: from a column with its unit, one whose unit is guessed, or days to death and last follow-up."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from preprocessing.case_tables.column_names import plain_name
from preprocessing.case_tables.endpoint_names import SurvivalColumn, survival_column
from preprocessing.io.errors import count, some
from preprocessing.labels.columns import LabelTable, text_of
from preprocessing.tables.missing_codes import describe_missing_code
from preprocessing.tables.reading import read_number, words_of

DAYS_PER_MONTH = 365.25 / 12
LONGEST_MONTHS = 400  # 33 years: a longer follow-up is counted in days
TOO_MANY_MONTHS = 600  # 50 years: longer than any follow-up
FEW_DAYS = 400  # a cohort with a shorter follow-up may have been counted in months
TOLERANCE = 0.02  # relative difference of times in two units that agree
ENOUGH_TIMES = 10  # to judge by the longest of them
OS = "OS"
# A time that says so of a living case: ALIVE (361 days later).
_ALIVE_LATER = re.compile(
    r"(alive|living)\W+(at |after )?(?P<time>\d+(\.\d+)?) ?(?P<unit>day|week|month|year)?s?( later)?\W*"
)
MONTHS_IN = {"months": 1.0, "days": 1 / DAYS_PER_MONTH, "weeks": 7 / DAYS_PER_MONTH, "years": 12.0}


def read_time(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], endpoint: str
) -> tuple[pd.Series | None, str | None]:
    """Return the survival in months, and the column that gave it; None without one.

    Args:
        table: the clinical columns.
        columns: those of survival, by name.
        endpoint: a key of `endpoint_names.ENDPOINTS`.
    """
    ours = {name: c for name, c in columns.items() if c.endpoint == endpoint or (c.endpoint is None and endpoint == OS)}
    times = [name for name, column in ours.items() if column.role == "time"]
    times = [name for name in times if not _is_follow_up(name, ours[name])] or times
    for unit in ("months", "days", "years", "weeks"):
        with_unit = sorted((n for n in times if ours[n].unit == unit), key=lambda n: ours[n].endpoint != endpoint)
        if with_unit:
            name = _first(table, with_unit)
            months = in_months(table, name, unit)
            _compare_units(table, columns, name, months)
            return months, name
    roles = {column.role for column in ours.values()}
    if "follow-up time" in roles and ("death time" in roles or not times):
        return _months_of_dates(table, ours)
    if not times:
        return None, None
    name = _first(table, sorted(times, key=lambda n: ours[n].endpoint != endpoint))
    return guessed_months(table, name, ours[name]), name


def split_living(table: LabelTable) -> tuple[LabelTable, pd.Series | None]:
    """Return the table with plain numbers in place of cells such as "ALIVE (361 days later)", as BraTS has them.

    Returns:
        The table, and for the column of such cells who lives, named as the column; None where there is no such column. The
        other times are of deaths.
    """
    for name in table.frame.columns:
        column = survival_column(name)
        if column is None or column.role not in ("time", "death time"):
            continue
        cells = table.frame[name].dropna().map(lambda value: _ALIVE_LATER.fullmatch(text_of(value).lower()))
        found = {case: match for case, match in cells.items() if match}
        if found and {match["unit"] for match in found.values()} <= {None, (column.unit or "").removesuffix("s")}:
            times = pd.Series({case: match["time"] for case, match in found.items()}, dtype=object)
            lives = pd.Series(table.frame.index.isin(times.index), table.frame.index, name=name)
            table.notes.append(
                f"event: alive where a cell of {name} begins with ALIVE ({count(len(times), 'case')}); its other "
                "times are of deaths"
            )
            written = times.reindex(table.frame.index)
            return replace(table, frame=table.frame.assign(**{name: table.frame[name].mask(lives, written)})), lives
    return table, None


def _first(table: LabelTable, names: list[str]) -> str:
    """The first of the columns, noted with the others and in how many cases they differ."""
    values = {n: table.frame[n].map(lambda value: read_number(text_of(value)), na_action="ignore") for n in names}
    both = {name: values[names[0]].notna() & values[name].notna() for name in names[1:]}
    differing: dict[str, int | None] = {
        n: int((values[names[0]] != values[n])[there].sum()) for n, there in both.items()
    }
    table.note_choice("survival_months", names[0], differing)
    return names[0]


def guessed_months(table: LabelTable, name: str, column: SurvivalColumn, *, task: str = "") -> pd.Series:
    """Return the times of a column without a unit: those of TCGA (`OS.time`) are days, others are judged by the longest.

    Args:
        table: the clinical columns.
        name: of the column.
        column: what it is.
        task: the user's, whose time it is; "": the survival that is recognised.
    """
    longest = table.numbers(name).max()
    unit, ground = _guessed_unit(name, column, longest)
    other = "months" if unit == "days" else "days"
    remedy = (
        f"say so with --set tasks.{task}.unit={unit}, or {other}"
        if task
        else f"call it survival_{unit}, or survival_{other}"
    )
    table.notes.append(
        f"warning: {table.source}: {label_of(task)}: column {name} has no unit; {unit} are assumed, {ground} (the longest is "
        f"{longest:g}); {remedy} if that is wrong"
    )
    return in_months(table, name, unit, guessed=True, task=task)


def label_of(task: str) -> str:
    """What messages call the label: the task of the user's, or the survival that is recognised."""
    return f"task {task}" if task else "survival_months"


def _guessed_unit(name: str, column: SurvivalColumn, longest: float) -> tuple[str, str]:
    """The unit of a column that names none, and the ground."""
    if column.endpoint is not None and plain_name(name).endswith("time"):
        return "days", "as in the TCGA clinical data resource"
    if name.lower().startswith("donor_"):
        return "days", "as in the tables of ICGC"
    return ("days" if longest > LONGEST_MONTHS else "months"), "judged by the longest"


def _is_follow_up(name: str, column: SurvivalColumn) -> bool:
    """Whether the column has the time to the last follow-up: the survival of the living, and of nobody else."""
    words = set(words_of(name))
    is_last = "last" in words and bool({"followup", "follow", "contact"} & words) and "survival" not in words
    return column.role == "follow-up time" or (column.role == "time" and is_last)


def with_follow_up(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], months: pd.Series, event: pd.Series, used: str
) -> pd.Series:
    """Return the times with that of the last follow-up where a living case has none, as in ICGC's tables of donors.

    Args:
        table: the clinical columns.
        columns: those of survival, by name.
        months: times of the column that is used.
        event: deaths.
        used: the column that is used.
    """
    living = months.isna() & event.eq(False).fillna(False)
    used_unit = columns[used].unit or _guessed_unit(used, columns[used], table.numbers(used).max())[0]
    for name, column in columns.items():
        if name == used or not _is_follow_up(name, column) or not living.any():
            continue
        followed = in_months(table, name, column.unit or used_unit, guessed=True)
        filled = living & followed.notna()
        if filled.any():
            table.notes.append(f"survival_months: {name} in {int(filled.sum())} living cases without {used}")
        months, living = months.mask(filled, followed), living & ~filled
    return months


def _compare_units(table: LabelTable, columns: Mapping[str, SurvivalColumn], used: str, months: pd.Series) -> None:
    """Warn of columns in other units whose times differ; one that names no endpoint is of the only one that others name."""
    used_unit = columns[used].unit or "months"
    only = len({column.endpoint or OS for column in columns.values() if column.role == "time"}) == 1
    for name, column in columns.items():
        unit, same = column.unit, only or column.endpoint == columns[used].endpoint
        if column.role != "time" or unit is None or unit == used_unit or not same or _is_follow_up(name, column):
            continue
        numbers = table.frame[name].map(lambda value: read_number(text_of(value)), na_action="ignore").astype(float)
        difference = (numbers * MONTHS_IN[unit] - months).abs()
        rounded = max(1.0, MONTHS_IN[unit], MONTHS_IN[used_unit])  # as whole years are
        differing = difference.index[difference > rounded + TOLERANCE * months]
        if len(differing):
            table.notes.append(
                f"warning: {table.source}: survival_months: column {name} has other times than {used}, which is used, in "
                f"{count(len(differing), 'case')}: {some(differing)}"
            )


def in_months(table: LabelTable, column: str, unit: str, *, guessed: bool = False, task: str = "") -> pd.Series:
    """Return the column in months; a follow-up longer than any is refused.

    Args:
        table: the clinical columns.
        column: its name.
        unit: a key of `MONTHS_IN`.
        guessed: whether the unit is an assumption, which was noted.
        task: the user's, whose time it is; "": the survival that is recognised.
    """
    numbers = table.numbers(column)
    months = numbers * MONTHS_IN[unit]
    absurd = months.index[months > TOO_MANY_MONTHS]
    if len(absurd):
        remedy = "days go into a column survival_days, months into survival_months, and an unknown time is left empty"
        table.refuse(column, absurd[0], f"that is {months[absurd[0]]:,.0f} months; {remedy}")
    if code := describe_missing_code(numbers):
        table.notes.append(f"warning: {table.source}: column {column}: {code}")
    if unit != "months" and not guessed:
        table.notes.append(f"{label_of(task)}: {column} is in {unit} (a month has {DAYS_PER_MONTH} days)")
    if unit == "days" and not guessed and numbers.count() >= ENOUGH_TIMES and numbers.max() <= FEW_DAYS:
        table.notes.append(
            f"warning: {table.source}: the longest of {numbers.count()} times in column {column} is {numbers.max():g} days; if "
            "it counts months or years, call it survival_months or survival_years"
        )
    return months


def without_negative(table: LabelTable, months: pd.Series, *, task: str = "") -> pd.Series:
    """Return the times without negative ones, which are missing then, with a warning."""
    negative = months.index[months < 0]
    if len(negative):
        table.notes.append(
            f"warning: {table.source}: {label_of(task)}: negative in {count(len(negative), 'case')}, taken as missing: "
            f"{some(negative)}"
        )
    return months.mask(months < 0)


# --- The GDC's two columns: days to death, days to the last follow-up -------------------------------------------------


def read_dates(table: LabelTable, columns: Mapping[str, SurvivalColumn], role: str) -> tuple[str | None, pd.Series]:
    """Return the first column of this role, and its times in months; where several are there, the latest follow-up of each case."""
    names = [name for name, column in columns.items() if column.role == role]
    if not names:
        return None, pd.Series(float("nan"), index=table.frame.index)
    months = pd.concat([in_months(table, name, columns[name].unit or "days", guessed=True) for name in names], axis=1)
    return names[0], months.max(axis=1)


def _months_of_dates(table: LabelTable, columns: Mapping[str, SurvivalColumn]) -> tuple[pd.Series, str]:
    followed_by, followed = read_dates(table, columns, "follow-up time")
    died_by, died = read_dates(table, columns, "death time")
    first = f"{died_by} where there is one, else " if died_by else ""
    table.notes.append(f"survival_months: {first}{followed_by}")
    return died.fillna(followed), str(followed_by)
