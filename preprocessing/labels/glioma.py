"""Labels of gliomas that follow from molecular markers: the WHO 2021 diagnosis, and the subtype where no column has it."""

from dataclasses import replace

import pandas as pd

from preprocessing.io.errors import count, some
from preprocessing.labels.markers import subtype_columns
from preprocessing.labels.recognition import Labels
from preprocessing.labels.who2021 import BY_AGE, who2021


def with_who2021(labels: Labels, annotations: pd.DataFrame, *, source: str) -> Labels:
    """Return the labels with diagnosis and rule, where the columns have the markers, and with the subtype if it was absent.

    Args:
        labels: as recognised among the columns.
        annotations: the columns, one row per case.
        source: name of the file in messages.
    """
    labels = replace(labels, notes=[*labels.notes])
    decided = who2021(annotations, source=source, notes=labels.notes)
    frame = labels.frame
    if decided["who2021_diagnosis"].notna().any():
        known = decided[["who2021_diagnosis", "who2021_rule"]].rename(columns={"who2021_diagnosis": "diagnosis"})
        labels = replace(labels, frame=frame.join(known))
    has_mutants = decided["who2021_subtype"].str.startswith("IDHmut").any()
    return _with_subtype(labels, annotations, decided, source) if has_mutants and "subtype" not in frame else labels


def _with_subtype(labels: Labels, annotations: pd.DataFrame, decided: pd.DataFrame, source: str) -> Labels:
    """The labels with the subtype by IDH status and 1p/19q codeletion, and a note on the rule with the number of cases."""
    subtype = decided["who2021_subtype"]
    counts = ", ".join(f"{name} {n}" for name, n in subtype.value_counts().items())
    undecided = f"; undetermined in {count(int(subtype.isna().sum()), 'case')}" if subtype.isna().any() else ""
    note = (
        f"subtype: no such column; derived from {some(subtype_columns(annotations))} by the rule of WHO 2021 (IDH-wildtype; "
        f"IDH-mutant with and without 1p/19q codeletion): {counts}{undecided}"
    )
    notes = [*labels.notes, note]
    if by_age := int(decided["who2021_rule"].str.contains(BY_AGE, regex=False).sum()):
        notes.append(
            f"warning: {source}: subtype: {count(by_age, 'case')} IDH-wildtype by IDH1 alone, being of grade 4 and 55 years or "
            "older (WHO 2021); younger ones stay undetermined, so that age and grade tell the subtype by construction. Give the "
            "status of IDH2, or a column IDH status"
        )
    gaps = labels.gaps.assign(
        subtype=decided["who2021_rule"].mask(subtype.notna())
    )  # of the others: undetermined, and why
    return replace(labels, frame=labels.frame.assign(subtype=subtype), gaps=gaps, notes=notes)
