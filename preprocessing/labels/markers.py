"""Molecular markers of diffuse gliomas, and their grade, read from the columns of a clinical table."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from preprocessing.case_tables.column_names import GRADE, plain_name
from preprocessing.case_tables.id_columns import has_measurement
from preprocessing.io.errors import count, some
from preprocessing.labels.ages import read_age
from preprocessing.labels.columns import LabelTable, is_binary, read_grade, text_of
from preprocessing.labels.tumour import GLIOBLASTOMA_GRADE, diagnosis_columns, glioblastomas, other_tumours
from preprocessing.tables.reading import read_number, words_of

# Columns by plain name; a name holds for itself and with "_status" behind. A bare symbol with numbers is expression.
_IDH, _CODELETION = ("idh",), ("codel",)  # in every spelling of `_MARKERS`
_IDH1, _R132H = ("idh1_mut", "idh1_mutation"), ("idh1_r132h",)
_IDH2 = ("idh2_mut", "idh2_mutation")
_H3, _ATRX_WORDS = "h3_mut", "atrx"
_ATRX = ("atrx_loss", "atrx_lost", "atrx_mut", "atrx_mutation", "atrx_mutant", "atrx_mutated")
_BARE = {"idh1": "idh1_mut", "idh2": "idh2_mut", "tert": "tert_mut"}  # where the column holds words, or 0 and 1
_BARE |= dict.fromkeys(("h3", "h3f3a", "h3_3a", "h3c2", "hist1h3b"), _H3)
_ARM_NAME = (
    r"((loss|del(etion)?|loh)_(of_)?)?(chr(omosome)?_?)?x?{}(_arm)?(_(loss|lost|loh|del(eted|etion)?|cnv|cna|gistic))*"
)
_MARKERS = (
    (re.compile(r"idh1?_?r132h(_(mut|mutation|mutant|mutated))?"), "idh1_r132h"),
    (re.compile(r"idh1_(codon_|p_)?r?132(_(mut|mutation|mutant|mutated))?"), "idh1_mut"),
    (re.compile(r"idh2_(codon_|p_)?r?172\w?(_(mut|mutation|mutant|mutated))?"), "idh2_mut"),
    (
        re.compile(r"idh(1_?(2|(and|or)?_?idh_?2))?(_(r132|r172)\w*)?(_(mut|mutation|mutant|mutated))?"),
        "idh",
    ),
    (
        re.compile(
            r"(h3|h3f3a|h3_?3a?|hist1h3b|h3c2)(_?(k27(?!_?(me|ac))|g34)\w*(_g34\w*)?)?(_(mut|mutation|mutant|mutated|altered))?"
        ),
        "h3_mut",
    ),
    (re.compile(_ARM_NAME.format("1p")), "1p"),
    (re.compile(_ARM_NAME.format("19q")), "19q"),
    (re.compile(r"((loss|loh)_(of_)?)?x?1p_?(x?(and_)?)?19q(_(loss|loh|(co_?)?del(eted|etion)?))?"), "codel"),
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
_CDKN2_EXTENT = "cdkn2_extent"  # homozygous, hemizygous
_CDKN2_COPIES = tuple(f"cdkn2{gene}_{what}" for gene in "ab" for what in ("cnv", "cna", "gistic"))
_NAMED = {  # a bare gene, and the marker that it is where a word in the column says so
    **dict.fromkeys(("egfr", "egfr_copy_number"), ("egfr_amp", re.compile(r"ampl", re.IGNORECASE))),
    **dict.fromkeys(
        [f"cdkn2{gene}{what}" for gene in ("a", "b", "ab", "a_b") for what in ("", "_deletion", "_del", "_loss")],
        (_CDKN2_EXTENT, re.compile(r"homo", re.IGNORECASE)),
    ),
}
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
    *("lost", "loh", "lossofheterozygosity", "del"),
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
    *("nodeletion", "noloss", "notlost", "noloh", "retention", "preserved", "normal", "balanced", "disomy", "diploid"),
    *("nomutation", "notdetected", "notpresent", "noamplification", "nocodeletion", "nocodel"),
}
# A codon of IDH1, IDH2 and H3, or of TERT's promoter, with what is said of it: R132H, p.R132H positive, R132H negative.
_CODON = re.compile(
    r"(p?r(132|172|140)[a-z]?|c(228|250)t|(h33?)?(k2[78][mi]|g3[45][rv]))"
    rf"({'|'.join(sorted(_YES - {'1'}))}|detected|(?P<denied>{'|'.join(sorted(_NO - {'0'}))}))?"
)
_GAINED = {"gain", "gained", "lowlevelgain", "polysomy", "trisomy"}
_KEPT_ARM = _GAINED | {"partial", "partialloss", "partialdeletion", "partiallydeleted"}
_UNCLEAR_ARM = {"present", "absent", "amp", "amplified", "amplification"}  # the arm, or its loss?
_UNCLEAR_ATRX = {
    "positive",
    "pos",
    "negative",
    "neg",
    "present",
    "absent",
    "yes",
    "no",
    "y",
    "n",
    "1",
    "0",
    "true",
    "false",
}
_ARMS, _OF_COPIES = ("1p", "19q"), {"cnv", "cna", "gistic"}
_OLD = 55  # years from which a glioblastoma without a mutation of IDH1 is IDH-wildtype: Louis et al. 2021


@dataclass(frozen=True)
class Markers:
    """Markers of one case; None: unknown.

    Attributes:
        idh: whether IDH1 or IDH2 is mutated; idh1: whether IDH1 is.
        only_r132h: whether all that is known of IDH is that it has no mutation R132H.
        by_age: whether the tumour is IDH-wildtype by IDH1, age and grade, with IDH2 unknown.
        codeleted: whether 1p and 19q are lost; arm: the arm that is, where the other is unknown.
        by_atrx: whether it is known from the loss or mutation of ATRX that they are not, without a test of them.
        tert, egfr, gain7_loss10, cdkn2: TERT promoter mutation, EGFR amplification, +7/−10, homozygous deletion of CDKN2A/B.
        grade: by histology.
        contradicts: whether IDH status and subtype contradict each other.
        other: why the tumour is no adult-type diffuse glioma: a mutation of histone H3, or its diagnosis.
    """

    idh: bool | None
    idh1: bool | None
    only_r132h: bool | None
    by_age: bool | None
    arm: str | None
    by_atrx: bool | None
    codeleted: bool | None
    tert: bool | None
    egfr: bool | None
    gain7_loss10: bool | None
    cdkn2: bool | None
    grade: int | None
    contradicts: bool | None
    other: str | None


def subtype_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of IDH status and of 1p/19q codeletion, in their order."""
    markers = {*_IDH, *_IDH1, *_R132H, *_IDH2, *_CODELETION, *_ARMS, *_ATRX, _ATRX_WORDS}
    return [
        column for column in frame.columns if _marker(column, frame[column]) in markers and frame[column].notna().any()
    ]


@dataclass(frozen=True)
class _Columns:
    """The columns of a table by marker; what is not understood in them is warned of in `notes`."""

    frame: pd.DataFrame
    source: str
    notes: list[str]

    def flags(self, names: Iterable[str], read: Callable[[str], object] | None = None) -> pd.Series:
        """Whether any column of these names says so; False where one denies it and none says so."""
        found = self.unknown()
        for column in self.named(names):
            found = _either(found, self.read(column, read or _flag))
        return found

    def copies(self, names: Iterable[str], beyond: Callable[[float], bool]) -> pd.Series:
        """Whether the copy number in any column of these names is beyond a limit."""
        return self.flags(names, partial(_copies, beyond=beyond))

    def named(self, names: Iterable[str]) -> list[str]:
        wanted = set(names)
        return [column for column in self.frame.columns if _marker(column, self.frame[column]) in wanted]

    def unknown(self) -> pd.Series:
        return pd.Series(pd.NA, index=self.frame.index, dtype="boolean")

    def read(self, column: str, read: Callable[[str], object], *, dtype: str = "boolean") -> pd.Series:
        """The values of a column; pd.NA where they are unknown or not understood.

        Where one number is not understood, no number of a flag is: 1 and 2 may stand for no and yes, or for copies.
        """
        texts = self.frame[column].dropna().map(text_of)
        codes = (
            {text for text in texts if read_number(text.replace("−", "-")) is not None} if dtype == "boolean" else set()
        )
        unclear = codes if any(read(code) is None for code in codes) else set()
        values: list[object] = []
        strange: list[str] = []
        for case, value in self.frame[column].items():
            text = "" if pd.isna(value) else text_of(value)
            unknown = not text or re.sub(r"[^a-z0-9]", "", text.lower()) in _UNKNOWN
            understood = pd.NA if unknown else None if text in unclear else read(text)
            if understood is None:
                strange.append(f'"{value}" of case {case}')
            values.append(pd.NA if understood is None else understood)
        if strange:
            instead = (
                "1, 2, 3 or 4" if dtype == "Int64" else "1 or 0, mutant or WT, codel or non-codel, copy numbers as −2…2"
            )
            verbs = "is not understood and counts" if len(strange) == 1 else "are not understood and count"
            self.notes.append(
                f"warning: {self.source}: column {column}: {count(len(strange), 'value')} {verbs} as not known "
                f"in the WHO 2021 diagnosis: {some(strange)}; write {instead}, or leave the cells empty"
            )
        return pd.Series(values, index=self.frame.index, dtype=dtype)

    def contradiction(self, what: str, one: pd.Series, other: pd.Series) -> pd.Series:
        """The cases in which two columns contradict each other, which are warned of."""
        contradicts = (one != other).fillna(False)
        if contradicts.any():
            self.notes.append(
                f"warning: {self.source}: {what} contradict each other in {count(int(contradicts.sum()), 'case')}, whose diagnosis "
                f"stays open: {some(self.frame.index[contradicts])}"
            )
        return contradicts


def marker_columns(frame: pd.DataFrame, source: str, notes: list[str]) -> dict[str, pd.Series]:
    """Return the values of each marker, pd.NA where no column knows, by the names of `Markers`.

    Args:
        frame: cases in rows.
        source: name of the file in messages.
        notes: to which warnings of values that are not understood, and of contradictions, are added.
    """
    columns = _Columns(frame, source, notes)
    grade = _grade(columns)
    return {
        **_idh(columns, grade),
        **_codeletion(columns),
        "tert": columns.flags(_TERT),
        "egfr": columns.flags(_EGFR, _beyond_gain).fillna(columns.copies(_EGFR_COPIES, lambda level: level >= 2)),
        "gain7_loss10": columns.flags(_GAIN7_LOSS10).fillna(columns.flags(_GAIN7) & columns.flags(_LOSS10)),
        "cdkn2": _either(
            _either(columns.flags(_CDKN2, _flag_of_both_copies), columns.flags([_CDKN2_EXTENT], _both_copies)),
            columns.copies(_CDKN2_COPIES, lambda level: level <= -2),
        ),
        "grade": grade,
        "other": _other_tumour(columns),
    }


def _grade(columns: _Columns) -> pd.Series:
    """Grades by histology; 4 of a glioblastoma for which no grade is known."""
    grade = pd.Series(pd.NA, index=columns.frame.index, dtype="Int64")
    for column in columns.named(name for name in GRADE if "2021" not in name):
        grade = grade.fillna(columns.read(column, read_grade, dtype="Int64"))
    named, _ = glioblastomas(columns.frame, diagnosis_columns(columns.frame, histological=True))
    return grade.mask(grade.isna() & named, GLIOBLASTOMA_GRADE)


def _other_tumour(columns: _Columns) -> pd.Series:
    """Why a case is no adult-type diffuse glioma: "H3-mutant", or the tumour that its diagnosis names; else missing."""
    named = other_tumours(columns.frame, diagnosis_columns(columns.frame))
    return named.mask(columns.flags([_H3]).fillna(False), "H3-mutant")


def _idh(columns: _Columns, grade: pd.Series) -> dict[str, pd.Series]:
    """IDH status: of its column, else of IDH1 and IDH2, else of the subtype."""
    sequenced, r132h, idh2 = columns.flags(_IDH1), columns.flags(_R132H), columns.flags(_IDH2)
    idh1 = _either(sequenced, r132h)
    either = idh1 | idh2  # True where one is mutated, False only where both are known not to be
    by_subtype = _from_subtype(columns.frame, r"IDH[-_ ]?(mut|wt|wild)", "mut")
    idh = columns.flags(_IDH).fillna(either)
    contradicts = columns.contradiction("IDH status and subtype", idh, by_subtype)
    idh = idh.fillna(by_subtype).mask(contradicts)
    age = read_age(LabelTable(columns.frame, columns.source))
    is_old = age is not None and age >= _OLD
    by_age = idh.isna() & ~contradicts & (idh1.eq(False) & grade.eq(GLIOBLASTOMA_GRADE) & is_old).fillna(False)
    return {
        "idh": idh.mask(by_age, False),
        "idh1": idh1,
        "only_r132h": (idh1.eq(False) & sequenced.isna()).fillna(False),
        "by_age": by_age,
        "contradicts": contradicts,
    }


def _codeletion(columns: _Columns) -> dict[str, pd.Series]:
    """1p/19q codeletion: of its column, else the loss of both arms, else of the subtype; and the arm that is lost by itself."""
    named, arms = columns.flags(_CODELETION), {arm: _lost_arm(columns, arm) for arm in _ARMS}
    both = arms["1p"] & arms["19q"]  # False where one is kept, whatever the other is
    contradicts = columns.contradiction("1p/19q codeletion and the status of 1p and 19q", named, both)
    by_subtype = _from_subtype(columns.frame, r"IDH[-_ ]?mut\w*[-_ ]((?:non[-_ ]?)?codel)", "codel")
    codeleted = named.fillna(both).fillna(by_subtype).mask(contradicts)
    atrx = columns.flags(_ATRX).fillna(columns.flags([_ATRX_WORDS], _loss_of_atrx))
    by_atrx = codeleted.isna() & ~contradicts & atrx.fillna(False)
    alone = pd.Series(pd.NA, index=columns.frame.index, dtype="string")
    for arm, lost in arms.items():
        alone = alone.mask((both.isna() & lost).fillna(False), arm)
    return {"codeleted": codeleted.mask(by_atrx, False), "arm": alone, "by_atrx": by_atrx}


def _lost_arm(columns: _Columns, arm: str) -> pd.Series:
    """Whether an arm is lost, by words or flags; by copy numbers where a column is called so or has one below zero."""
    lost = columns.unknown()
    for column in columns.named([arm]):
        numbers = columns.frame[column].dropna().map(lambda value: read_number(text_of(value).replace("−", "-")))
        of_copies = bool(_OF_COPIES & set(words_of(column))) or (numbers.dropna().astype(float) < 0).any()
        reader = partial(_copies, beyond=lambda level: level < 0, whole=True) if of_copies else _flag_of_arm
        lost = _either(lost, columns.read(column, reader))
    return lost


def _marker(column: str, values: pd.Series) -> str:
    """The plain name of a column without its filler; one name for all spellings of IDH status, and of 1p/19q codeletion."""
    name = plain_name(column)
    short = _FILLER.sub("", name)
    if short in _NAMED and values.dtype.kind == "O":
        marker, word = _NAMED[short]
        return marker if any(word.search(str(value)) for value in values.dropna().unique()) else short
    if short == _ATRX_WORDS and values.dtype.kind != "O":
        return "atrx_expression"
    if short in _BARE:
        is_status = (values.dtype.kind == "O" and not has_measurement(values.dropna())) or is_binary(values)
        return _BARE[short] if is_status else short
    return next((marker for spelling, marker in _MARKERS if spelling.fullmatch(short)), short or name)


def _either(a: pd.Series, b: pd.Series) -> pd.Series:
    """True where either is True; False where at least one is False and the other is not True."""
    return (a | b).fillna(a).fillna(b)


def _word(text: str) -> str:
    """The letters and digits of a value, without the assay: `WT (maf)`."""
    text = re.sub(r"\s*\([^()]*\)$", "", text.lower())
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\.0$", "", text))


def _flag(text: str) -> bool | None:
    word = re.sub(r"^idh[12]?(?=[a-z])|1p19q", "", _word(text))  # IDH-mutant, IDH1 R132H, 1p/19q-codeleted
    if word in _NO or ((codon := _CODON.fullmatch(word)) and codon["denied"]):
        return False
    return True if word in _YES or codon else None


def _loss_of_atrx(text: str) -> object:
    """Whether ATRX is lost or mutated; unknown where a word may mean the protein or its loss, as positive and negative do."""
    word = re.sub(r"^atrx|(of)?(nuclear)?expression$|^nuclear", "", _word(text))
    return pd.NA if word in _UNCLEAR_ATRX else _flag(word)


def _flag_of_arm(text: str) -> bool | None:
    """Whether one arm is lost; a gain is no loss, nor is the loss of a part: codeletion is that of both whole arms."""
    word = re.sub(r"(chr(omosome)?)?(1p|19q)(arm)?", "", _word(text))
    if word in _KEPT_ARM:
        return False
    return None if word in _UNCLEAR_ARM else _flag(word)


def _both_copies(text: str) -> bool | None:
    """Whether both copies of a gene are deleted, by what the word says of them: homozygous, hemizygous, none."""
    word = _word(text)
    if re.search(r"hemi|hetero|mono", word) or word in _NO:
        return False
    if re.match(r"(no|not|non|without)(?!n)", word):
        return False if "homo" in word else None
    return True if re.search(r"^hd$|homo|^homdel", word) else None


def _flag_of_both_copies(text: str) -> bool | None:
    """The same in a column that is called so: `CDKN2A homozygous deletion`, in which deleted says enough."""
    found = _both_copies(text)
    return _flag(text) if found is None else found


def _beyond_gain(text: str) -> bool | None:
    """Whether a gene is amplified; a gain of some copies is no amplification."""
    return False if _word(text) in _GAINED else _flag(text)


def _copies(text: str, beyond: Callable[[float], bool], *, whole: bool = False) -> bool | None:
    """Whether a copy number is beyond a limit; with `whole`, a log ratio is not understood: −0.02 is noise, not a loss."""
    level = read_number(text.replace("−", "-"))
    return None if level is None or (whole and level != round(level)) else beyond(level)


def _from_subtype(frame: pd.DataFrame, pattern: str, positive: str) -> pd.Series:
    """What a subtype such as `LGG_IDHmut-non-codel` implies; pd.NA where no subtype column implies it."""
    found = pd.Series(pd.NA, index=frame.index, dtype="boolean")
    for column in frame.columns:
        if plain_name(column) in _SUBTYPE:
            word = frame[column].astype("string").str.extract(pattern, flags=re.IGNORECASE)[0].str.lower()
            found = found.fillna((word == positive).astype("boolean").mask(word.isna()))
    return found
