"""Names in a column of a table: two spellings of one name, a failed formula in place of a name, a likely typing error."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher

import pandas as pd

from preprocessing.io.errors import InputError, count
from preprocessing.tables.reading import names_in, read_number

# What a spreadsheet shows where a formula failed; #N/A is a missing value.
FAILED_FORMULAS = frozenset({"#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"})
# Between words: blanks and hyphens, also with a comma. The signs of "ER+" and "ER-" are none.
SEPARATORS = re.compile(r"(?<=[^\W_])[,;]?[\s_-]+(?=[^\W_])")
LONG_WORD = 6  # letters from which two words that differ in one are hardly two names
RARE_WORDS = 0.1  # share of the cases, of words among numbers
# What is written where a test gave no result.
_UNDECIDED = frozenset(
    names_in(
        "nd x nos failed failure indeterminate inconclusive equivocal undetermined unclear insufficient noresult notinformative"
    )
)
SIMILAR = 0.9  # share of letters in common


def require_one_spelling(values: pd.Series, where: str, *, known: Collection[str] = ()) -> None:
    """Raise InputError where a value is a failed formula, or two values differ in capitals and separators only.

    Args:
        values: of the cases, as text.
        where: names the column in messages.
        known: names that the user has listed, which are different however they are spelt.
    """
    there = values.dropna().astype(str)
    if failed := sorted(set(there) & FAILED_FORMULAS):
        cases = there.index[there == failed[0]]
        raise InputError(
            f"{where}, case {cases[0]}: {failed[0]} is a formula that failed in the spreadsheet "
            f"({count(len(cases), 'case')}); correct it, or leave the cell empty"
        )
    numbers = there.value_counts()
    spellings: dict[str, list[str]] = {}
    for name in sorted({*numbers.index, *known}, key=lambda name: (-numbers.get(name, 0), name)):
        spellings.setdefault(_plain(name), []).append(name)
    for same in spellings.values():
        if len(same) > 1 and not set(same) <= set(known):
            listed = " and ".join(f'"{name}" ({count(int(numbers.get(name, 0)), "case")})' for name in same)
            raise InputError(
                f"{where} has {listed}, which differ in capitals, blanks, hyphens or commas only; write them alike"
            )


def misspelt(name: str, others: Sequence[str]) -> str | None:
    """Return the name that this one may be a misspelling of: alike but for a letter of a long word, or two in another order."""
    return next((other for other in others if other != name and _is_misspelling(name, other)), None)


def perhaps_missing(cases: Mapping[str, int]) -> list[str]:
    """Return the classes that may stand for a missing value: by the word, a number among words, or rare words among numbers.

    Args:
        cases: number of cases of each class.
    """
    numbers = [name for name in cases if read_number(name) is not None]
    words = [name for name in cases if name not in numbers]
    found = [name for name in words if re.sub(r"[\W_]+", "", name.casefold()) in _UNDECIDED]
    if len(numbers) == 1 and len(words) > 1:
        found += numbers
    if len(numbers) > 1 and sum(cases[name] for name in words) <= RARE_WORDS * sum(cases.values()):
        found += [name for name in words if name not in found]
    return found


def _plain(name: str) -> str:
    """The name without differences of capitals and of what separates its words."""
    return SEPARATORS.sub(" ", name.casefold())


def _is_misspelling(name: str, other: str) -> bool:
    words, correct = _plain(name).split(), _plain(other).split()
    pairs = [(one, two) for one, two in zip(words, correct, strict=False) if one != two]
    if len(words) != len(correct) or len(pairs) != 1:
        return False
    ((one, two),) = pairs
    is_word = one.isalpha() and two.isalpha() and min(len(one), len(two)) >= LONG_WORD and one[0] == two[0]
    return is_word and (sorted(one) == sorted(two) or SequenceMatcher(None, one, two).ratio() >= SIMILAR)
