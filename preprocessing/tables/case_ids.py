"""What a TCGA barcode says: case, sample type, slide kind, tissue source site.

`TCGA-06-0125-01Z-00-DX1.uuid` is slide DX1 of sample 01Z (01: primary tumour) of case TCGA-06-0125, from site 06.
An id that is no barcode is its own case. Files are named after ids by `file_name` alone.
"""

import hashlib
import re

PRIMARY = "01"

# Dashes: whatever follows the case is let through. Dots and underscores (R turns `-` into `.`): the whole barcode must fit,
# so that `TCGA.06.0125.1`, which R makes of a duplicate column, is not mistaken for a sample.
_DASHED = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])", re.IGNORECASE)
_MANGLED = re.compile(
    r"TCGA([._])([A-Z0-9]{2})\1([A-Z0-9]{4})(?:\1(\d\d[A-Z]?)(?:\1([A-Z0-9]{2,3})(?:\1(.+))?)?)?", re.IGNORECASE
)
_BEGINNING = re.compile(r"TCGA[-._][A-Z0-9]{2}[-._][A-Z0-9]{4}[-._]", re.IGNORECASE)
_SAMPLE = re.compile(r"-(\d\d)[A-Z]?(?![A-Z0-9])", re.IGNORECASE)
_SLIDE = re.compile(r"-\d\d[A-Z]?-[A-Z0-9]{2,3}-([A-Z]{2})[A-Z0-9]*(?![A-Z0-9])", re.IGNORECASE)


def normalise(identifier: str) -> str:
    """The barcode with dashes and in capitals (a slide's uuid stays as it is); any other id without outer blanks."""
    text = identifier.strip()
    mangled = _MANGLED.fullmatch(text)
    if mangled:
        text = "-".join(["TCGA", *(part for part in mangled.groups()[1:] if part)])
    if not _DASHED.match(text):
        return text
    barcode, dot, uuid = text.partition(".")
    return barcode.upper() + dot + uuid


def is_barcode(identifier: str) -> bool:
    """Whether the id is a TCGA barcode of a case or of anything that belongs to one."""
    return _DASHED.match(normalise(identifier)) is not None


def is_doubtful(identifier: str) -> bool:
    """Whether the id begins as a barcode with dots or underscores does, but does not go on as one."""
    return not is_barcode(identifier) and _BEGINNING.match(identifier.strip()) is not None


def case_of(identifier: str) -> str:
    """The case: the first 12 characters of a barcode, else the id itself."""
    text = normalise(identifier)
    return text[:12] if _DASHED.match(text) else text


def sample_type(identifier: str) -> str | None:
    """The sample's two digits ("01": primary tumour, "11": normal tissue); None where the id names no sample."""
    text = normalise(identifier)
    found = _SAMPLE.match(text[12:]) if _DASHED.match(text) else None
    return found[1] if found else None


def slide_kind(identifier: str) -> str | None:
    """DX (diagnostic, paraffin), TS, BS, MS (top, bottom, middle; frozen); None where the id is no TCGA slide's."""
    text = normalise(identifier)
    found = _SLIDE.match(text[12:]) if _DASHED.match(text) else None
    return found[1].upper() if found else None


def source_site(identifier: str) -> str | None:
    """The tissue source site's two characters; None where the id is no barcode."""
    text = normalise(identifier)
    return text[5:7] if _DASHED.match(text) else None


def file_name(identifier: str) -> str:
    """What a file of that id is called: the id itself where that is a plain name, else no longer one and with a hash behind.

    Whatever the id, the name stays in the folder that it is put in, and two ids never share one.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", identifier)[:100].strip(".")
    if plain and plain == identifier:
        return plain
    return f"{plain}-{hashlib.sha256(identifier.encode()).hexdigest()[:12]}"
