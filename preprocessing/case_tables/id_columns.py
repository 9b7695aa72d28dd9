"""Which column of a table holds the ids of cases or samples: judged by the ids of other inputs, barcodes, and names."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from preprocessing.case_tables.column_names import is_label, plain_name
from preprocessing.case_tables.gene_columns import ROW_NUMBERS, is_annotation
from preprocessing.case_tables.gene_names import GENE_METADATA, are_integers, is_counter, is_measurement
from preprocessing.case_tables.table_options import TableOptions
from preprocessing.io.errors import InputError, some
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.reading import names_in, text_columns, words_of

CASE_NAMES = names_in(
    "case_submitter_id submitter_id bcr_patient_barcode patient_barcode case_id patient_id patient case subject_id subject "
    "participant_id participant donor_id donor individual_id individual"
)
SAMPLE_NAMES = names_in(
    "sample_id sample_barcode bcr_sample_barcode sample_submitter_id sample samples barcode aliquot_id cgga_id geo_accession "
    "idx id"
)
SLIDE_NAMES = names_in("slide_id slide_ids slide filename file_name file")
ID_WORDS = frozenset(names_in("id ids idx barcode case patient sample subject participant donor specimen accession"))
_OWNERS = {
    **dict.fromkeys(names_in("patient donor subject participant individual"), "case"),
    **dict.fromkeys(names_in("sample specimen biospecimen aliquot model"), "sample"),
}
_NAMED = frozenset(names_in("tumor tumour sample patient case subject specimen donor slide"))  # tumor_name
# Kinds of id columns by their names, the best first. An unnamed column of distinct words is how R and pandas write ids.
KINDS = ("case", "unnamed", "sample", "id", "slide", "")
SURE_KINDS = ("case", "sample")
_HOW = "add one called case_id, or name one with --id-column"


@dataclass(frozen=True)
class Evidence:
    """Evidence from other inputs of the run on the ids and genes of a table.

    Attributes:
        cases: of slides, or of tables read before; None without such an input.
        hints: possible case ids in tables that were not yet read.
        features: of a trained model: evidence for which names are genes.
        must_share: whether a molecular table without any of the known cases is refused; otherwise a warning.
        identity: how ids are spelt.
    """

    cases: frozenset[str] | None = None
    hints: frozenset[str] = field(default=frozenset())
    features: frozenset[str] = field(default=frozenset())
    must_share: bool = True
    identity: IdentityScheme = field(default_factory=IdentityScheme)

    def is_known(self, value: object) -> bool:
        """Whether the value is an id of another input."""
        if not isinstance(value, str):
            return False
        case = self.identity.case_of(value)
        return case in (self.cases or ()) or case in self.hints or value.strip() in (self.cases or ())

    def is_id(self, value: object) -> bool:
        """Whether the value is an id of another input, or a barcode."""
        return isinstance(value, str) and (self.identity.is_barcode(value) or self.is_known(value))


def possible_ids(frame: pd.DataFrame, identity: IdentityScheme) -> frozenset[str]:
    """Return every value of a table that may be a case id: distinct texts of a column or of the header, as cases."""
    found: set[str] = set()
    for column in text_columns(frame):
        values = [value for value in frame[column] if isinstance(value, str)]
        if len(values) > 1 and (_is_distinct(values) or id_kind(column)) and not has_measurement(values):
            found.update(map(identity.case_of, values))
    named = (c for c in frame.columns if c and not (is_label(c) or id_kind(c) or plain_name(c) in GENE_METADATA))
    found.update(map(identity.case_of, named))
    return frozenset(found)


def id_kind(column: str) -> str:
    """Return which kind of id the column's name promises: case, sample, slide or id; "" for none.

    The GDC's prefix of a table (`cases.submitter_id`) does not count.
    """
    name = plain_name(column).removeprefix("cases_")
    for kind, names in (("case", CASE_NAMES), ("sample", SAMPLE_NAMES), ("slide", SLIDE_NAMES)):
        if name in names:
            return kind
    words = words_of(column)
    if len(words) > 1 and words[-1] in ("id", "barcode") and words[-2] in _OWNERS:
        return _OWNERS[words[-2]]  # icgc_donor_id, HTAN Biospecimen ID
    if len(words) > 1 and words[-1] == "name" and words[0] in _NAMED:
        return "id"
    return "id" if words and ID_WORDS & {words[-1], words[0]} and not is_label(column) else ""


def with_whole_numbers(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return the table with ids that a program wrote as decimals (10001.0) as whole numbers, noted."""
    changed = {}
    for column in text_columns(frame):
        values = frame[column].dropna()
        if id_kind(column) and len(values) > 1 and values.map(_is_whole_decimal).all():
            changed[column] = frame[column].str.removesuffix(".0")
    if changed:
        notes.append(f"ids written as decimals are read as whole numbers: column {some(changed)}")
    return frame.assign(**changed) if changed else frame


def _is_whole_decimal(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+\.0", value) is not None


def has_measurement(values: Iterable[object]) -> bool:
    """Whether any value is a decimal or negative number."""
    return any(map(is_measurement, values))


def _is_unnamed(column: str) -> bool:
    """Whether R or pandas made up the name: "", index, Unnamed: 0, X, rownames, V1."""
    return ROW_NUMBERS.fullmatch(plain_name(column)) is not None or plain_name(column) in ("v1", "number")


def _is_distinct(values: Sequence[object]) -> bool:
    return len(set(values)) == len(values) > 0


def _may_be_ids(frame: pd.DataFrame, column: str, evidence: Evidence) -> bool:
    """Whether the column can hold ids: ids that are known elsewhere, or by its name, or as distinct words."""
    values = [value for value in frame[column] if isinstance(value, str)]
    if any(map(evidence.is_id, values)):
        return True
    if not values or has_measurement(values):
        return False
    if is_counter(values):  # patients 1, 2, 3 under a sure name; row numbers otherwise
        return id_kind(column) == "case" and plain_name(column) != "case"
    if id_kind(column):
        return True
    if _is_unnamed(column):
        return _is_distinct(values)
    return _is_distinct(values) and not are_integers(values) and not is_annotation(column)


def choose_id_column(
    path: Path, frame: pd.DataFrame, evidence: Evidence, options: TableOptions, notes: list[str], *, samples: bool
) -> str:
    """Return the column of case or sample ids of a table with cases in rows.

    Args:
        path: the file.
        frame: the table.
        evidence: ids of other inputs.
        options: may name the column.
        notes: the choice is appended.
        samples: whether sample barcodes are preferred to case barcodes, since they include the sample type.

    Raises:
        InputError: no column can hold ids, or several can and nothing decides between them.
    """
    if options.id_column is not None and (named := _named(frame, options.id_column)) is not None:
        notes.append(f"ids: column {named or '(unnamed)'} (--id-column)")
        return named
    candidates = [column for column in text_columns(frame) if _may_be_ids(frame, column, evidence)]
    if not candidates:
        why = (
            "numbers, row numbers and labels are no ids"
            if len(frame.columns) > 1
            else "is the file separated by commas?"
        )
        raise InputError(f"{path}: no column of case ids among {some(frame.columns)} ({why}); {_HOW}")
    ranks = {column: _rank(frame, column, evidence, samples=samples) for column in candidates}
    chosen, *others = sorted(candidates, key=lambda column: ranks[column])
    equal = [column for column in others if ranks[column][:3] == ranks[chosen][:3]]
    if equal and ranks[chosen][:3] == (0, 0, KINDS.index("")):
        raise InputError(f"{path}: columns {chosen} and {some(equal)} may hold the case ids; name one with --id-column")
    notes.append(f"ids: column {chosen or '(unnamed)'}")
    return chosen


def _named(frame: pd.DataFrame, id_column: str) -> str | None:
    """The column that the user names, by its exact or plain name; None where this table has none."""
    if id_column in ("", "(unnamed)"):
        return "" if "" in frame.columns else None
    exact = [column for column in frame.columns if column == id_column]
    plain = [column for column in frame.columns if plain_name(column) == plain_name(id_column)]
    return next(iter(exact + plain), None)


def _rank(frame: pd.DataFrame, column: str, evidence: Evidence, *, samples: bool) -> tuple[int, int, int, int, int]:
    """Lower is better: ids known elsewhere, barcodes, kind of column, place among the names of its kind, position."""
    values = [value for value in frame[column] if isinstance(value, str)]
    n_known, n_barcodes = sum(map(evidence.is_known, values)), sum(map(evidence.identity.is_barcode, values))
    kind, name = id_kind(column), plain_name(column).removeprefix("cases_")
    place = next((names.index(name) for names in (CASE_NAMES, SAMPLE_NAMES, SLIDE_NAMES) if name in names), 0)
    if not kind and _is_unnamed(column) and _is_distinct(values):
        kind = "unnamed"
    if (
        samples and n_barcodes and kind in SURE_KINDS
    ):  # a sample's barcode names its case, and says whether it is primary
        kind = "case" if kind == "sample" else "sample"
    return -n_known, -n_barcodes, KINDS.index(kind), place, list(frame.columns).index(column)
