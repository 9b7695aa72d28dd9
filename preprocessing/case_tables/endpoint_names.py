"""Survival columns by the grammar of their names: endpoint (OS, PFI, …), role (time or event), unit and coding.

A name counts if all of its words belong to the grammar, so `OS_MONTHS`, `Survival (months)`, `Vital status (1=dead)`,
`paper_Vital.status..1.dead.` and `path_diag_to_last_contact_days` are read, and `days_to_birth` or `IDH_status` are not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from preprocessing.tables.reading import names_in, words_of

Role = Literal["time", "event", "censored", "death time", "follow-up time", "time or event"]
ENDPOINTS = {
    "OS": "overall survival",
    "DSS": "disease-specific survival",
    "PFS": "progression-free survival",
    "PFI": "progression-free interval",
    "DFS": "disease-free survival",
    "DFI": "disease-free interval",
    "RFS": "recurrence-free survival",
    "EFS": "event-free survival",
    "MFS": "metastasis-free survival",
}
_UNITS = {
    **dict.fromkeys(names_in("months month mo mos mths"), "months"),
    **dict.fromkeys(names_in("days day d"), "days"),
    **dict.fromkeys(names_in("years year yrs yr"), "years"),
    **dict.fromkeys(names_in("weeks week wks wk"), "weeks"),
}
_ABBREVIATIONS = {name.lower(): name for name in ENDPOINTS} | {"css": "DSS"}
_DEAD = frozenset(names_in("dead death deceased died"))
_ALIVE = frozenset(names_in("alive living"))
_STATUS = frozenset(names_in("status event events stat indicator ind flag"))
_CENSORED = frozenset(names_in("censor censored censorship censoring"))
_TIME = frozenset(names_in("time survival duration interval"))
_FOLLOW_UP = frozenset(names_in("followup follow up last contact known seen visit"))
_FILLER = frozenset(
    names_in(
        "to of in at from since the and or until diagnosis diag dx initial pathologic path surgery patient is code cr was updated"
    )
)
_OUTCOMES = {  # words of endpoints, which count with free, specific or a status only
    **dict.fromkeys(names_in("progression progress"), ("PFS", "PFI")),
    **dict.fromkeys(names_in("disease tumor tumour cancer"), ("DFS", "DFI")),
    **dict.fromkeys(names_in("recurrence relapse"), ("RFS", "RFS")),
    **dict.fromkeys(names_in("metastasis"), ("MFS", "MFS")),
}
_JOINED = re.compile(r"(os|pfs|pfi|dfs|dfi|dss|rfs|efs)(months?|days?|years?|weeks?|time|status|event)")
_CODED = re.compile(r"([012])(dead|death|deceased|died|alive|living|event|censored)")
_RUN_TOGETHER = {
    "overallsurvival": "overall survival",
    "vitalstatus": "vital status",
    "futime": "followup time",
    "fustat": "vital status",
    "survivaltime": "survival time",
    "survivalstatus": "survival status",
    "survivalmonths": "survival months",
    "survivaldays": "survival days",
    "timetoevent": "time to event",
    "daystodeath": "days to death",
    "daystolastfollowup": "days to last followup",
}
_CODES = frozenset({"0", "1", "2"})
_ANSWERS = frozenset({"yes", "no", "y", "n", "true", "false"})
_STATES = _DEAD | _ALIVE | _CENSORED | {"event", "yes", "no"}
_TABLES = frozenset(
    names_in("gdc cases case demographic diagnoses diagnosis clinical paper exposures donor tcga xml cgc")
)
# The GDC's tables as UCSC Xena appends them: days_to_death.demographic, tumor_grade.diagnoses.
_TABLE_AT_END = re.compile(
    r"\.(demographic|diagnoses|exposures|treatments|samples|follow_ups|family_histories|annotations|project|cases)$"
)
# Forms of CPTAC before a column: consent/age, follow-up/vital_status_at_date_of_last_contact.
_FORM = re.compile(
    r"^(consent|baseline|cancer_history|cortical_measures|follow-?up|general_medical_history|medications|procurement)/",
    re.IGNORECASE,
)
# Names of one word that say enough; EFS is a gene, and counts with a second word only.
_SINGLE = (
    frozenset(names_in("time survival event dead death died deceased alive living status os pfs pfi dfs dfi dss rfs"))
    | _CENSORED
)


@dataclass(frozen=True)
class SurvivalColumn:
    """The meaning of a survival column, by its name.

    Attributes:
        endpoint: a key of `ENDPOINTS`; None where the name has none (`event`, `survival_months`).
        role: time, event (1: it happened), censored (1: it did not), days to death or to the last follow-up; "time or event"
            where the values decide (`OS`).
        unit: days, weeks, months, years; None where the name has none.
        coding: what the values mean where the name states it (`1=dead`, `alive=0; dead=1`).
        is_first_event: whether the values name the event that came first, such as Relapse or Death, or that there was none.
    """

    endpoint: str | None
    role: Role
    unit: str | None = None
    coding: "Coding | None" = None
    is_first_event: bool = False


@dataclass(frozen=True)
class Coding:
    """What the codes 0, 1 and 2 of an event column mean.

    Attributes:
        happened: the code of the event; None where the name states the other only.
        opposite: the code of cases without it, likewise.
    """

    happened: str | None
    opposite: str | None

    def is_event(self, code: str) -> bool:
        """Whether a code is that of the event: where only one is stated, any other is its opposite."""
        return code == self.happened if self.happened else code != self.opposite


def survival_column(name: str) -> SurvivalColumn | None:
    """Return the meaning of a survival column by its name; None if it is no survival column."""
    words = _words(name)
    if words == ["first", "event"]:  # TARGET
        return SurvivalColumn("EFS", "event", is_first_event=True)
    words, coding = _without_coding(words)
    if not words or (len(words) == 1 and words[0] not in _SINGLE):
        return None
    units = {_UNITS[word] for word in words if word in _UNITS}
    if len(units) > 1:
        return None
    found = _endpoint(words)
    if found is None:
        return None
    endpoint, rest = found
    return _column(endpoint, rest, next(iter(units), None), coding)


def without_table(name: str) -> str:
    """Return the name of a column without the table that follows it (`gender.demographic`) or precedes it (`consent/age`)."""
    return _TABLE_AT_END.sub("", _FORM.sub("", name))


def _words(name: str) -> list[str]:
    words = words_of(without_table(name))
    while len(words) > 1 and words[0] in _TABLES and words[:2] not in (["diagnosis", "to"],):
        words = words[1:]
    if (
        len(words) > 2
        and words[0] in ("follow", "followup")
        and words[1] in ("ups", "up")
        and words[2] in ("days", "follow")
    ):
        words = words[2:]  # the GDC's table follow_ups
    if "date" in words and ("vital" in words or set(words) & set(_UNITS)):
        words = [
            word for word in words if word not in ("date", "number")
        ]  # number of days from date of … to date of death
    split: list[str] = []
    for word in words:
        parts = _JOINED.fullmatch(word) or _CODED.fullmatch(word)
        split += list(parts.groups()) if parts else _RUN_TOGETHER.get(word, word).split()
    return split


def _without_coding(words: list[str]) -> tuple[list[str], Coding | None]:
    """The words without a final statement such as `1=dead`, `alive=0; dead=1` or `0/1`, and what it states."""
    for known in (_CODES, _ANSWERS):
        answers = next((at for at in range(len(words)) if known.issuperset(words[at:])), len(words))
        if len(words) - answers > 1:  # Dead (0/1), Death (Y/N): which codes there are
            return words[:answers], None
    start = next((at for at, word in enumerate(words) if word in _CODES), None)
    if start is None:
        return words, None
    word_first = start > 0 and words[start - 1] in _DEAD | _ALIVE | {"yes", "no"}
    for begin, names_first in ((start - 1, True), (start, False)) if word_first else ((start, False),):
        pairs = [
            words[at : at + 2] for at in range(begin, len(words), 2)
        ]  # Death (0=alive, 1=dead) is a name and pairs
        if all(len(pair) == 2 for pair in pairs):
            states = [(pair[0], pair[1]) if names_first else (pair[1], pair[0]) for pair in pairs]
            if all(state in _STATES and code in _CODES for state, code in states):
                return words[:begin] or ["dead"], _coding(states)
    return words, None  # a digit that is no code: the name is of no survival column


def _coding(states: Sequence[tuple[str, str]]) -> Coding | None:
    happened = next((code for state, code in reversed(states) if state in _DEAD | {"event", "yes"}), None)
    opposite = next((code for state, code in states if state in _ALIVE | _CENSORED | {"no"}), None)
    return Coding(happened, opposite) if happened or opposite else None


def _endpoint(words: list[str]) -> tuple[str | None, set[str]] | None:
    """The endpoint and the other words; None where a word does not belong to the grammar."""
    rest = set(words)
    named = next((_ABBREVIATIONS[word] for word in words if word in _ABBREVIATIONS), None)
    rest -= set(_ABBREVIATIONS)
    if "overall" in rest:
        named, rest = "OS", rest - {"overall"}
    outcome = next((word for word in words if word in _OUTCOMES), None)
    if outcome is not None:
        if "specific" in rest:
            named = "DSS"
        elif "free" in rest or (outcome not in ("disease", "tumor", "tumour", "cancer") and rest & _STATUS):
            named = _OUTCOMES[outcome]["interval" in rest]
        else:
            return None
        rest -= {outcome, "specific", "free"}
    elif {"event", "free"} <= rest:
        named, rest = "EFS", rest - {"event", "free"}
    known = _DEAD | _ALIVE | _STATUS | _CENSORED | _TIME | _FOLLOW_UP | _FILLER | set(_UNITS) | {"vital"}
    return (named, rest) if rest <= known else None


def _column(endpoint: str | None, rest: set[str], unit: str | None, coding: Coding | None) -> SurvivalColumn | None:
    if rest & _CENSORED and rest & _STATUS and not coding:
        return None  # a censoring indicator is 1 for either
    if rest & _CENSORED:
        return SurvivalColumn(endpoint, "event" if coding else "censored", None, coding) if not unit else None
    if rest & _DEAD and (unit or "time" in rest):
        if "of" in rest and unit and not rest & {"to", "until", *_TIME}:
            return None  # a date of the calendar, as year_of_death
        either = rest & _FOLLOW_UP  # days to death or last contact
        return SurvivalColumn(endpoint or "OS", "time" if either else "death time", unit)
    follows = rest & _FOLLOW_UP
    if unit and follows and ({"to", "last"} & rest) and "survival" not in rest:
        return SurvivalColumn(endpoint or "OS", "follow-up time", unit)
    if rest & (_STATUS | _DEAD | _ALIVE | {"vital"}) and not unit and "time" not in rest:
        return _event_column(endpoint, rest, coding)
    if unit and not (endpoint or rest & _TIME or {"follow", "followup"} & rest):
        return None  # a number of days of something
    if unit or rest & {"time", "duration"} or {"follow", "followup"} & rest:
        return SurvivalColumn(endpoint, "time", unit)
    if endpoint or "survival" in rest:
        return SurvivalColumn(endpoint, "time or event")
    return None


def _event_column(endpoint: str | None, rest: set[str], coding: Coding | None) -> SurvivalColumn:
    specific = endpoint or ("OS" if rest & (_DEAD | _ALIVE | {"vital", "survival"}) else None)
    if rest & _ALIVE and not rest & (_DEAD | {"vital"}):
        coding = coding or Coding(happened="0", opposite="1")  # is_alive: 1 or yes of the living
    return SurvivalColumn(specific, "event", None, coding)
