"""Slides that are named after another stain than H&E, or as frozen sections and smears: laboratories keep all in one folder."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from preprocessing.io.errors import count, some
from preprocessing.slides.slide import Slide
from preprocessing.tables.reading import text_columns, words_of

_STAIN_WORDS = frozenset({"stain", "stains", "staining", "marker", "antibody", "ihc"})
_HE = re.compile(r"(?<![a-z0-9])(h[&+_. -]?e|hande|haematoxylin|hematoxylin|eosin)\d*(?![a-z0-9])", re.IGNORECASE)
_OTHER_STAIN = re.compile(
    r"(?<![a-z0-9])(ihc|immuno\w*|ki[_. -]?67|mib[_. -]?1|gfap|neun|atrx|olig[_. -]?2|p53|tp53|idh[_. -]?1?([_. -]?r132h)?|r132h|"
    r"h3[_. -]?k27(m|me3)?|s[_. -]?100|synaptophysin|map[_. -]?2|ema|iba[_. -]?1|l1cam|brafv600e|ini[_. -]?1|cd\d{1,3}|"
    r"pas|evg|lfb|nissl|masson|trichrome?|giemsa|gomori|reticulin|retikulin|silver|ptah|dapi|fish)(?![a-z0-9])"
    r"(?![_. -]?(mut|wt|wild))",  # folders of classes: IDH_mutant, IDH-wt
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?<![a-z0-9])([ps])[_. -]?(\d+)(?![a-z0-9])", re.IGNORECASE)  # P53, S100: stains, or patients
_FROZEN = re.compile(
    r"(?<![a-z0-9])(fs\d*|frozen|cryo\w*|kryo\w*|gefrier\w*|schnellschnitt\w*|smear\w*|squash|intraop\w*)(?![a-z0-9])",
    re.IGNORECASE,
)


def describe_stain_columns(path: Path, manifest: pd.DataFrame) -> list[str]:
    """Return a warning of each column of a manifest that names another stain than H&E for some of its slides."""
    notes = []
    for column in text_columns(manifest):
        if _STAIN_WORDS.isdisjoint(words_of(column)):
            continue
        stains = manifest[column].dropna().astype(str)
        other = stains[stains.map(lambda stain: bool(_OTHER_STAIN.search(stain)) and not _HE.search(stain))]
        if len(other):
            notes.append(
                f"warning: {path}: column {column} names another stain than H&E for {count(len(other), 'slide')} "
                f"({some(other.unique())}), which are used like all others; encoders and stain normalisation are made for H&E; "
                "delete their rows"
            )
    return notes


def describe_stains(slides: Iterable[Slide]) -> list[str]:
    """Return warnings of slides that are no H&E, or of frozen tissue, by their names, and by those of their folders if they differ.

    Args:
        slides: in use, without those whose barcode names their kind.
    """
    every = sorted(slides, key=lambda slide: slide.slide_id)
    has_folders = len({slide.path.parent for slide in every}) > 1
    names = [f"{slide.path.parent.name}/{slide.slide_id}" if has_folders else slide.slide_id for slide in every]
    stained = [
        name
        for name, rest in zip(names, _without_numbers(names), strict=True)
        if _OTHER_STAIN.search(rest) and not _HE.search(name)
    ]
    frozen = [name for name in names if _FROZEN.search(name)]
    remedy = "a manifest lists the slides to use"
    warnings = []
    if stained:
        warnings.append(
            f"warning: {count(len(stained), 'slide')} in use, by their names of another stain than H&E: {some(stained)}; "
            f"encoders and stain normalisation are made for H&E; leave them out ({remedy})"
        )
    if 0 < len(frozen) < len(names):
        warnings.append(
            f"warning: {count(len(frozen), 'slide')} in use, by their names frozen sections or smears beside others: "
            f"{some(frozen)}; their look differs from that of paraffin sections; if they are, leave them out ({remedy})"
        )
    return warnings


def _without_numbers(names: Sequence[str]) -> list[str]:
    """The names without a P53 or S100 that numbers the patient: beside P52 or S101, and first in the name."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        for letter, number in _NUMBERED.findall(name):
            numbers.setdefault(letter.lower(), set()).add(int(number))
    return [
        _NUMBERED.sub(lambda match: "" if len(numbers[match[1].lower()]) > 1 else match[0], name, count=1)
        for name in names
    ]
