"""From the rows of a table to one row per case: samples of the wanted type, one sample per case, every dropped row named."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing.case_tables.column_names import is_label, names_tumour
from preprocessing.case_tables.comparisons import comparison_columns
from preprocessing.case_tables.endpoint_names import survival_column
from preprocessing.case_tables.exclusions import describe_exclusions
from preprocessing.case_tables.id_columns import Evidence
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError, count, some
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.reading import names_in, read_number, text_columns, words_of
from preprocessing.tables.sample_types import (
    CLASSES,
    NORMAL,
    PRIMARY,
    is_no_tumour,
    is_tumour,
    may_hold_sample_types,
    sample_classes,
    why_excluded,
)

# Names of rows and columns that summarise cases or compare groups of them (limma, DESeq2, edgeR), as words with "_" between.
_SUMMARIES = frozenset(
    names_in(
        "total grand_total sum mean average avg median sd std stdev std_dev standard_deviation se sem var variance cv min "
        "minimum max maximum range iqr q1 q3 n log2foldchange log2_fold_change log2fc logfc log_fc fold_change lfcse "
        "basemean base_mean stat pvalue p_value p_val padj adj_p_val adj_p_value fdr q_value aveexpr ave_expr hazard_ratio"
    )
)
_NORMAL = re.compile(
    r"(?<![a-z])(normal|controls?|ctrl|ctl|healthy|non[\s_.-]?(tumou?r|neoplastic|malignant))(?![a-z])|normal(brain|tissue|cortex)",
    re.IGNORECASE,
)
_INITIALS = 3  # letters at most
_OF_GROUPS = frozenset(names_in("mean average avg median sd log2fc logfc"))  # mean_GBM, logFC_tumour_normal


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: its id as in the file, the reason, and its case."""

    id: str
    reason: str
    case_id: str


@dataclass(frozen=True)
class CaseRows:
    """Rows of the samples that are used.

    Attributes:
        frame: the rows, renumbered from 0.
        ids: id of each row, normalised.
        dropped: the other rows.
        excluded: cases all of whose samples are of a type that is not used, with the reason.
    """

    frame: pd.DataFrame
    ids: list[str]
    dropped: list[Dropped]
    excluded: dict[str, str] = field(default_factory=dict)


def select_samples(
    path: Path,
    frame: pd.DataFrame,
    id_column: str,
    evidence: Evidence,
    options: TableOptions,
    notes: list[str],
) -> CaseRows:
    """Return the rows of samples of the wanted types, one sample per case.

    The type is that of the barcode, and that of columns such as `sample_type`; a row without either counts as primary. Of several
    samples of a case the first by type and id is kept.

    Args:
        path: the table, for messages.
        frame: its rows.
        id_column: column of ids.
        evidence: from other inputs, on the ids.
        options: of the user.
        notes: to which what was decided is added.

    Raises:
        InputError: no case in common with other inputs, or no row of the wanted types.
    """
    raw, identity = frame[id_column].tolist(), evidence.identity
    ids = [identity.normalise(value) if isinstance(value, str) else "" for value in raw]
    _check_ids(path, id_column, ids, evidence, notes)
    notes += _describe_other_barcodes(path, frame, id_column, ids, identity)
    notes += describe_exclusions(path, frame)
    keys = [_sample_key(identifier, identity) for identifier in ids]
    classes = row_classes(frame, id_column, notes)
    no_cases = _no_cases(keys, evidence)
    reasons = [
        _reason(key, of_row, evidence, options, no_case=no_cases.get(key))
        for key, of_row in zip(keys, classes, strict=True)
    ]
    kept_sample = _one_sample_per_case(keys, classes, reasons, identity)
    for row, key in enumerate(keys):
        if reasons[row] is None and key != (kept := kept_sample[identity.case_of(key)]):
            reasons[row] = f"another sample of the case is kept: {kept}"
    keep = [row for row, reason in enumerate(reasons) if reason is None]
    dropped = [
        Dropped(name := str(raw[row]) if keys[row] else f"row {frame.index[row]}", reason, identity.case_of(name))
        for row, reason in enumerate(reasons)
        if reason is not None
    ]
    if not keep:
        wanted = " or ".join(sorted(options.sample_types))
        raise InputError(
            f"{path}: no row of a {wanted} sample among {len(raw)}, as {some(raw)}; --sample-types all uses every type"
        )
    _note_rows(ids, keep, dropped, evidence, notes)
    used = frame.copy(deep=False) if len(keep) == len(frame) else frame.iloc[keep]  # the values of all are not copied
    used.index = pd.RangeIndex(len(keep))
    return CaseRows(used, [ids[row] for row in keep], dropped, _of_other_types(keys, reasons, identity))


def _check_ids(path: Path, id_column: str, ids: Sequence[str], evidence: Evidence, notes: list[str]) -> None:
    """Compare the ids with those of other inputs; note those that may be meant for others, and barcodes that were cut.

    Raises:
        InputError: no case in common with other inputs.
    """
    identity, there = evidence.identity, [identifier for identifier in ids if identifier]
    cases = {identity.case_of(identifier) for identifier in there}
    if evidence.must_share and evidence.cases is not None and not evidence.cases & cases:
        raise InputError(f"{path}: not one case in common: {mismatch(id_column, ids, evidence.cases)}")
    if not cases & (evidence.cases or frozenset()):
        notes += identity.describe_unmatched(there, path.name)
    notes += identity.describe_cut_numbers(there, path.name)


def _of_other_types(keys: Sequence[str], reasons: Sequence[str | None], identity: IdentityScheme) -> dict[str, str]:
    """Cases all of whose samples are of a type that is not used, with the reason."""
    present = {identity.case_of(key) for key, reason in zip(keys, reasons, strict=True) if reason is None}
    return {
        case: reason
        for key, reason in zip(keys, reasons, strict=True)
        if key and reason and "sample type" in reason and (case := identity.case_of(key)) not in present
    }


def _describe_other_barcodes(
    path: Path, frame: pd.DataFrame, id_column: str, ids: Sequence[str], identity: IdentityScheme
) -> list[str]:
    """Warnings of columns with barcodes of other cases than the ids of their rows: one of the columns was moved or sorted."""
    notes = []
    for column in text_columns(frame):
        values = frame[column].tolist()
        first = next((value for value in values if isinstance(value, str)), "")
        if column == id_column or not identity.is_barcode(first):
            continue
        differing = [
            f"{one} beside {other}"
            for one, other in zip(ids, values, strict=True)
            if isinstance(other, str)
            and identity.is_barcode(one)
            and identity.is_barcode(other)
            and identity.case_of(one) != identity.case_of(other)
        ]
        if differing:
            notes.append(
                f"warning: {path}: {count(len(differing), 'row')} with the barcode of another case in column {column} than in "
                f"column {id_column or '(unnamed)'} ({some(differing)}), which counts: was one of them sorted by itself?"
            )
    return notes


def row_classes(frame: pd.DataFrame, id_column: str, notes: list[str]) -> list[str | None]:
    """Return the sample class of each row by the columns that hold sample types; a type other than primary in any counts.

    Where a column of diagnoses says that there is no tumour, and none names one, the row is of normal tissue.

    Args:
        frame: the rows.
        id_column: column of ids.
        notes: to which the counts, and unknown types, are added.
    """
    found: dict[str, pd.Series] = {}
    texts = set(text_columns(frame))
    for column in [name for name in frame.columns if name in texts or may_hold_sample_types(name)]:
        if column != id_column and (classes := sample_classes(column, frame[column])) is not None:
            found[column] = classes
            if (unknown := frame[column].notna() & classes.isna()).any():
                notes.append(
                    f"warning: column {column}: {some(frame[column][unknown].unique())} is no known sample type; the "
                    f"{int(unknown.sum())} rows are used"
                )
    found |= _without_tumour(frame, [name for name in text_columns(frame) if names_tumour(name) and name not in found])
    if not found:
        return [None] * len(frame)
    by_row: list[str | None] = []
    for values in zip(*(classes.tolist() for classes in found.values()), strict=True):
        named = sorted({value for value in values if isinstance(value, str)}, key=CLASSES.index)
        others = [name for name in named if name != PRIMARY]
        by_row.append(others[0] if others else named[0] if named else None)
    counts = pd.Series(by_row, dtype=object).value_counts()
    if set(counts.index) - {PRIMARY}:
        listed = ", ".join(f"{n} {name}" for name, n in counts.items())
        notes.append(f"sample types: {listed} (by column {', '.join(found)}; --sample-types selects)")
    return by_row


def _without_tumour(frame: pd.DataFrame, diagnoses: Sequence[str]) -> dict[str, pd.Series]:
    """The class NORMAL of the rows whose diagnosis says that there is no tumour while none names one, by column."""
    tumour = pd.Series(False, index=frame.index)
    for column in diagnoses:
        if "project" not in words_of(column):  # names the cohort, also of its normal samples
            tumour |= is_tumour(frame[column])
    normal = {column: is_no_tumour(frame[column]) & ~tumour for column in diagnoses}
    return {
        column: pd.Series(NORMAL, index=frame.index, dtype=object).where(rows)
        for column, rows in normal.items()
        if rows.any() and not rows.all()
    }


def _sample_key(identifier: str, identity: IdentityScheme) -> str:
    """What a row describes: a slide's row stands for its case, any other for the sample that it names."""
    return identity.case_of(identifier) if identity.slide_kind(identifier) else identifier


def _reason(
    key: str, of_row: str | None, evidence: Evidence, options: TableOptions, *, no_case: str | None
) -> str | None:
    """Why a row is left out whatever the other rows are; None if it may be used."""
    if not key:
        return "no id"
    if no_case:
        return no_case
    identity = evidence.identity
    if identity.is_doubtful(key):
        return "begins like a TCGA barcode, but is none"
    code = identity.sample_type(key)
    return why_excluded(identity.sample_class(key), code, options.sample_types) or why_excluded(
        of_row, None, options.sample_types
    )


def _no_cases(keys: Sequence[str], evidence: Evidence) -> dict[str, str]:
    """Why ids are of no case: they name a statistic of a comparison, or a summary of the cases.

    Where patients are known by their initials, SD and CV may be patients.
    """
    compared = {key for key in comparison_columns(keys) if not evidence.is_known(key)}
    found = {key for key in keys if _is_summary(key) and not evidence.is_known(key)}
    others = [key for key in keys if key not in found]
    by_initials = sum(any(map(str.isdecimal, key)) for key in others) < len(others) / 2
    summaries = {key for key in found if not by_initials or len(key) > _INITIALS}
    return {
        **dict.fromkeys(summaries, "a summary of the cases, not a case"),
        **dict.fromkeys(compared, "part of a differential-expression result, not a case"),
    }


def _is_summary(name: str) -> bool:
    """Whether a row of this name summarises the cases."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    if "_".join(words) in _SUMMARIES or re.fullmatch(r"n\s*=\s*\d+", name, re.IGNORECASE):
        return True
    return len(words) > 1 and not _OF_GROUPS.isdisjoint(words) and not any(map(str.isdecimal, words))


def _one_sample_per_case(
    keys: Sequence[str], classes: Sequence[str | None], reasons: Sequence[str | None], identity: IdentityScheme
) -> dict[str, str]:
    """The sample of each case that is kept: the first by type, then by id."""

    def rank(row: int) -> tuple[int, str]:
        name = identity.sample_class(keys[row]) or classes[row] or PRIMARY
        return CLASSES.index(name), keys[row]

    kept: dict[str, str] = {}
    for row in sorted((row for row, reason in enumerate(reasons) if reason is None), key=rank):
        kept.setdefault(identity.case_of(keys[row]), keys[row])
    return kept


def _note_rows(
    ids: Sequence[str], keep: Sequence[int], dropped: Sequence[Dropped], evidence: Evidence, notes: list[str]
) -> None:
    """Note the rows that are left out, and warn of ids unlike the others: a sum below the table, a column of no case."""
    if dropped:
        notes.append(f"{count(len(dropped), 'row')} left out: {some(f'{row.id} ({row.reason})' for row in dropped)}")
    used = [ids[row] for row in keep]
    strange = [identifier for identifier in used if not evidence.is_id(identifier)]
    normal = [identifier for identifier in strange if _NORMAL.search(identifier)]
    if 0 < len(normal) < len(used) / 2:
        notes.append(
            f"warning: {count(len(normal), 'id')} may be of normal tissue or controls, and count as cases: {some(normal)}; remove "
            "them from the table if they are"
        )
    if 0 < len(strange) < len(used) / 2 and any(map(evidence.identity.is_barcode, used)):
        notes.append(
            f"warning: {len(strange)} ids are not barcodes like the others, and count as cases: {some(strange)}; remove them "
            "from the table if they are none"
        )


def mismatch(id_column: str, ids: Iterable[str], known: frozenset[str]) -> str:
    """Return the sentence that sets the ids of a table against those of the other inputs."""
    given = [identifier for identifier in ids if identifier]
    difference = _likely_difference(given, known)
    remedy = "write the ids the same way (a manifest can give the slides' cases)"
    if "samples" in difference:
        remedy = (
            "name the case of each sample in the clinical table (columns patient_id and sample_id, a row for each sample), or "
            "give --case-pattern"
        )
    return (
        f"column {id_column or '(unnamed)'} has {some(given)}; the slides (or genes) are of {some(sorted(known))}{difference}; "
        f"{remedy}, or name another column with --id-column"
    )


def _likely_difference(given: Sequence[str], known: frozenset[str]) -> str:
    """By what most ids seem to differ from the others, as part of a sentence; "" if that is not seen."""
    longer = {other.rsplit(mark, n)[0] for other in known for mark in "-_." for n in (1, 2)}
    shorter = {one.rsplit(mark, n)[0] for one in given for mark in "-_." for n in (1, 2)}
    plain = {re.sub(r"[\W_]+|(?<!\d)0+(?=\d)", "", other).lower() for other in known}
    if sum(one in longer for one in given) > len(given) / 2:
        return " (which continue after the ids of the table, as ids of samples do)"
    if len(shorter & known) > len(known) / 2:
        return " (after which the ids of the table continue, as ids of samples do)"
    if strange := sorted(sign for sign in {*"".join(given)} ^ {*"".join(known)} if not sign.isascii()):
        return (
            f" (only one of them has the sign {strange[0]}, {unicodedata.name(strange[0], 'without a name').lower()})"
        )
    of_r = {other[1:] for other in known if other[:1] == "X"}, {f"X{other}" for other in known}
    if any(sum(one in ids for one in given) > len(given) / 2 for ids in of_r):
        return " (the same but for the X that R puts before numbers; check.names = FALSE leaves it out)"
    if sum(re.sub(r"[\W_]+|(?<!\d)0+(?=\d)", "", one).lower() in plain for one in given) > len(given) / 2:
        return " (the same but for capitals, separators or leading zeros)"
    return ""


def one_row_per_case(ids: Sequence[str], identity: IdentityScheme) -> tuple[list[str], list[int]]:
    """Return the case of each row, and the position of each case's first row."""
    cases = [identity.case_of(identifier) for identifier in ids]
    firsts: dict[str, int] = {}
    for row, case in enumerate(cases):
        firsts.setdefault(case, row)
    return cases, list(firsts.values())


def require_agreement(
    path: Path, values: pd.DataFrame, ids: list[str], cases: list[str], firsts: list[int], notes: list[str]
) -> None:
    """Raise InputError where rows of one case differ in a gene; note how many were merged."""
    if len(firsts) == len(cases):
        return
    matrix = values.to_numpy()
    first_of = {cases[row]: row for row in firsts}
    for row, case in enumerate(cases):
        one, other = matrix[first_of[case]], matrix[row]
        differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
        if differs.any():
            at = int(differs.argmax())
            raise InputError(
                f"{path}: case {case} has several rows, and column {values.columns[at]} is {one[at]:g} in one row "
                f"and {other[at]:g} in another; keep one row of the case"
            )
    notes.append(f"{len(cases) - len(firsts)} rows that repeat another row of their case were merged")


def merge_columns(
    path: Path,
    frame: pd.DataFrame,
    cases: list[str],
    firsts: list[int],
    notes: list[str],
    *,
    labels: Collection[str] = (),
) -> pd.DataFrame:
    """Return the columns with one row per case, in the order of first appearance.

    Labels of one case must agree, save the last follow-up, of which the latest counts; other columns that differ are joined
    by ";". `labels` are further columns that hold labels.

    Raises:
        InputError: rows of one case have different labels.
    """
    index = pd.Index([cases[row] for row in firsts], name="case_id")
    merged = frame.iloc[firsts].set_axis(index, axis=0)
    if len(firsts) == len(cases):
        return merged
    repeated = pd.Series(cases).duplicated(keep=False).to_numpy()
    joined: list[str] = []
    for column in frame.columns:
        for case, values in frame.loc[repeated, column].groupby(np.array(cases)[repeated]):
            distinct = list(dict.fromkeys(values.dropna()))
            if len(distinct) > 1 and (latest := _latest_follow_up(column, distinct)) is not None:
                distinct = [latest]
            elif len(distinct) > 1 and (column in labels or is_label(column)):
                raise InputError(
                    f"{path}: case {case} has several rows, and column {column} is {distinct[0]} in one row and "
                    f"{distinct[1]} in another; keep one row of the case"
                )
            if len(distinct) > 1:
                merged[column] = merged[column].astype(object)
                joined.append(column)
            if distinct:
                merged.loc[case, column] = distinct[0] if len(distinct) == 1 else ";".join(map(str, distinct))
    if joined:
        notes.append(f'columns that differ within a case, joined by ";": {some(list(dict.fromkeys(joined)))}')
    return merged


def _latest_follow_up(column: str, values: Sequence[object]) -> object | None:
    """The latest of several days to a follow-up (the GDC has a row per visit); None for any other column."""
    parsed = survival_column(column)
    if parsed is None or parsed.role != "follow-up time":
        return None
    numbers = {value: read_number(str(value)) for value in values}
    known = {value: number for value, number in numbers.items() if number is not None}
    return max(known, key=lambda value: known[value]) if known else None
