"""Case ids: how a cohort spells cases, samples and slides, and safe file names of ids.

`TCGA-06-0125-01Z-00-DX1.uuid` is slide DX1 of sample 01Z (01: primary tumour) of case TCGA-06-0125, from site 06. A cohort
with structured ids is one more entry of `SCHEMES`; see `identity.py` for the schemes by which a run reads ids.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_NAME_BYTES = 200  # of 255 that a file system allows: endings follow


@dataclass(frozen=True)
class CaseIdScheme:
    """How one cohort spells its ids.

    Attributes:
        name: of the cohort, in messages.
        case: what begins the id of a case, sample or slide: the case, matched in an id with dashes.
        sample: what follows the case in the id of a sample; group 1 is the sample code.
        classes: sample class (primary, recurrent, metastatic, normal, other) by the beginning of the sample code.
        slide: what follows the case in the id of a slide; group 1 is the kind of slide.
        site: position of the tissue source site within the case; None where ids have none.
        mangled: an id with dots or underscores for dashes, as R writes it; group 1 is the separator, the others the parts.
        truncated: the beginning of a mangled id; an id that only begins so is doubtful.
    """

    name: str
    case: re.Pattern[str]
    sample: re.Pattern[str]
    classes: Mapping[str, str]
    slide: re.Pattern[str] | None = None
    site: slice | None = None
    mangled: re.Pattern[str] | None = None
    truncated: re.Pattern[str] | None = None

    def normalise(self, text: str) -> str | None:
        """Return the id with dashes and in capitals (a slide's uuid unchanged); None if it is of another scheme."""
        if self.mangled and (found := self.mangled.fullmatch(text)):
            text = "-".join(part for part in found.groups()[1:] if part)
        if not self.case.match(text):
            return None
        barcode, dot, rest = text.partition(".")
        return barcode.upper() + dot + rest

    def split(self, identifier: str) -> tuple[str, str]:
        """Return the case of a normalised id, and what follows it."""
        found = self.case.match(identifier)
        end = found.end() if found else len(identifier)
        return identifier[:end], identifier[end:]

    def class_of(self, code: str) -> str:
        """Return the class of a sample code; other for an unknown code."""
        return next((name for start, name in self.classes.items() if code.upper().startswith(start)), "other")


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_TCGA_CLASSES = {
    **dict.fromkeys(("01", "03", "09", "TP", "TB"), "primary"),  # 03 and 09: of blood and marrow
    **dict.fromkeys(("02", "04", "40", "TR", "R"), "recurrent"),
    **dict.fromkeys(("06", "07", "TM", "M"), "metastatic"),
    **dict.fromkeys(("1", "N"), "normal"),
}
# With dashes, anything may follow the case. With dots or underscores the whole barcode must fit, so that `TCGA.06.0125.1`,
# which R makes of a duplicate column, does not pass for a sample.
TCGA = CaseIdScheme(
    name="TCGA",
    case=_pattern(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])"),
    sample=_pattern(r"-(\d\d|TP|NB|NT|R\d|M\d)[A-Z]?(?![A-Z0-9])"),
    classes=_TCGA_CLASSES,
    slide=_pattern(r"-\d\d[A-Z]?-[A-Z0-9]{2,3}-([A-Z]{2})[A-Z0-9]*(?![A-Z0-9])"),
    site=slice(5, 7),
    mangled=_pattern(
        r"(?=TCGA([._]))(TCGA)\1([A-Z0-9]{2})\1([A-Z0-9]{4})(?:\1(\d\d[A-Z]?)(?:\1([A-Z0-9]{2,3})(?:\1(.+))?)?)?"
    ),
    truncated=_pattern(r"TCGA[-._][A-Z0-9]{2}[-._][A-Z0-9]{4}[-._]"),
)
GLASS = CaseIdScheme(  # GLSS-SF-0001-TP-01R-RNA-…
    name="GLASS",
    case=_pattern(r"GLSS-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])"),
    sample=_pattern(r"-(TP|NB|NT|R\d|M\d)(?![A-Z0-9])"),
    classes=_TCGA_CLASSES,
    site=slice(5, 7),
    mangled=_pattern(r"(?=GLSS([._]))(GLSS)\1([A-Z0-9]{2})\1([A-Z0-9]{4})(?:\1([A-Z0-9]{2})(?:\1(.+))?)?"),
)
TARGET = CaseIdScheme(  # TARGET-30-PAAAAA-01A-01R
    name="TARGET",
    case=_pattern(r"TARGET-\d{2}-[A-Z0-9]{6}(?![A-Z0-9])"),
    sample=_pattern(r"-(\d\d)[A-Z]?(?![A-Z0-9])"),
    classes=_TCGA_CLASSES,
    mangled=_pattern(r"(?=TARGET([._]))(TARGET)\1(\d{2})\1([A-Z0-9]{6})(?:\1(\d\d[A-Z]?)(?:\1(.+))?)?"),
)
CPTAC = CaseIdScheme(  # C3L-00104, its normal tissue C3L-00104.N
    name="CPTAC",
    case=_pattern(r"(?:C3[LN]-\d{5}|\d{2}(?:BR|CO|LU|OV|UC)\d{3})(?![A-Z0-9])"),
    sample=_pattern(r"[.-]([NT])(?![A-Z0-9])"),
    classes={"N": "normal", "T": "primary"},
    mangled=_pattern(
        r"(?=(?:C3[LN]|X?\d{2}[A-Z])([._])?)(?:X(?=\d))?(C3[LN](?=[._]\d{5})|\d{2}(?:BR|CO|LU|OV|UC)\d{3})(?:[._](\d{5}))?(?:[._]([NT]))?"
    ),
)
SCHEMES = (TCGA, GLASS, TARGET, CPTAC)


class PatternScheme(CaseIdScheme):
    """The ids of one cohort by a pattern of the user's, which finds the case anywhere in the id of a slide or a sample.

    The case is group 1 of the pattern, or all that it matches where it has no group; an id without a match is a case itself.
    """

    def normalise(self, text: str) -> str | None:
        """Return the id as it is; None where the pattern finds no case in it."""
        return text if self.case.search(text) else None

    def split(self, identifier: str) -> tuple[str, str]:
        """Return the case, and what follows the match."""
        found = self.case.search(identifier)
        if found is None:
            return identifier, ""
        return (found[1] if self.case.groups else found[0]) or found[0], identifier[found.end() :]

    def with_whole_number(self, identifier: str) -> str:
        """Return the case with the digits that follow it in the id: P12 where the pattern finds P1 in P12_HE."""
        found = self.case.search(identifier)
        if found is None:
            return identifier
        start, end = found.span(1 if self.case.groups and found[1] else 0)
        digits = re.match(r"\d*", identifier[end:] if identifier[end - 1].isdecimal() else "")
        return identifier[start:end] + (digits[0] if digits else "")


def pattern_scheme(pattern: str) -> PatternScheme:
    """Return the scheme of a regular expression; raises ValueError where it is none."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern} is no regular expression ({error})") from None
    if compiled.match(""):
        raise ValueError(f"{pattern} matches an empty text; require at least one character of the case")
    return PatternScheme(name="pattern", case=compiled, sample=re.compile("(?!)"), classes={})


@dataclass(frozen=True)
class SheetScheme(CaseIdScheme):
    """The ids of one cohort by its sample sheet, which names the patient of each sample, and may name its class.

    Attributes:
        patients: the case of each id of a sample, by `_sheet_key` (as written by R, or in other capitals, it is found too).
        sample_classes: the class of each such sample, where the sheet has one.
    """

    patients: Mapping[str, str] = field(default_factory=dict)
    sample_classes: Mapping[str, str] = field(default_factory=dict)

    def normalise(self, text: str) -> str | None:
        """Return the id as it is; None where it is neither a sample nor a patient of the sheet."""
        return text if _sheet_key(text) in self.patients else None

    def split(self, identifier: str) -> tuple[str, str]:
        """Return the case, and the class of the sample as its code."""
        key = _sheet_key(identifier)
        return self.patients.get(key, identifier), self.sample_classes.get(key, "")


def _sheet_key(identifier: str) -> str:
    return re.sub(r"[._-]+", "-", identifier).upper()


def sheet_scheme(samples: Mapping[str, tuple[str, str | None]]) -> SheetScheme:
    """Return the scheme of a sample sheet.

    Args:
        samples: case and sample class (None: unknown) of each sample.
    """
    patients = {_sheet_key(case): case for case, _ in samples.values()}
    patients |= {_sheet_key(sample): case for sample, (case, _) in samples.items()}
    classes = {_sheet_key(sample): name for sample, (_, name) in samples.items() if name}
    return SheetScheme(
        name="sample sheet",
        case=re.compile("(?!)"),
        sample=re.compile(r"(\w+)"),
        classes={name.upper(): name for name in classes.values()},
        patients=patients,
        sample_classes=classes,
    )


def file_name(identifier: str) -> str:
    """Return a file name for an id: the id itself if that is a safe name, else a shortened one with a hash.

    The name never leaves its folder, and two ids never share one.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", identifier)[:100].strip(".")
    if plain and plain == identifier:
        return plain
    return f"{plain}-{hashlib.sha256(identifier.encode()).hexdigest()[:12]}"


def kept_name(identifier: str) -> str:
    """Return a file name for an id that others know: the id itself where common file systems allow it, else `file_name`'s.

    Spaces and letters of any alphabet are kept, so that a file can be matched with its slide by name.
    """
    allowed = re.fullmatch(r"[^\x00-\x1f\x7f<>:\"/\\|?*]+", identifier) and identifier == identifier.strip(" .")
    return identifier if allowed and len(identifier.encode()) <= MAX_NAME_BYTES else file_name(identifier)
