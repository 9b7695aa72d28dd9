"""Case ids of slides and tables are matched: spellings that differ in capitals only are one name, similar names are reported."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from preprocessing.io.errors import count, some
from preprocessing.tables.reading import text_columns

SIMILAR = 0.8  # ratio of common letters from which two names with the same digits may be a typing error
# A patient's id, which has a digit, and what a sample of the patient has behind it: _A, -1, .T1, _recurrent, or a letter.
_SAMPLE_OF = re.compile(r"(.*\d)([A-Za-z]|[\s_.-]+(?:\d|[A-Za-z]+\d?))")
# A patient's number in a text, as in GEO's titles: "Glioblastoma of patient 12, recurrence".
_PATIENT = re.compile(
    r"(?<![a-z])(?:(?:patient|subject|donor|case)s?[\s_.:#-]*|(?:pat|pt)s?[\s_.:#-]+)(?:no|nr|id)?[\s_.:#-]*([a-z]{0,4}\d+)",
    re.IGNORECASE,
)
COMPARED = 300  # names without a partner that are compared one by one


def spellings(cases: Iterable[str]) -> set[str]:
    """Return the ids with their usual spellings in capitals, by which a table's ids are recognised."""
    return {spelt for case in cases for spelt in (case, case.lower(), case.upper(), case.title(), case.capitalize())}


def match_cases(
    slide_cases: Collection[str],
    table_cases: Collection[str],
    *,
    noun: str = "case of the slides",
    among: str = "the tables",
    remedy: str = "write them alike, or give a manifest with a case_id column",
) -> tuple[dict[str, str], list[str]]:
    """Return the table's spelling of each slide case that differs in capitals only, and notes on what was matched or is similar.

    Args:
        slide_cases: cases of the slides, or of a table that is matched with another.
        table_cases: cases of the tables.
        noun: one of the former in notes.
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
            f"{count(len(matched), noun)} capitalised differently in {among}, and treated as the same case: {pairs}"
        )
    similar = _similar(lone_slides - matched.keys(), lone_tables - set(matched.values()))
    if similar:
        pairs = some(f"{slide} ({table}?)" for slide, table in sorted(similar.items()))
        notes.append(
            f"warning: {count(len(similar), noun)} missing from {among}, which have similar ids: {pairs}; if they are "
            f"the same, {remedy}"
        )
    return matched, notes


def describe_relatives(cases: Collection[str]) -> list[str]:
    """Return a warning of cases whose ids begin alike and end as those of samples do (GB001_A and GB001_B); else nothing.

    Args:
        cases: that the run uses, without those whose ids a known scheme reads.
    """
    known, groups = set(cases), dict[str, dict[str, str]]()
    for case in sorted(known):
        found = _SAMPLE_OF.fullmatch(case)
        if found and found[1] in known:
            groups.setdefault(found[1], {"": found[1]})
        if found:
            groups.setdefault(found[1], {})[found[2]] = case
    alike = {stem: names for stem, names in groups.items() if len(names) > 1}
    ends = {end for names in alike.values() for end in names if "" not in names}
    # Where each patient has more numbers than there are patients, they number the patients of a site.
    alike = {stem: names for stem, names in alike.items() if "" in names or len(ends) <= len(alike)}
    if not alike:
        return []
    n = sum(map(len, alike.values()))
    return [
        f"warning: {n} cases may be samples of {count(len(alike), 'patient')}, by their ids "
        f"({some(' = '.join(names.values()) for names in alike.values())}); if they are, --case-pattern gives them the patient's "
        "id: under different ids a model is tested on patients that it was trained on"
    ]


def describe_patients(annotations: pd.DataFrame, cases: Collection[str]) -> list[str]:
    """Return a warning of cases that have a patient's number in common in a column of texts; else nothing.

    Args:
        annotations: clinical columns by case.
        cases: that the run uses.
    """
    used = annotations[annotations.index.isin(list(cases))]
    for column in text_columns(used):
        found = used[column].dropna().map(lambda text: _PATIENT.search(str(text)))
        numbers = found[found.notna()].map(lambda match: match[1].upper())
        alike = numbers[numbers.duplicated(keep=False)]
        patients = {str(number): list(map(str, same.index)) for number, same in alike.groupby(alike)}
        if patients and len(numbers) > len(used) / 2 and len(set(numbers)) > 1:
            pairs = some(map(" = ".join, patients.values()))
            return [
                f"warning: {len(alike)} cases may be samples of {count(len(patients), 'patient')}, by column {column} ({pairs}); "
                "if they are, give a column patient_id in the clinical table, beside that of the samples: under different ids a "
                "model is tested on patients that it was trained on"
            ]
    return []


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
