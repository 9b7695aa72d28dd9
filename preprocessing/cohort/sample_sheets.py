"""Sample sheets: clinical tables that name the patient of each sample, in ids of which no pattern finds the patient."""

from dataclasses import dataclass

import pandas as pd

from preprocessing.case_tables.case_rows import row_classes
from preprocessing.case_tables.gene_names import is_counter
from preprocessing.case_tables.id_columns import has_measurement, id_kind
from preprocessing.io.errors import count, some
from preprocessing.tables.identity import IdentityScheme
from preprocessing.tables.reading import text_columns


@dataclass(frozen=True)
class SampleSheet:
    """The samples of a table.

    Attributes:
        samples: patient and sample class (None where the table has none) of each sample id.
        columns: of patients, and of samples.
    """

    samples: dict[str, tuple[str, str | None]]
    columns: tuple[str, ...]

    def describe(self) -> str:
        """Return one sentence on the sheet."""
        patients = {patient for patient, _ in self.samples.values()}
        return (
            f"samples: {len(self.samples)} ids of samples ({some(self.samples)}) belong to "
            f"{count(len(patients), 'case')}, by the columns "
            f"{' and '.join(self.columns)}"
        )


def read_sample_sheet(frame: pd.DataFrame, identity: IdentityScheme) -> SampleSheet | None:
    """Return the samples of a clinical table that has a column of patients and one of samples; None for any other table.

    An id that several patients share is no sample, and one in which a known scheme finds the case needs no sheet. Without a column
    of patients, as in the tables of recount3, barcodes name them, and other ids are of samples where patients have several rows.
    """
    kinds = {"sample"}
    patients = next((c for c in frame.columns if id_kind(c) == "case" and _are_ids(frame[c])), None)
    if patients is None:
        patients = next((c for c in text_columns(frame) if _repeat_patients(frame[c], identity)), None)
        kinds = {"sample", "id"}
    if patients is None:
        return None
    columns = [c for c in frame.columns if id_kind(c) in kinds and c != patients and _are_ids(frame[c])]
    if not columns:
        return None
    of_rows = zip(row_classes(frame, patients, []), frame[patients], strict=True)
    classes = [name or (identity.sample_class(one) if isinstance(one, str) else None) for name, one in of_rows]
    samples: dict[str, tuple[str, str | None]] = {}
    used = []
    for column in columns:
        found = _samples_of(frame[column], frame[patients], classes, identity)
        if found:
            used.append(column)
        samples = found | samples
    return SampleSheet(samples, (patients, *used)) if samples else None


def _are_ids(values: pd.Series) -> bool:
    there = [value for value in values if isinstance(value, str)]
    return len(set(there)) > 1 and not has_measurement(there) and not is_counter(there)


def _repeat_patients(values: pd.Series, identity: IdentityScheme) -> bool:
    """Whether most of the values are barcodes, and several are of one patient."""
    barcodes = [value for value in values if isinstance(value, str) and identity.is_barcode(value)]
    return len(barcodes) > len(values) / 2 and len(set(map(identity.case_of, barcodes))) < len(barcodes)


def _samples_of(
    samples: pd.Series, patients: pd.Series, classes: list[str | None], identity: IdentityScheme
) -> dict[str, tuple[str, str | None]]:
    """Patient and class of each sample of a column; empty where it is none of samples.

    It is none where a patient has the id of another's sample, or where half of the patients share theirs, as they share sites.
    """
    known: dict[str, set[str]] = {}
    class_of: dict[str, str | None] = {}
    for sample, patient, of_row in zip(samples, patients, classes, strict=True):
        if isinstance(sample, str) and isinstance(patient, str) and sample != patient:
            known.setdefault(sample, set()).add(patient)
            class_of.setdefault(sample, of_row)
    named = {patient for patient in patients if isinstance(patient, str)}
    shared = sum(len(of) for of in known.values() if len(of) > 1)
    if known.keys() & named or shared >= sum(map(len, known.values())) / 2:
        return {}
    return {
        sample: (identity.case_of(next(iter(of))), class_of[sample])
        for sample, of in known.items()
        if len(of) == 1 and not identity.is_barcode(sample)
    }
