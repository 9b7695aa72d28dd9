"""The identity scheme of a cohort: from the ids of slides, samples and tables to cases, sample types and sites."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from preprocessing.io.errors import some
from preprocessing.tables.case_ids import (
    SCHEMES,
    CaseIdScheme,
    PatternScheme,
    SheetScheme,
    pattern_scheme,
    sheet_scheme,
)


@dataclass(frozen=True)
class IdentityScheme:
    """How one cohort spells the ids of its cases, samples and slides. An id that no scheme recognises is a case itself.

    Attributes:
        schemes: by which ids are recognised; the first one that fits an id decides.
        site_column: column of the tissue source sites; None: recognised, else from the ids.
    """

    schemes: tuple[CaseIdScheme, ...] = SCHEMES
    site_column: str | None = None

    @property
    def by_pattern(self) -> bool:
        """Whether a pattern of the user's takes the place of the known schemes, and of sample sheets."""
        return any(isinstance(scheme, PatternScheme) for scheme in self.schemes)

    @property
    def has_sample_sheet(self) -> bool:
        """Whether the ids of a sample sheet are recognised."""
        return any(isinstance(scheme, SheetScheme) for scheme in self.schemes)

    def with_samples(self, samples: Mapping[str, tuple[str, str | None]]) -> "IdentityScheme":
        """Return the scheme that recognises the ids of these samples, too.

        Args:
            samples: case and sample class (None: unknown) of each sample.
        """
        return replace(self, schemes=(*self.schemes, sheet_scheme(samples)))

    def normalise(self, identifier: str) -> str:
        """Return a barcode with dashes and in capitals (a slide's uuid unchanged); any other id with single blanks within."""
        return self._recognise(identifier)[1]

    def is_barcode(self, identifier: str) -> bool:
        """Whether a scheme recognises the id as that of a case, or of a sample or slide of one."""
        return self._recognise(identifier)[0] is not None

    def is_doubtful(self, identifier: str) -> bool:
        """Whether the id begins like a barcode with dots or underscores, but does not continue as one."""
        return not self.is_barcode(identifier) and any(
            scheme.truncated is not None and scheme.truncated.match(identifier.strip()) for scheme in self.schemes
        )

    def case_of(self, identifier: str) -> str:
        """Return the case: of a barcode its beginning (`TCGA-06-0125`), else the id itself."""
        scheme, text = self._recognise(identifier)
        return scheme.split(text)[0] if scheme else text

    def case_among(self, identifier: str, cases: Collection[str]) -> str:
        """Return the first of these cases that the id is, or leads to by any of the schemes; `case_of` where none is."""
        text = _plain(identifier)
        spelt = [scheme.split(known)[0] for scheme in self.schemes if (known := scheme.normalise(text))]
        return next((case for case in (text, *spelt) if case in cases), self.case_of(identifier))

    def sample_type(self, identifier: str) -> str | None:
        """Return the sample code ("01": primary tumour, "11": normal tissue); None where the id names no sample."""
        scheme, text = self._recognise(identifier)
        found = scheme.sample.match(scheme.split(text)[1]) if scheme else None
        return found[1].upper() if found else None

    def sample_class(self, identifier: str) -> str | None:
        """Return primary, recurrent, metastatic, normal or other; None where the id names no sample."""
        scheme, code = self._recognise(identifier)[0], self.sample_type(identifier)
        return scheme.class_of(code) if scheme and code else None

    def slide_kind(self, identifier: str) -> str | None:
        """Return DX (diagnostic, paraffin), TS, BS or MS (top, bottom, middle; frozen); None where the id names no slide."""
        scheme, text = self._recognise(identifier)
        found = scheme.slide.match(scheme.split(text)[1]) if scheme and scheme.slide else None
        return found[1].upper() if found else None

    def source_site(self, identifier: str) -> str | None:
        """Return the two characters of the tissue source site; None where the id has none."""
        scheme, text = self._recognise(identifier)
        return text[scheme.site] if scheme and scheme.site else None

    def describe_unmatched(self, identifiers: Collection[str], source: object) -> list[str]:
        """Return a note that the user's pattern matches none of these ids; nothing where it does, or there is none."""
        if not identifiers or not self.by_pattern or any(map(self.is_barcode, identifiers)):
            return []
        return [
            f"{source}: the pattern of case ids matches none of the {len(identifiers)} ids, each of which is "
            "taken for a case: "
            f"{some(identifiers)}"
        ]

    def describe_cut_numbers(self, identifiers: Collection[str], source: object) -> list[str]:
        """Return a warning that the user's pattern finds one case in ids of several, as P1 in P12 and P13; else nothing."""
        whole: dict[str, set[str]] = {}
        for scheme in [one for one in self.schemes if isinstance(one, PatternScheme)]:
            for identifier in identifiers:
                whole.setdefault(self.case_of(identifier), set()).add(scheme.with_whole_number(_plain(identifier)))
        cut = {case: sorted(names) for case, names in whole.items() if len(names) > 1}
        if not cut:
            return []
        case, names = next(iter(cut.items()))
        return [
            f"warning: {source}: the pattern of case ids ends within a number and takes {some(names)} for one case, {case}; let it "
            r"match whole numbers, as \d+ does"
        ]

    def _recognise(self, identifier: str) -> tuple[CaseIdScheme | None, str]:
        """The scheme of an id, if any, and the id as the scheme spells it, else with single blanks within and none outside."""
        text = _plain(identifier)
        for scheme in self.schemes:
            if normalised := scheme.normalise(text):
                return scheme, normalised
        return None, text


def _plain(identifier: str) -> str:
    return " ".join(unicodedata.normalize("NFC", identifier).split())  # of blanks of any kind within, one stays


def identity_scheme(pattern: str | None = None, *, site_column: str | None = None) -> IdentityScheme:
    """Return the scheme of a pattern of the user's, or the known schemes.

    Raises:
        ValueError: the pattern is no regular expression, or matches an empty text.
    """
    if pattern is None:
        return IdentityScheme(site_column=site_column)
    return IdentityScheme((pattern_scheme(pattern),), site_column)


def pooled_identity(identities: Iterable[IdentityScheme]) -> IdentityScheme:
    """Return the schemes of several cohorts as one, for ids of which the cohort is unknown; see `case_among`."""
    schemes: list[CaseIdScheme] = []
    for identity in identities:
        schemes += [scheme for scheme in identity.schemes if scheme not in schemes]
    return IdentityScheme(tuple(schemes))
