"""Case ids of slides and tables are matched: spellings that differ in capitals only are one name, similar names are reported."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from preprocessing.io.errors import some

SIMILAR = 0.8  # ratio of common letters from which two names with the same digits may be a typing error
COMPARED = 300  # names without a partner that are compared one by one


def spellings(cases: Iterable[str]) -> set[str]:
    """Return the ids with their usual spellings in capitals, by which a table's ids are recognised."""
    return {spelt for case in cases for spelt in (case, case.lower(), case.upper(), case.title(), case.capitalize())}


def match_cases(
    slide_cases: Collection[str],
    table_cases: Collection[str],
    *,
    noun: str = "cases of slides",
    among: str = "the tables",
    remedy: str = "write them alike, or give a manifest with a case_id column",
) -> tuple[dict[str, str], list[str]]:
    """Return the table's spelling of each slide case that differs in capitals only, and notes on what was matched or is similar.

    Args:
        slide_cases: cases of the slides, or of a table that is matched with another.
        table_cases: cases of the tables.
        noun: the former in notes, in the plural.
        among: the latter in notes.
        remedy: what to do about similar ids that are of one case.
    """
    lone_slides, lone_tables = set(slide_cases) - set(table_cases), set(table_cases) - set(slide_cases)
    by_fold: dict[str, list[str]] = {}
    for case in lone_tables:
        by_fold.setdefault(case.casefold(), []).append(case)
    found = {case: by_fold.get(case.casefold(), []) for case in lone_slides}
    folds = [case.casefold() for case in lone_slides]
    matched = {
        case: partners[0]
        for case, partners in found.items()
        if len(partners) == 1 and folds.count(case.casefold()) == 1
    }
    notes = []
    if matched:
        pairs = some(f"{slide} as {table}" for slide, table in sorted(matched.items()))
        notes.append(
            f"{len(matched)} {noun} are capitalised differently in {among}: {pairs}; they are treated as one case"
        )
    similar = _similar(lone_slides - matched.keys(), lone_tables - set(matched.values()))
    if similar:
        pairs = some(f"{slide} ({table}?)" for slide, table in sorted(similar.items()))
        notes.append(
            f"warning: {len(similar)} {noun} are missing from {among}, which have similar ids: {pairs}; if they are "
            f"the same, {remedy}"
        )
    return matched, notes


def _similar(slides: set[str], tables: set[str]) -> Mapping[str, str]:
    """The likely partner of each slide's case: equal but for separators and zeros, a name with an addition, or a typing error."""
    by_key: dict[str, list[str]] = {}
    for case in sorted(tables):
        by_key.setdefault(_key(case), []).append(case)
    by_digits: dict[str, list[str]] = {}
    for case in sorted(tables)[: 10 * COMPARED]:
        by_digits.setdefault(_digits(case), []).append(case)
    similar = {}
    for case in sorted(slides)[:COMPARED]:
        partners = by_key.get(_key(case)) or [other for key in _shortened(case) for other in by_key.get(key, ())]
        partners = partners or [other for other in sorted(tables) if _key(case) in _shortened(other)]
        partners = partners or difflib.get_close_matches(case, by_digits.get(_digits(case), ()), n=1, cutoff=SIMILAR)
        if partners:
            similar[case] = partners[0]
    return similar


def _key(case: str) -> str:
    """Letters and digits only, without zeros that fill up a number."""
    words = re.findall(r"[^\W\d_]+|\d+", case.casefold())
    return "".join(word.lstrip("0") or "0" if word.isdecimal() else word for word in words)


def _digits(case: str) -> str:
    return ",".join(number.lstrip("0") for number in re.findall(r"\d+", case))


def _shortened(case: str) -> list[str]:
    """The keys of the name without its last parts, the longest first ("H12-345_HE": that of "H12-345")."""
    ends = [found.start() for found in re.finditer(r"[\s_.-]+", case) if found.start() > 2]
    return [_key(case[:end]) for end in reversed(ends)]
