"""Labels and covariates recognised among the columns of a clinical table.

Of several columns for one label, the first of the lists in `column_names` is used; every choice and assumption is noted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from models.registry import nearest
from preprocessing.case_tables.column_names import GRADE, SEX, SITE, SUBTYPE, plain_name
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError, count, some
from preprocessing.labels.ages import read_age
from preprocessing.labels.columns import LabelTable, is_binary, read_grade, text_of, yes_no
from preprocessing.labels.spelling import SEPARATORS
from preprocessing.labels.survival import OS, Survival, read_survival, without_survival
from preprocessing.labels.tumour import GLIOBLASTOMA_GRADE, diagnosis_columns, glioblastomas
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.reading import words_of

_FEMALE = {"female", "f", "woman"}
_MALE = {"male", "m", "man"}
_GRADE_WORDS = frozenset({"grade", "grades", "grad", "grado", "grading"})
_SEX_WORDS = ("sex", "gender")
_IN_THE_BODY = re.compile(
    r"\b(?:frontal|temporal|parietal|occipital|lobes?|insular?|thalam\w+|cerebell\w+|brain ?stem|basal ganglia|corpus callosum|"
    r"ventricles?|spin(?:e|al)|hemispheres?|left|right|bilateral|midline|(?:supra|infra)tentorial|brain|blood)\b",
    re.IGNORECASE,
)
_Read = TypeVar("_Read")
_STUDY = re.compile(r"^(lgg|gbm|gbmlgg|tcga)[\s_-]+", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """Labels and covariates of each case.

    Attributes:
        frame: one row per case with the columns that were found: grade (Int64), subtype (string), survival_months (float),
            event (boolean, True: it happened), age (float, years), is_female (boolean), site (string).
        gaps: the same cases × grade, subtype, survival_months: why the label is missing; missing where it is there.
        notes: which column was read as what, and every assumption, one sentence each.
        endpoint: the survival endpoint, a key of `endpoint_names.ENDPOINTS`.
        endpoints: all endpoints with a time and an event column.
    """

    frame: pd.DataFrame
    gaps: pd.DataFrame
    notes: list[str]
    endpoint: str = OS
    endpoints: tuple[str, ...] = ()


def recognise(
    annotations: pd.DataFrame,
    *,
    source: str,
    options: TableOptions | None = None,
    identity: IdentityScheme | None = None,
) -> Labels:
    """Return grade, subtype, survival, age, sex and site of each case, where there are columns for them.

    Args:
        annotations: one row per case, indexed by case id.
        source: name of the file in messages.
        options: the survival endpoint, a key of `endpoint_names.ENDPOINTS`.
        identity: sites of cases, or the column of sites.

    Raises:
        InputError: a value that is not understood, columns that contradict each other, or an endpoint that is not there.
    """
    table, options = LabelTable(annotations, source), options or TableOptions()
    grade = _if_needed("grade", lambda: _grade(table), table, options)
    age, subtype = read_age(table), _subtype(table)
    survival = _if_needed(
        "survival",
        lambda: read_survival(table, options.endpoint, known={"age": age, "grade": grade}),
        table,
        options,
    ) or without_survival(table)
    found = {
        "grade": grade,
        "subtype": subtype,
        "survival_months": survival.months,
        "event": survival.event,
        "age": age,
        "is_female": _sex(table),
        "site": _site(table, identity or IdentityScheme()),
    }
    kept = {name: values for name, values in found.items() if values is not None}
    frame = pd.DataFrame(kept, index=annotations.index).rename_axis("case_id")
    return Labels(frame, _gaps(table, frame, survival), table.notes, survival.endpoint, survival.available)


def _if_needed(task: str, read: Callable[[], _Read], table: LabelTable, options: TableOptions) -> _Read | None:
    """The label of a task; None, with a warning, where it is not understood and the run names other tasks only."""
    n_notes = len(table.notes)
    try:
        return read()
    except InputError as error:
        if options.tasks is None:
            raise InputError(f"{error}; or leave {task} out: name the tasks of the run with --task") from None
        if task in options.tasks:
            raise
        table.notes[n_notes:] = [f"warning: {error}; {task} is no task of this run, and is left out"]
        return None


def _gaps(table: LabelTable, frame: pd.DataFrame, survival: Survival) -> pd.DataFrame:
    """Why labels are missing, by label column."""
    gaps = pd.DataFrame({"survival_months": survival.gaps}, index=table.frame.index).rename_axis("case_id")
    for name, names in (("grade", GRADE), ("subtype", SUBTYPE)):
        reasons = pd.Series(f"no {name}", index=table.frame.index, dtype="string")
        if name in frame:
            written = table.frame[table.named(names)].notna().any(axis=1)
            reasons = reasons.mask(written & frame[name].isna(), f"{name} not assessed").mask(frame[name].notna())
        gaps[name] = reasons
    return gaps


def _grade(table: LabelTable) -> pd.Series | None:
    column = table.first(GRADE, "grade", read=read_grade)
    if column is None:
        unread = [name for name in table.frame.columns if _GRADE_WORDS & set(words_of(name))]
        if unread:
            table.notes.append(
                f"warning: {table.source}: grade: not read from {some(unread)}; if it has the WHO grade, call the column grade"
            )
        return None
    grade = table.parse(
        column, read_grade, dtype="Int64", remedy='write grades as 2, 3, 4 (or "G2", "II", "WHO grade 2")'
    )
    return _of_glioblastomas(table, column, grade)


def _of_glioblastomas(table: LabelTable, column: str, grade: pd.Series) -> pd.Series:
    """The grades with 4 for a glioblastoma whose cell is empty, noted; one of another grade is warned of."""
    named, named_by = glioblastomas(table.frame, diagnosis_columns(table.frame))
    empty = named & table.frame[column].isna()
    if empty.any():
        table.notes.append(
            f"grade: {GLIOBLASTOMA_GRADE} in {count(int(empty.sum()), 'case')} without a value in {column} that "
            f"{some(named_by)} names glioblastoma, which is of grade 4 by definition (WHO); write GX there if that is wrong"
        )
    histological, named_by = glioblastomas(table.frame, diagnosis_columns(table.frame, histological=True))
    lower = histological & grade.lt(GLIOBLASTOMA_GRADE).fillna(False)
    if lower.any():
        table.notes.append(
            f"warning: {table.source}: grade: {column} is below 4 in {count(int(lower.sum()), 'case')} "
            f"({some(table.frame.index[lower])}) that {some(named_by)} names glioblastoma; correct one of them"
        )
    return grade.mask(empty, GLIOBLASTOMA_GRADE)


def _subtype(table: LabelTable) -> pd.Series | None:
    """Subtypes, each in its most frequent spelling: capitals and separators between words make no difference."""
    column = table.first(SUBTYPE, "subtype", read=lambda text: _spelling(_STUDY.sub("", text)))
    if column is None:
        return None
    values = table.frame[column].map(text_of, na_action="ignore").astype("string")
    frequent: dict[str, str] = {}
    for value in values.value_counts().index:
        frequent.setdefault(_spelling(value), value)
    unified = values.map(lambda value: frequent[_spelling(value)], na_action="ignore").astype("string")
    changed = values[(values != unified).fillna(False)].unique()
    if len(changed):
        spellings = "; ".join(f"{value} as {frequent[_spelling(value)]}" for value in sorted(changed))
        table.notes.append(f"warning: {table.source}: subtype: spellings of one subtype are merged: {spellings}")
    return unified


def _spelling(text: str) -> str:
    return SEPARATORS.sub("", text.lower())


def _sex(table: LabelTable) -> pd.Series | None:
    for name in table.named(SEX):
        if not _states_sex(plain_name(name), table.frame[name]):
            table.notes.append(
                f"warning: {table.source}: is_female: {name} is coded 0/1 without stating which is female: not used; call it "
                "is_female or is_male"
            )
    column = table.first(SEX, "is_female", accept=_states_sex)
    if column is None:
        return None
    inverted = plain_name(column) in ("is_male", "male")

    def read(text: str) -> bool | None:
        word = text.lower()
        if word in _FEMALE | _MALE:
            return word in _FEMALE
        flag = yes_no(word)
        return None if flag is None or _is_plain_sex(plain_name(column)) else flag != inverted

    return table.parse(column, read, dtype="boolean", remedy="write female or male, or leave it empty")


def _states_sex(name: str, values: pd.Series) -> bool:
    return not _is_plain_sex(name) or not is_binary(values)


def _is_plain_sex(name: str) -> bool:
    return any(word in name for word in _SEX_WORDS)


def _names_institutions(_: str, values: pd.Series) -> bool:
    """Whether a column of sites is of those that collected the cases, rather than of the tumour's place."""
    return float(values.dropna().astype(str).str.contains(_IN_THE_BODY).mean()) < 0.5


def _site(table: LabelTable, identity: IdentityScheme) -> pd.Series | None:
    named = identity.site_column
    if named is not None and named not in table.frame:
        raise InputError(
            f'--site-column {named}: no column "{named}" in {table.source}: {nearest(named, map(str, table.frame.columns))}'
        )
    for name in table.named(SITE):
        if name != named and not _names_institutions(name, table.frame[name]):
            table.notes.append(
                f"warning: {table.source}: site: {name} names places in the body, not where cases were collected: not used; "
                f"--site-column {name} uses it all the same"
            )
    column = named or table.first(SITE, "site", accept=_names_institutions)
    if column is not None:
        return table.frame[column].map(text_of, na_action="ignore").astype("string")
    sites = pd.Series(
        [identity.source_site(str(case)) for case in table.frame.index], index=table.frame.index, dtype="string"
    )
    if sites.isna().all():
        return None
    table.notes.append("site: tissue source site from the barcode")
    return sites
