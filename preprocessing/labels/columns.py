"""Reading one label out of the columns of a clinical table."""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pandas as pd

from preprocessing.case_tables.column_names import plain_name
from preprocessing.io.errors import InputError, count
from preprocessing.tables.reading import read_number

_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4}
_FIRST_EVENT = re.compile(
    r"\b(relapse|recur|progress|death|died|second malignan|smn|induction failure|treatment failure|metasta|event$)"
)
_GRADE = re.compile(r"(?:cns )?(?:who )?(?:grade )?g? ?(iv|i{1,3}|[1-4])(?:\.0+)?")
_YES = {
    "1",
    "1.0",
    "true",
    "yes",
    "y",
    "dead",
    "deceased",
    "died",
    "death",
    "dod",
    "doc",
    "event",
    "progressed",
    "recurred",
    "relapsed",
}
_NO = {"0", "0.0", "false", "no", "n", "alive", "living", "censored", "awd", "ned"}
_PLAIN = "give a plain number (decimals take a point; for >90 write 90, without a unit), or leave it empty"


@dataclass(frozen=True)
class LabelTable:
    """The columns among which labels are searched for, and the notes collected on the way.

    Attributes:
        frame: one row per case, indexed by case id.
        source: name of the file in messages.
        notes: which column was read as what, one sentence each.
    """

    frame: pd.DataFrame
    source: str
    notes: list[str] = field(default_factory=list)

    def named(self, names: Collection[str]) -> list[str]:
        """Return the non-empty columns with one of the names, in the order of the names."""
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
        """Return the first acceptable column for the label, and note the others and in how many cases they differ.

        Args:
            names: plain names of columns, in order of preference.
            label: name of the label, for the note.
            accept: whether a column of this plain name and these values can be the label.
            read: parses a cell, so that equal values in different spellings do not differ.
        """
        columns = [column for column in self.named(names) if accept(plain_name(column), self.frame[column])]
        if not columns:
            return None
        self.note_choice(label, columns[0], {other: self._differing(columns[0], other, read) for other in columns[1:]})
        return columns[0]

    def note_choice(self, label: str, chosen: str, others: Mapping[str, int | None]) -> None:
        """Note the column of a label, and the others with the number of cases in which they differ (None: not comparable).

        It is a warning if any of them differs.
        """
        passed = ", ".join(
            name if n is None else f"{name} (differs in {count(n, 'case')})" for name, n in others.items()
        )
        doubt = f"warning: {self.source}: " if any(others.values()) else ""
        self.notes.append(
            f"{doubt}{label}: column {chosen}" + (f"; also present, not used: {passed}" if others else "")
        )

    def _differing(self, one: str, other: str, read: Callable[[str], Any]) -> int:
        both = self.frame[[one, other]].map(lambda value: read(text_of(value)), na_action="ignore").dropna()
        return int((both[one] != both[other]).sum())

    def value(self, column: str | None, case: Any) -> str:
        """Return a cell as text."""
        return str(self.frame[column][case])

    def refuse(self, column: str, case: Any, remedy: str) -> NoReturn:
        """Raise the InputError of a cell."""
        value = self.value(column, case)
        raise InputError(f'{self.source}: column {column}, case {case}: "{value}" is not understood; {remedy}')

    def parse(self, column: str, read: Callable[[str], Any], *, dtype: Any, remedy: str) -> pd.Series:
        """Return the column's values, parsed.

        Args:
            column: its name.
            read: parses a cell; returns None for what it does not understand.
            dtype: of the result.
            remedy: what to write instead, for the error.

        Raises:
            InputError: a value is not understood.
        """
        values = {}
        for case, value in self.frame[column].dropna().items():
            values[case] = read(text_of(value))
            if values[case] is None:
                self.refuse(column, case, remedy)
        return pd.Series(values, dtype=object).reindex(self.frame.index).astype(dtype)

    def numbers(self, column: str) -> pd.Series:
        """Return the column as float; what is not a plain decimal is refused."""
        return self.parse(column, read_number, dtype="Float64", remedy=_PLAIN).astype(float)


def text_of(value: Any) -> str:
    """Return a cell as text, with single blanks."""
    return " ".join(str(value).split())


def read_grade(text: str) -> Any:
    """Return 1 to 4 for "3", "G3", "III", "WHO grade III"; pd.NA if not assessed (GX); None if not understood."""
    words = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text).lower())  # "Ⅳ" is one sign
    if words in ("gx", "gb", "grade x"):
        return pd.NA
    found = _GRADE.fullmatch(words)
    return (_ROMAN.get(found[1]) or int(found[1])) if found else None


def read_flag(text: str) -> bool | None:
    """Return True for "1", "Dead", "1:DECEASED", "yes"; False for "0", "Alive", "0:LIVING", "no"; else None."""
    word = re.sub(r"^([01]):.*", r"\1", text.lower())  # 1:DECEASED, 0:CENSORED, 1:PROGRESSION (cBioPortal)
    state = re.match(r"(died|dead|death|deceased|alive|living) (of|from|by|due to|with|without|in|at|after|-) ", word)
    word = state[1] if state else word  # Died of Other Causes, Alive with disease (METABRIC, CPTAC)
    return True if word in _YES else False if word in _NO else None


def read_first_event(text: str) -> bool | None:
    """Return False for "Censored" and "No relapse", True for the name of an event, such as "Relapse"; else None."""
    flag, word = read_flag(text), re.sub(r"[\s_-]+", " ", text.lower())
    if flag is not None:
        return flag
    if re.match(r"(no|none|without)\b", word) or word == "event free":
        return False
    return True if _FIRST_EVENT.search(word) else None


def yes_no(word: str) -> bool | None:
    """Return True for "1", "yes", "true" and False for "0", "no", "false" in lower case; else None."""
    words = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
    return words.get(word)


def is_binary(values: pd.Series) -> bool:
    """Whether every value is 0 or 1."""
    return set(values.dropna().map(text_of)) <= {"0", "1", "0.0", "1.0"}
