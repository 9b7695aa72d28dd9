"""Sample types: which samples are primary tumours, by the codes of barcodes and by names such as "Solid Tissue Normal"."""

import re
from collections.abc import Collection

from preprocessing.io.errors import InputError
from preprocessing.tables.case_ids import class_of_code

PRIMARY = "primary"
CLASSES = (PRIMARY, "recurrent", "secondary", "metastatic", "normal", "other")
ALL = frozenset(CLASSES)
# The first pattern that fits decides.
_NAMES = (
    (re.compile(r".*\bnormal\b.*|healthy.*|control.*|non ?tumou?r.*"), "normal"),
    (re.compile(r".*\b(recurrent|recurrence|relapsed?)\b.*"), "recurrent"),
    (re.compile(r".*metasta.*"), "metastatic"),
    (re.compile(r".*\bprimary\b.*|(solid )?tumou?r( tissue)?"), PRIMARY),
)


def class_of_name(text: str) -> str | None:
    """Return the class of a sample type given as a TCGA code or a name ("Solid Tissue Normal"); None where it is neither."""
    plain = re.sub(r"[\s_.-]+", " ", text.strip().lower()).removesuffix(" 0")
    if plain.isdecimal() and len(plain) <= 2:
        return class_of_code(plain.zfill(2))
    return next((name for pattern, name in _NAMES if pattern.fullmatch(plain)), None)


def parse_sample_types(text: str) -> frozenset[str]:
    """Return the classes of `--sample-types`: "primary", "all", or several as in "primary,recurrent"; TCGA codes count too.

    Raises:
        InputError: an unknown class.
    """
    names = {name.strip().lower() for name in text.split(",") if name.strip()}
    if names == {"all"}:
        return ALL
    names = {(class_of_code(name) if re.fullmatch(r"\d\d", name) else name) for name in names}
    if unknown := sorted(names - ALL):
        raise InputError(
            f"--sample-types {text}: {unknown[0]} is no sample type; give all, or some of {', '.join(CLASSES)}, or TCGA's codes "
            "as in 01,02"
        )
    return frozenset(names or {PRIMARY})


def why_excluded(sample_class: str | None, code: str | None, allowed: Collection[str]) -> str | None:
    """Return why a sample is left out; None if its class is among those allowed, or unknown."""
    if sample_class is None or sample_class in allowed:
        return None
    label = f"{code} ({sample_class})" if code else sample_class
    return f"sample type {label}, not {' or '.join(sorted(allowed))}"
