"""Labels and covariates out of the columns of a clinical table, under their usual spellings.

For each label the plainest column name wins: the lists below are in that order. Whatever is assumed is said in a note.
"""

from dataclasses import dataclass

import pandas as pd

from preprocessing.labels.columns import LabelTable, is_binary, read_grade, text_of, yes_no
from preprocessing.labels.survival import read_survival
from preprocessing.tables import case_ids
from preprocessing.tables.column_names import AGE, GRADE, SEX, SITE, SUBTYPE, plain_name
from preprocessing.tables.reading import read_number

DAYS_PER_YEAR = 365.25
OLDEST_YEARS = 130


_FEMALE = {"female", "f", "woman"}
_MALE = {"male", "m", "man"}


@dataclass(frozen=True)
class Labels:
    """What is known of each case.

    Attributes:
        frame: a row a case, those of these columns that were found: grade (Int64), subtype (string), survival_months
            (float), event (boolean: it happened), age (float, years), is_female (boolean), site (string).
        notes: which column was taken for what, and what was assumed.
    """

    frame: pd.DataFrame
    notes: list[str]


def recognise(annotations: pd.DataFrame, *, source: str) -> Labels:
    """Grade, subtype, survival, age, sex and site of each case, where there are columns for them.

    Args:
        annotations: a row a case, indexed by case id.
        source: the file, as messages name it.

    Raises:
        InputError: a value that is not understood, or columns that contradict each other.
    """
    table = LabelTable(annotations, source)
    found = {
        "grade": _grade(table),
        "subtype": _subtype(table),
        **read_survival(table),
        "age": _age(table),
        "is_female": _sex(table),
        "site": _site(table),
    }
    kept = {name: values for name, values in found.items() if values is not None}
    return Labels(pd.DataFrame(kept, index=annotations.index).rename_axis("case_id"), table.notes)


def _grade(table: LabelTable) -> pd.Series | None:
    column = table.first(GRADE, "grade", read=read_grade)
    if column is None:
        return None
    return table.parse(
        column, read_grade, dtype="Int64", remedy='write grades as 2, 3, 4 (or "G2", "II", "WHO grade 2")'
    )


def _subtype(table: LabelTable) -> pd.Series | None:
    column = table.first(SUBTYPE, "subtype")
    if column is None:
        return None
    values = table.frame[column].map(text_of, na_action="ignore").astype("string")
    spellings: dict[str, str] = {}
    for case, value in values.dropna().items():
        other = spellings.setdefault(value.lower(), value)
        if other != value:
            table.refuse(column, case, f'it is written "{other}" elsewhere: spell each subtype one way')
    return values


def _age(table: LabelTable) -> pd.Series | None:
    column = table.first(AGE, "age", read=read_number)
    if column is None:
        return None
    years = table.numbers(column)
    if plain_name(column) == "days_to_birth":
        years = -years
    in_days = "days" in plain_name(column)
    if not in_days and years.max() > OLDEST_YEARS and years.median() <= OLDEST_YEARS * 12:
        table.refuse(
            column, years.idxmax(), f"an age lies between 0 and {OLDEST_YEARS} years; days go into a column age_days"
        )
    if in_days or years.median() > OLDEST_YEARS:
        table.notes.append(f"age: {column} taken as days")
        years = years / DAYS_PER_YEAR
    absurd = years.index[(years < 0) | (years > OLDEST_YEARS)]
    if len(absurd):
        table.refuse(column, absurd[0], f"an age lies between 0 and {OLDEST_YEARS} years")
    return years


def _sex(table: LabelTable) -> pd.Series | None:
    for name in table.named(SEX):
        if not _says_sex(plain_name(name), table.frame[name]):
            table.notes.append(f"is_female: {name} has 0 and 1, not which is female: not used (call it is_female)")
    column = table.first(SEX, "is_female", accept=_says_sex)
    if column is None:
        return None
    inverted = plain_name(column) in ("is_male", "male")

    def read(text: str) -> bool | None:
        word = text.lower()
        if word in _FEMALE | _MALE:
            return word in _FEMALE
        flag = yes_no(word)
        return None if flag is None or plain_name(column) in ("sex", "gender") else flag != inverted

    return table.parse(column, read, dtype="boolean", remedy="write female or male, or leave it empty")


def _says_sex(name: str, values: pd.Series) -> bool:
    return name not in ("sex", "gender") or not is_binary(values)


def _site(table: LabelTable) -> pd.Series | None:
    column = table.first(SITE, "site")
    if column is not None:
        return table.frame[column].map(text_of, na_action="ignore").astype("string")
    sites = pd.Series(
        [case_ids.source_site(str(case)) for case in table.frame.index], index=table.frame.index, dtype="string"
    )
    if sites.isna().all():
        return None
    table.notes.append("site: tissue source site from the TCGA barcode")
    return sites
