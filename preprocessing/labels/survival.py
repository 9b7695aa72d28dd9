"""Survival of each case: time and event of one endpoint, with every assumption stated and checked against what is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from preprocessing.case_tables.column_names import plain_name
from preprocessing.case_tables.endpoint_names import ENDPOINTS, Role, SurvivalColumn, survival_column
from preprocessing.io.errors import InputError, count, some
from preprocessing.labels.columns import LabelTable, is_binary, read_first_event, read_flag, text_of, yes_no
from preprocessing.labels.flips import require_direction
from preprocessing.labels.survival_times import (
    MONTHS_IN,
    OS,
    guessed_months,
    in_months,
    read_dates,
    read_time,
    split_living,
    with_follow_up,
    without_negative,
)
from preprocessing.tables.reading import names_in, read_number, words_of

ENOUGH_WORDS = 5  # cases whose vital status in words decides on a column of 0 and 1
MANY_LOST = 0.05  # share of the dead or the living without a time beyond which the rest is not a random sample
FEW_LOST = 2  # cases without a time that may be lost by chance, whatever their share

_TIME_WORDS = frozenset(
    names_in("os survival date dates day days month months year years time followup followed follow")
)
_SURVIVAL_WORDS = frozenset(names_in("survival death dead deceased died vital"))
_EVENT_REMEDY = (
    "write 1 (it happened), 0 (it did not until the last contact, as of those lost to follow-up), Dead or Alive, or leave it "
    "empty"
)
_ANSWERS = {"yes": "1", "y": "1", "true": "1", "no": "0", "n": "0", "false": "0"}
_CENSORED_REMEDY = "write 1 (censored: no event seen) or 0 (it happened)"


@dataclass(frozen=True)
class Survival:
    """Survival labels.

    Attributes:
        months: (cases) time to event or censoring, float; None without a time column.
        event: (cases) boolean, True: it happened; None without an event column.
        gaps: (cases) why a case has no survival label; missing where it has one.
        endpoint: key of `ENDPOINTS`.
        available: endpoints with a time and an event column.
    """

    months: pd.Series | None
    event: pd.Series | None
    gaps: pd.Series
    endpoint: str
    available: tuple[str, ...]


def read_survival(table: LabelTable, endpoint: str = OS, *, known: Mapping[str, pd.Series | None]) -> Survival:
    """Return time and event of an endpoint.

    Args:
        table: the clinical columns.
        endpoint: a key of `ENDPOINTS`.
        known: age (years) and grade of the cases, both of which shorten survival: the direction of the event is checked
            against them.

    Raises:
        InputError: a value that is not understood, columns that contradict each other, or an endpoint that is not there.
    """
    table, living = split_living(table)
    columns = _columns(table)
    available = _available(columns) or ((OS,) if living is not None else ())
    if endpoint not in available and endpoint != OS:
        there = ", ".join(available) or "none"
        raise InputError(
            f"{table.source}: --endpoint {endpoint}: no columns of its time and event; endpoints here: {there}"
        )
    _note_endpoints(table, columns, available, endpoint)
    months, used = read_time(table, columns, endpoint)
    event, event_column = _event(table, columns, endpoint, with_time=used)
    if event is None and living is not None and living.name == used and months is not None:
        event, event_column = (~living).astype("boolean").mask(months.isna()), used
    if used and columns[used].role == "follow-up time":
        if event is None:
            event, event_column = _event_of_dates(table, columns), used
        months = months if event is None else _without_dateless_deaths(table, columns, months, event)
    _note_missing_columns(table, columns, months, event)
    if months is not None and event is not None and used and endpoint == OS:
        months = with_follow_up(table, columns, months, event, used)
    if months is not None:
        months = without_negative(table, months)
    if months is not None and event is not None:
        vital = _vital_status(table, columns, event_column) if endpoint == OS else None
        require_direction(table, event_column or "event", event, months, known, vital=vital)
    gaps = _gaps(table, months, event)
    return Survival(months, event, gaps, endpoint, available)


def without_survival(table: LabelTable) -> Survival:
    """Return the labels of cases whose survival is not read."""
    return Survival(None, None, _gaps(table, None, None), OS, ())


def _columns(table: LabelTable) -> dict[str, SurvivalColumn]:
    """Survival columns with a value, by name; those called OS or PFI are times or events by their values."""
    found = {}
    for name in table.frame.columns:
        column = survival_column(name)
        if column is None or not table.frame[name].notna().any():
            continue
        if column.role == "time or event":
            role = _role_of_values(table.frame[name])
            column = SurvivalColumn(column.endpoint, role, column.unit, column.coding) if role else None
        if column is not None and not (column.role == "time" and is_binary(table.frame[name])):
            found[name] = column
    return found


def _role_of_values(values: pd.Series) -> Role | None:
    """Event for 0 and 1 or for words, time for numbers; None for anything else."""
    texts = values.dropna().map(text_of)
    if is_binary(values) or texts.map(read_flag).notna().all():
        return "event"
    return "time" if texts.map(read_number).notna().all() else None


def _available(columns: Mapping[str, SurvivalColumn]) -> tuple[str, ...]:
    """Endpoints with a time and an event, in the order of `ENDPOINTS`; columns without an endpoint count as OS."""
    times = {
        column.endpoint or OS for column in columns.values() if column.role in ("time", "death time", "follow-up time")
    }
    events = {column.endpoint or OS for column in columns.values() if column.role in ("event", "censored")}
    events |= {OS} if any(column.role == "death time" for column in columns.values()) else set()
    return tuple(name for name in ENDPOINTS if name in times & events)


def _note_endpoints(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], available: tuple[str, ...], endpoint: str
) -> None:
    times = {column.endpoint for column in columns.values() if column.role == "time"} - {None, *available}
    if times:
        table.notes.append(
            f"endpoints: times of {', '.join(sorted(map(str, times)))} without a status of its own: not used"
        )
    if len(available) > 1:
        table.notes.append(f"endpoints: {', '.join(available)}; {endpoint} is used (--endpoint)")
    elif available and endpoint not in available:
        table.notes.append(
            f"warning: {table.source}: no overall survival, but {ENDPOINTS[available[0]]}; use it with --endpoint {available[0]}"
        )


def read_endpoint(
    table: LabelTable, time: str, event: str, *, unit: str = "", task: str = ""
) -> tuple[pd.Series, pd.Series]:
    """Return months and event of an endpoint from the two columns that the user names; negative times are missing.

    Args:
        table: the clinical columns.
        time: column of times to the event or the last follow-up.
        event: column of events, or of censorship where it is called so.
        unit: of the time, a key of `MONTHS_IN`; "": by the column's name, else by the longest time.
        task: for messages.

    Raises:
        InputError: a value that is not understood, or an unknown unit.
    """
    known, coded = survival_column(time), survival_column(event)
    if coded is None and is_binary(table.frame[event]) and any(word.startswith("cens") for word in words_of(event)):
        raise InputError(
            f"{table.source}: column {event}: 1 may stand for a censored case, or for an event; call it censored, or event"
        )
    if unit and unit not in MONTHS_IN:
        raise InputError(f"column {time}: unit {unit} of a time is none of {', '.join(MONTHS_IN)}")
    if unit or (known and known.unit):
        months = in_months(table, time, unit or str(known and known.unit), task=task)
    else:
        months = guessed_months(table, time, known or SurvivalColumn(None, "time"), task=task)
    if coded is not None and coded.role == "censored":
        return without_negative(table, months, task=task), ~_censored(table, event)
    return without_negative(table, months, task=task), _read_event(table, event, coded or SurvivalColumn(None, "event"))


# --- The GDC's two columns: days to death, days to the last follow-up -------------------------------------------------


def _event_of_dates(table: LabelTable, columns: Mapping[str, SurvivalColumn]) -> pd.Series | None:
    """Deaths by the column of their times; None without one: that nobody died does not follow from a follow-up."""
    _, followed = read_dates(table, columns, "follow-up time")
    name, died = read_dates(table, columns, "death time")
    if name is None:
        return None
    table.notes.append(f"event: happened where {name} has a value")
    return died.notna().astype("boolean").mask(died.isna() & followed.isna())


def _without_dateless_deaths(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], months: pd.Series | None, event: pd.Series
) -> pd.Series | None:
    """Return the times without those of deaths that have no date: such a death is later than the last follow-up."""
    name, died = read_dates(table, columns, "death time")
    living = event.eq(False).fillna(False)
    contradicted = event.index[living & died.notna()]
    if len(contradicted):
        raise InputError(
            f"{table.source}: case {contradicted[0]} is alive by its vital status but has {name} = "
            f"{table.value(name, contradicted[0])}; correct one of them"
        )
    return None if months is None else months.mask(event.eq(True).fillna(False) & died.isna())


# --- Events -----------------------------------------------------------------------------------------------------------


def _event(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], endpoint: str, *, with_time: str | None
) -> tuple[pd.Series | None, str | None]:
    """The event of the endpoint: a time named OS goes with an event named OS, one without a name with one without."""
    named_time = columns[with_time].endpoint is not None if with_time else True
    ours = [n for n, c in columns.items() if c.endpoint == endpoint or (c.endpoint is None and endpoint == OS)]
    events = [name for name in ours if columns[name].role == "event"]
    events.sort(key=lambda name: ((columns[name].endpoint is not None) != named_time, "vital" in name.lower()))
    opposite = next((name for name in ours if columns[name].role == "censored"), None)
    if not events:
        if opposite is None:
            return None, None
        table.notes.append(f"event, as the opposite of censorship: column {opposite}")
        return ~_censored(table, opposite), opposite
    chosen, *others = events
    flags = {name: _flags(table, name, columns[name]) for name in events}
    several = len({column.endpoint or OS for column in columns.values() if column.role == "time"}) > 1
    same = [
        name for name in others if columns[name].endpoint is not None or not several
    ]  # else it may be of any endpoint
    differing = {name: int((flags[name] != flags[chosen]).sum()) if name in same else None for name in others}
    table.note_choice(
        "event, as the opposite" if _is_of_the_living(table, chosen, columns) else "event", chosen, differing
    )
    event = _read_event(table, chosen, columns[chosen])
    if columns[chosen].is_first_event:
        event = _with_event_free(table, event, chosen)
    elif opposite is None:
        _note_deaths_only(table, event, chosen)
    return (_with_censorship(table, event, chosen, opposite) if opposite else event), chosen


def _is_of_the_living(table: LabelTable, name: str, columns: Mapping[str, SurvivalColumn]) -> bool:
    """Whether 1 or yes in the column stands for a living case."""
    coding, values = columns[name].coding, table.frame[name].dropna().map(lambda value: text_of(value).lower())
    return coding is not None and coding.opposite == "1" and set(values) <= {*_ANSWERS, "1", "0", "1.0", "0.0"}


def _flags(table: LabelTable, name: str, column: SurvivalColumn) -> pd.Series:
    """The events of a column, missing where a value is not understood."""
    return (
        table.frame[name].map(lambda value: _flag_reader(column)(text_of(value)), na_action="ignore").astype("boolean")
    )


def _read_event(table: LabelTable, name: str, column: SurvivalColumn) -> pd.Series:
    return table.parse(name, _flag_reader(column), dtype="boolean", remedy=_EVENT_REMEDY)


def _with_event_free(table: LabelTable, event: pd.Series, name: str) -> pd.Series:
    """Fill in the cases without an event in a column that has a word for events only.

    "None" is read as an empty cell, as are words for what is unknown. Where other cells state that nothing happened
    ("Censored"), an empty one stays unknown.
    """
    if event.notna().all() or not event.dropna().all():
        return event
    table.notes.append(
        f"warning: {table.source}: event: column {name} names the first event and has no word for cases without one; where it "
        f"is None, empty or unknown ({count(int(event.isna().sum()), 'case')}), no event is assumed"
    )
    return event.fillna(False)


def _note_deaths_only(table: LabelTable, event: pd.Series, name: str) -> None:
    """Warn of a column that is filled in for the dead only: the living, whose cells are empty, would all be left out."""
    empty = int(event.isna().sum())
    if event.any() and event.dropna().all() and empty > FEW_LOST:
        table.notes.append(
            f"warning: {table.source}: event: every value of column {name} is an event ({count(int(event.sum()), 'case')}), and "
            f"the {count(empty, 'case')} without a value are left out of survival; if they are alive, write 0 there"
        )


def _flag_reader(column: SurvivalColumn) -> Callable[[str], bool | None]:
    """How values are read, by the coding that the column's name states (`1=dead`) if it does."""
    if column.is_first_event:
        return read_first_event
    coding = column.coding
    if coding is None:
        return read_flag

    def read(text: str) -> bool | None:
        code = _ANSWERS.get(text.lower(), text.removesuffix(".0"))
        return coding.is_event(code) if code in ("0", "1", "2") else read_flag(text)

    return read


def _censored(table: LabelTable, name: str) -> pd.Series:
    return table.parse(name, _read_censored, dtype="boolean", remedy=_CENSORED_REMEDY)


def _read_censored(text: str) -> bool | None:
    """Of a censorship column "censored" is True, though of an event column it is False."""
    word = text.lower()
    return word == "censored" if word in ("censored", "uncensored") else yes_no(word)


def _with_censorship(table: LabelTable, event: pd.Series, column: str, opposite: str) -> pd.Series:
    censored = _censored(table, opposite)
    contradicted = event.index[(event == censored).fillna(False)]
    if (
        len(contradicted)
        and len(contradicted) == (event.notna() & censored.notna()).sum() >= ENOUGH_WORDS
        and (not is_binary(table.frame[column]) and is_binary(table.frame[opposite]))
    ):
        table.notes.append(
            f"warning: {table.source}: {opposite} is 1 for the dead and 0 for the living in all "
            f"{count(len(contradicted), 'case')} by "
            f"{column}, the opposite of its name: not used"
        )
        return event
    if len(contradicted):
        case = contradicted[0]
        raise InputError(
            f"{table.source}: case {case} has {column} = {table.value(column, case)} and {opposite} = "
            f"{table.value(opposite, case)}, which contradict each other ({len(contradicted)} such cases); {opposite} "
            f"means the opposite of an event: correct one, or remove it"
        )
    return event.fillna(~censored)


def _vital_status(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], event_column: str | None
) -> pd.Series | None:
    """Deaths by the words of a vital status (Dead, Alive), from another column than the event's."""
    for name, column in columns.items():
        if name == event_column or column.role != "event" or column.endpoint != OS:
            continue
        flags = _flags(table, name, column)
        if flags.notna().any() and not is_binary(table.frame[name]):
            return flags
    return None


# --- What is missing --------------------------------------------------------------------------------------------------


def _note_missing_columns(
    table: LabelTable, columns: Mapping[str, SurvivalColumn], months: pd.Series | None, event: pd.Series | None
) -> None:
    dated_deaths = any(column.role == "death time" for column in columns.values())
    unread = [name for name in table.frame.columns if _SURVIVAL_WORDS & set(words_of(name)) and name not in columns]
    if months is None and event is None and unread:
        table.notes.append(
            f"warning: {table.source}: survival: not read from {some(unread)}; call the columns survival_months or survival_days, "
            "and event (1: died, 0: alive at the last follow-up)"
        )
    if months is None and (event is not None or dated_deaths):
        events = {name for name, column in columns.items() if "time" not in column.role}
        named = {name: _TIME_WORDS & set(plain_name(name).split("_")) for name in table.frame.columns}
        dated = [name for name, words in named.items() if words and name not in events]
        unused = f" (not used: {some(dated)})" if dated else ""
        table.notes.append(
            f"warning: {table.source}: there are deaths but no survival time, so survival cannot be learned{unused}; give a "
            "column survival_months or survival_days, from the diagnosis to the death or the last follow-up"
        )
    if months is not None and event is None:
        table.notes.append(
            f"warning: {table.source}: there is a survival time, but no column of deaths, so survival cannot be learned; give "
            "a column event (1: died, 0: alive at the last follow-up)"
        )


def _gaps(table: LabelTable, months: pd.Series | None, event: pd.Series | None) -> pd.Series:
    """Why each case has no survival label; a warning where the dead or the living are lost more than by chance."""
    gaps = pd.Series(pd.NA, index=table.frame.index, dtype="string")
    if months is None or event is None:
        return gaps.fillna("no survival time" if months is None else "no vital status")
    dead, alive, timed = event.eq(True).fillna(False), event.eq(False).fillna(False), months.notna()
    gaps = gaps.mask(event.isna(), "no vital status").mask(event.isna() & ~timed, "no vital status and no time")
    gaps = gaps.mask(dead & ~timed, "dead without a date").mask(alive & ~timed, "living without follow-up")
    lost_dead, lost_alive = int((dead & ~timed).sum()), int((alive & ~timed).sum())
    if _are_many(lost_dead, dead.sum()) or _are_many(lost_alive, alive.sum()):
        left = timed & (dead | alive)
        table.notes.append(
            f"warning: {table.source}: survival: {lost_dead} of {dead.sum()} dead have no date and {lost_alive} of {alive.sum()} "
            f"living no follow-up; of the {left.sum()} cases that remain {(left & dead).sum()} died: they are not a random sample "
            "of the cohort. Add the follow-up (the GDC has it in the table follow_ups), or do not compare these survival times"
        )
    return gaps


def _are_many(n_lost: int, n: int) -> bool:
    return n_lost > max(FEW_LOST, MANY_LOST * n)


def follow_up(months: pd.Series, event: pd.Series) -> float:
    """Return the median follow-up in months by the reverse Kaplan-Meier method; NaN where it is not reached.

    Schemper & Smith, Controlled Clinical Trials 17 (1996) 343: censoring is the event, and a death censors it.
    """
    time, censored = months.to_numpy(float), ~event.to_numpy(bool)
    share = 1.0
    for moment in np.unique(time):
        share *= 1 - (censored & (time == moment)).sum() / (time >= moment).sum()
        if share <= 0.5:
            return float(moment)
    return float("nan")
