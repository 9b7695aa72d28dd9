"""Adult-type diffuse gliomas by the WHO classification of CNS tumours, 5th edition (2021), from molecular columns.

Louis et al., Neuro-Oncology 23 (2021) 1231. Astrocytoma, IDH-mutant: no 1p/19q codeletion; a homozygous deletion of
CDKN2A or CDKN2B makes it grade 4. Oligodendroglioma: IDH-mutant and 1p/19q-codeleted. Glioblastoma: IDH-wildtype with
grade 4 histology, a TERT promoter mutation, EGFR amplification, or +7/−10. Where a column is missing that would decide,
the diagnosis stays missing, and the rule gives the reason.
"""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from preprocessing.case_tables.column_names import GRADE, plain_name
from preprocessing.io.errors import some
from preprocessing.labels.columns import read_grade
from preprocessing.tables.reading import read_number

log = logging.getLogger(__name__)

ASTROCYTOMA = "Astrocytoma, IDH-mutant"
OLIGODENDROGLIOMA = "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted"
GLIOBLASTOMA = "Glioblastoma, IDH-wildtype"
SUBTYPES = ("IDHwt", "IDHmut-codel", "IDHmut-non-codel")  # as TCGA writes them

# Columns by plain name; a name holds for itself and with "_status" behind. A bare symbol is expression, and not here.
_IDH, _CODELETION = ("idh",), ("codel",)  # in every spelling of `_MARKERS`
_IDH1 = ("idh1_mut", "idh1_mutation")
_IDH2 = ("idh2_mut", "idh2_mutation")
_MARKERS = (
    (
        re.compile(r"idh(1_?(2|(and|or)?_?idh_?2))?(_(r132|r172)\w*)?(_(mut|mutation|mutant|mutated))?"),
        "idh",
    ),
    (re.compile(r"(loss_of_)?x?1p_?(x?(and_)?)?19q(_(loss|(co_?)?del(eted|etion)?))?"), "codel"),
    (re.compile(r"co_?del(eted|etion)?(_(of_)?x?1p_?(and_)?19q)?"), "codel"),
)
_FILLER = re.compile(r"^((tcga|paper|cgga|molecular|who)_)+|(_(status|state|maf|wgs|wes|tcga|ihc|ngs|fish))+$")
_SUBTYPE = ("idh_codel_subtype", "subtype", "subtype_ceccarelli", "original_subtype")
_TERT = (
    "tert_mut",
    "tert_mutation",
    "tert_promoter",
    "tert_promoter_mut",
    "tert_promoter_mutation",
    "tertp",
    "tertp_mut",
)
_EGFR = ("egfr_amplification", "egfr_amp", "egfr_amplified")
_EGFR_COPIES = ("egfr_cnv", "egfr_cna", "egfr_gistic")
_CDKN2 = tuple(
    f"{gene}_{what}"
    for gene in ("cdkn2ab", "cdkn2a_b", "cdkn2a", "cdkn2b")
    for what in ("homozygous_deletion", "homdel", "hom_del", "homozygously_deleted")
)
_CDKN2_COPIES = tuple(f"cdkn2{gene}_{what}" for gene in "ab" for what in ("cnv", "cna", "gistic"))
_GAIN7_LOSS10 = (
    *("chr_7_gain_chr_10_loss", "chr7_gain_chr10_loss", "7_gain_10_loss", "gain_7_loss_10", "gain7_loss10", "7_10"),
    *("chr7_chr10", "plus_7_minus_10"),
)
_GAIN7 = ("chr7_gain", "chr_7_gain", "gain_7", "gain_chr7")
_LOSS10 = ("chr10_loss", "chr_10_loss", "loss_10", "loss_chr10")

_UNKNOWN = {
    "unknown",
    "na",
    "nottested",
    "notdone",
    "notdetermined",
    "equivocal",
    "indeterminate",
    "inconclusive",
    "pending",
}
_YES = {
    *("1", "true", "yes", "y", "positive", "pos", "present"),
    *("mutant", "mutated", "mut", "mutation", "codel", "codeleted", "codeletion"),
    *("amplified", "amplification", "amp", "deleted", "deletion", "homdel", "gain", "loss", "gainchr7losschr10"),
}
_NO = {
    *(
        "0",
        "false",
        "no",
        "n",
        "negative",
        "neg",
        "absent",
        "none",
        "wt",
        "wildtype",
        "notmutated",
        "noncodel",
        "noncodeleted",
    ),
    *("notcodeleted", "noncodeletion", "retained", "intact", "notamplified", "notdeleted", "neutral", "nocombinedcna"),
}


_PREDICTABLE = {
    "idh": "IDH",
    "codeleted": "1p/19q",
    "grade": "grade",
}  # markers that a predicted subtype and grade imply


@dataclass(frozen=True)
class _Markers:
    """Markers of one case; None: unknown."""

    idh: bool | None
    idh1: bool | None
    codeleted: bool | None
    tert: bool | None
    egfr: bool | None
    gain7_loss10: bool | None
    cdkn2: bool | None
    grade: int | None
    contradicts: bool | None


def who2021(
    frame: pd.DataFrame, *, predicted: pd.DataFrame | None = None, source: str = "clinical table"
) -> pd.DataFrame:
    """Return diagnosis and grade of each case, with the rule that decided.

    Args:
        frame: cases in rows; molecular columns under their usual names, any of which may be missing.
        predicted: columns of the same cases that a model predicted (grade, subtype): they stand in for what is not known,
            and the rule names the prediction.
        source: name of the file in messages.

    Returns:
        who2021_diagnosis (string, missing where undetermined), who2021_grade (Int64), who2021_rule (string), who2021_subtype
        (string, one of `SUBTYPES`: by IDH and 1p/19q alone), indexed as the frame; with `predicted` also who2021_predicted
        (string): the markers that are predicted, separated by `;`.

    A value that is not understood is warned of and counts as not known: a marker must not stop a run that may not need it.
    """
    columns = _marker_columns(frame, source)
    if predicted is not None:
        guessed = _marker_columns(predicted, "predictions")
        guessed["idh"] = guessed["idh"].mask(
            columns["contradicts"]
        )  # it does not settle a contradiction between two columns
        stands_in = {name: columns[name].isna() & guessed[name].notna() for name in _PREDICTABLE}
        filled = columns | {name: columns[name].fillna(guessed[name]) for name in _PREDICTABLE}
        stands_in["codeleted"] &= filled["idh"].fillna(False)  # 1p/19q does not matter in an IDH-wildtype tumour
        table = _decided(frame, filled)
        names = pd.DataFrame({_PREDICTABLE[name]: flags for name, flags in stands_in.items()}, index=frame.index)
        predicted_markers = names.apply(lambda row: "; ".join(row.index[row.astype(bool)]), axis=1).astype("string")
        mark = predicted_markers.where(predicted_markers == "", " (predicted: " + predicted_markers + ")")
        return table.assign(who2021_rule=table["who2021_rule"] + mark, who2021_predicted=predicted_markers)
    return _decided(frame, columns)


def _decided(frame: pd.DataFrame, columns: dict[str, pd.Series]) -> pd.DataFrame:
    decided = []
    for case in range(len(frame)):
        markers = _Markers(
            **{name: None if pd.isna(values.iloc[case]) else values.iloc[case] for name, values in columns.items()}
        )
        decided.append(_diagnose(markers))
    names = ("who2021_diagnosis", "who2021_grade", "who2021_rule")
    table = pd.DataFrame(decided, columns=list(names), index=frame.index)
    table = table.astype({"who2021_diagnosis": "string", "who2021_grade": "Int64", "who2021_rule": "string"})
    return table.assign(who2021_subtype=_subtype(columns["idh"], columns["codeleted"]))


def _subtype(idh: pd.Series, codeleted: pd.Series) -> pd.Series:
    """One of `SUBTYPES`; missing where IDH is not known, or 1p/19q of an IDH-mutant tumour."""
    wildtype, codel, non_codel = (flags.fillna(False) for flags in (~idh, idh & codeleted, idh & ~codeleted))
    found = pd.Series(pd.NA, index=idh.index, dtype="string")
    for name, flags in zip(SUBTYPES, (wildtype, codel, non_codel), strict=True):
        found = found.mask(flags.astype(bool), name)
    return found


def subtype_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of IDH status and of 1p/19q codeletion, in their order."""
    markers = {*_IDH, *_IDH1, *_IDH2, *_CODELETION}
    return [column for column in frame.columns if _marker(column) in markers and frame[column].notna().any()]


def _diagnose(m: _Markers) -> tuple[str | None, int | None, str]:
    if m.contradicts:
        return None, None, "undetermined: IDH status and subtype contradict each other"
    if m.idh is None:
        why = (
            "IDH1 is not mutated, IDH2 is not known" if m.idh1 is not None and not m.idh1 else "IDH status is not known"
        )
        return None, None, f"undetermined: {why}"
    return _idh_mutant(m) if m.idh else _idh_wildtype(m)


def _idh_mutant(m: _Markers) -> tuple[str | None, int | None, str]:
    if m.codeleted is None:
        return None, None, "undetermined: IDH-mutant, 1p/19q status is not known"
    if m.codeleted:
        grade = m.grade if m.grade in (2, 3) else None
        odd = f"; grade {m.grade} does not exist for it" if m.grade and grade is None else ""
        return OLIGODENDROGLIOMA, grade, f"IDH-mutant, 1p/19q-codeleted{odd}"
    if m.cdkn2:
        return ASTROCYTOMA, 4, "IDH-mutant, not 1p/19q-codeleted; grade 4 by homozygous deletion of CDKN2A/B"
    unknown = "; CDKN2A/B status is not known" if m.cdkn2 is None else ""
    grade = m.grade if m.grade in (2, 3, 4) else None
    odd = f"; grade {m.grade} does not exist for it" if m.grade and grade is None else ""
    return ASTROCYTOMA, grade, f"IDH-mutant, not 1p/19q-codeleted; grade by histology{unknown}{odd}"


def _idh_wildtype(m: _Markers) -> tuple[str | None, int | None, str]:
    criteria = {
        "grade 4 histology": None if m.grade is None else m.grade == 4,
        "TERT promoter mutation": m.tert,
        "EGFR amplification": m.egfr,
        "+7/−10": m.gain7_loss10,
    }
    met = [name for name, holds in criteria.items() if holds]
    if met:
        return GLIOBLASTOMA, 4, f"IDH-wildtype with {', '.join(met)}"
    unknown = [name for name, holds in criteria.items() if holds is None]
    rest = f"not known: {', '.join(unknown)}" if unknown else "none of the criteria of glioblastoma is met"
    return None, None, f"undetermined: IDH-wildtype; {rest}"


def _marker_columns(frame: pd.DataFrame, source: str) -> dict[str, pd.Series]:
    """Each marker's values, with pd.NA where no column knows."""

    def flags(names: Iterable[str]) -> pd.Series:
        return _read(frame, names, _flag, source)

    def copies(names: Iterable[str], beyond: Callable[[float], bool]) -> pd.Series:
        return _read(frame, names, lambda text: _copies(text, beyond), source)

    idh1, idh2 = flags(_IDH1), flags(_IDH2)
    either = idh1 | idh2  # True where one is mutated, False only where both are known not to be
    grades = [name for name in GRADE if "2021" not in name]
    idh, by_subtype = flags(_IDH).fillna(either), _from_subtype(frame, r"IDH[-_ ]?(mut|wt|wild)", "mut")
    contradicts = (idh != by_subtype).fillna(False)
    if contradicts.any():
        message = "%s: IDH status and subtype contradict each other in %d cases, whose diagnosis stays open: %s"
        log.warning(message, source, contradicts.sum(), some(frame.index[contradicts]))
    return {
        "idh": idh.fillna(by_subtype).mask(contradicts),
        "idh1": idh1,
        "codeleted": flags(_CODELETION).fillna(
            _from_subtype(frame, r"IDH[-_ ]?mut\w*[-_ ]((?:non[-_ ]?)?codel)", "codel")
        ),
        "tert": flags(_TERT),
        "egfr": flags(_EGFR).fillna(copies(_EGFR_COPIES, lambda level: level >= 2)),
        "gain7_loss10": flags(_GAIN7_LOSS10).fillna(flags(_GAIN7) & flags(_LOSS10)),
        "cdkn2": _either(flags(_CDKN2), copies(_CDKN2_COPIES, lambda level: level <= -2)),
        "grade": _read(frame, grades, read_grade, source, dtype="Int64"),
        "contradicts": contradicts,
    }


def _read(
    frame: pd.DataFrame, names: Iterable[str], read: Callable[[str], object], source: str, *, dtype: str = "boolean"
) -> pd.Series:
    """The first value that any column of these names has; of flags, True if any column is True."""
    found = pd.Series(pd.NA, index=frame.index, dtype=dtype)
    for column in frame.columns:
        if _marker(column) not in set(names):
            continue
        values: list[object] = []
        strange: list[str] = []
        for case, value in frame[column].items():
            text = "" if pd.isna(value) else " ".join(str(value).split())
            unknown = not text or re.sub(r"[^a-z0-9]", "", text.lower()) in _UNKNOWN
            understood = pd.NA if unknown else read(text)
            if understood is None:
                strange.append(f'"{value}" of case {case}')
            values.append(pd.NA if understood is None else understood)
        if strange:
            log.warning(
                "%s: column %s: %d values are not understood and count as not known in the WHO 2021 diagnosis: %s; write %s, or "
                "leave them empty",
                *(source, column, len(strange), some(strange)),
                "1, 2, 3 or 4"
                if read is read_grade
                else "1 or 0, mutant or WT, codel or non-codel, copy numbers as −2…2",
            )
        read_values = pd.Series(values, index=frame.index, dtype=dtype)
        found = _either(found, read_values) if dtype == "boolean" else found.fillna(read_values)
    return found


def _marker(column: str) -> str:
    """The plain name of a column without its filler; one name for all spellings of IDH status, and of 1p/19q codeletion."""
    name = plain_name(column)
    short = _FILLER.sub("", name)
    return next((marker for spelling, marker in _MARKERS if spelling.fullmatch(short)), short or name)


def _either(a: pd.Series, b: pd.Series) -> pd.Series:
    """True where either is True; False where at least one is False and the other is not True."""
    return (a | b).fillna(a).fillna(b)


def _flag(text: str) -> bool | None:
    text = re.sub(r"\s*\([^()]*\)$", "", text.lower())  # WT (maf): by which assay
    word = re.sub(r"[^a-z0-9]", "", re.sub(r"\.0$", "", text))
    word = re.sub(r"^idh[12]?(?=[a-z])|1p19q", "", word)  # IDH-mutant, IDH1 R132H, 1p/19q-codeleted
    if word in _YES or re.match(r"p?r1(32|72|40)|c(228|250)t", word):  # of IDH1 and IDH2; of TERT's promoter
        return True
    return False if word in _NO else None


def _copies(text: str, beyond: Callable[[float], bool]) -> bool | None:
    level = read_number(text.replace("−", "-"))
    return None if level is None else beyond(level)


def _from_subtype(frame: pd.DataFrame, pattern: str, positive: str) -> pd.Series:
    """What a subtype such as `LGG_IDHmut-non-codel` implies; pd.NA where no subtype column implies it."""
    found = pd.Series(pd.NA, index=frame.index, dtype="boolean")
    for column in frame.columns:
        if plain_name(column) in _SUBTYPE:
            word = frame[column].astype("string").str.extract(pattern, flags=re.IGNORECASE)[0].str.lower()
            found = found.fillna((word == positive).astype("boolean").mask(word.isna()))
    return found
