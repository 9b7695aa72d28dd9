"""Age at diagnosis in years, from columns in years, months or days."""

import pandas as pd

from preprocessing.case_tables.column_names import AgeColumn, age_column
from preprocessing.labels.columns import LabelTable, text_of
from preprocessing.tables.reading import read_number, words_of

DAYS_PER_YEAR = 365.25
OLDEST_YEARS = 130
SAME_YEARS = 1.5  # by which ages at two dates, or in whole years, may differ
_PER_YEAR = {"years": 1.0, "months": 12.0, "days": DAYS_PER_YEAR}


def read_age(table: LabelTable) -> pd.Series | None:
    """Return the age of each case in years; None without a column of ages.

    Raises:
        InputError: a value that is no number, or no age of a human.
    """
    columns = {name: column for name in table.frame.columns if (column := age_column(name))}
    columns = {name: column for name, column in columns.items() if table.frame[name].notna().any()}
    if not columns:
        _note_unused(table)
        return None
    chosen, *others = sorted(columns, key=lambda name: (columns[name].unit not in (None, "years"), _specificity(name)))
    years = _checked(table, chosen, columns[chosen])
    differing: dict[str, int | None] = {}
    for name in others:
        values = table.frame[name].map(lambda value: read_number(text_of(value)), na_action="ignore").astype(float)
        differing[name] = int(((_in_years(values, columns[name])[0] - years).abs() > SAME_YEARS).sum())
    table.note_choice("age", chosen, differing)
    return years


def _specificity(name: str) -> tuple[int, int]:
    """Plain names first; an age at the index date before other ones."""
    words = words_of(name)
    return int("birth" in words), len(words)


def _in_years(values: pd.Series, column: AgeColumn) -> tuple[pd.Series, str]:
    """Values in years, and their unit; without a unit in the name, ages that no human reaches are days."""
    values = -values if column.negative else values
    unit = column.unit or ("days" if values.median() > OLDEST_YEARS else "years")
    return values / _PER_YEAR[unit], unit


def _checked(table: LabelTable, name: str, column: AgeColumn) -> pd.Series:
    numbers = table.numbers(name)
    if column.unit is None and numbers.max() > OLDEST_YEARS and numbers.median() <= OLDEST_YEARS * 12:
        remedy = f"an age lies between 0 and {OLDEST_YEARS} years; days go into a column age_days"
        table.refuse(name, numbers.idxmax(), remedy)
    years, unit = _in_years(numbers, column)
    if unit != "years" and column.unit is None:
        table.notes.append(
            f"warning: {table.source}: age: column {name} has no unit; {unit} are assumed, since the median is "
            f"{numbers.median():g}; call it age_{unit}"
        )
    elif unit != "years":
        table.notes.append(f"age: {name} is in {unit}")
    absurd = years.index[(years < 0) | (years > OLDEST_YEARS)]
    if len(absurd):
        table.refuse(name, absurd[0], f"an age lies between 0 and {OLDEST_YEARS} years")
    return years


def _note_unused(table: LabelTable) -> None:
    """A column named like an age that cannot be read as one is reported, as times and events are."""
    unread = [name for name in table.frame.columns if {"age", "ages"} & set(words_of(name))]
    if unread:
        table.notes.append(
            f"warning: {table.source}: age: not read from {', '.join(unread)}; call the column age (years)"
        )
