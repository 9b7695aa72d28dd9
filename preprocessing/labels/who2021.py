"""Adult-type diffuse gliomas by the WHO classification of CNS tumours, 5th edition (2021), from molecular columns.

Louis et al., Neuro-Oncology 23 (2021) 1231. Astrocytoma, IDH-mutant: no 1p/19q codeletion; a homozygous deletion of
CDKN2A or CDKN2B makes it grade 4. Oligodendroglioma: IDH-mutant and 1p/19q-codeleted. Glioblastoma: IDH-wildtype with
grade 4 histology, a TERT promoter mutation, EGFR amplification, or +7/−10; from 55 years on a glioblastoma without a mutation
of IDH1 (as by the antibody against R132H) is IDH-wildtype. Where a column is missing that would decide,
the diagnosis stays missing, and the rule gives the reason.
"""

import pandas as pd

from preprocessing.labels.markers import Markers, marker_columns

ASTROCYTOMA = "Astrocytoma, IDH-mutant"
OLIGODENDROGLIOMA = "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted"
GLIOBLASTOMA = "Glioblastoma, IDH-wildtype"
SUBTYPES = ("IDHwt", "IDHmut-codel", "IDHmut-non-codel")  # as TCGA writes them
BY_AGE = "and from 55 years on no further mutation of IDH needs to be excluded"  # in the rule of such a case
_PREDICTABLE = {
    "idh": "IDH",
    "codeleted": "1p/19q",
    "grade": "grade",
}  # markers that a predicted subtype and grade imply


def who2021(
    frame: pd.DataFrame,
    *,
    predicted: pd.DataFrame | None = None,
    source: str = "clinical table",
    notes: list[str] | None = None,
) -> pd.DataFrame:
    """Return diagnosis and grade of each case, with the rule that decided.

    Args:
        frame: cases in rows; molecular columns under their usual names, any of which may be missing.
        predicted: columns of the same cases that a model predicted (grade, subtype): they stand in for what is not known,
            and the rule names the prediction.
        source: name of the file in messages.
        notes: to which warnings are added, of values that are not understood and of columns that contradict each other.

    Returns:
        who2021_diagnosis (string, missing where undetermined), who2021_grade (Int64), who2021_rule (string), who2021_subtype
        (string, one of `SUBTYPES`: by IDH and 1p/19q alone), indexed as the frame; with `predicted` also who2021_predicted
        (string): the markers that are predicted, separated by `;`.

    A value that is not understood is warned of and counts as not known: a marker must not stop a run that may not need it.
    """
    notes = [] if notes is None else notes
    columns = marker_columns(frame, source, notes)
    if predicted is not None:
        guessed = marker_columns(predicted, "predictions", notes)
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
        markers = Markers(
            **{name: None if pd.isna(values.iloc[case]) else values.iloc[case] for name, values in columns.items()}
        )
        decided.append(_diagnose(markers))
    names = ("who2021_diagnosis", "who2021_grade", "who2021_rule")
    table = pd.DataFrame(decided, columns=list(names), index=frame.index)
    table = table.astype({"who2021_diagnosis": "string", "who2021_grade": "Int64", "who2021_rule": "string"})
    subtype = _subtype(columns["idh"], columns["codeleted"]).mask(columns["other"].notna())
    return table.assign(who2021_subtype=subtype)


def _subtype(idh: pd.Series, codeleted: pd.Series) -> pd.Series:
    """One of `SUBTYPES`; missing where IDH is not known, or 1p/19q of an IDH-mutant tumour."""
    wildtype, codel, non_codel = (flags.fillna(False) for flags in (~idh, idh & codeleted, idh & ~codeleted))
    found = pd.Series(pd.NA, index=idh.index, dtype="string")
    for name, flags in zip(SUBTYPES, (wildtype, codel, non_codel), strict=True):
        found = found.mask(flags.astype(bool), name)
    return found


def _diagnose(m: Markers) -> tuple[str | None, int | None, str]:
    if m.other:
        return None, None, f"undetermined: {m.other}, which is no adult-type diffuse glioma"
    if m.contradicts:
        return None, None, "undetermined: IDH status and subtype contradict each other"
    if m.idh is None:
        why = "IDH status is not known"
        if m.idh1 is not None and not m.idh1:
            why = "IDH1 is not mutated, IDH2 is not known"
        if m.only_r132h:
            why = "IDH1 has no R132H, other mutations of IDH1 and IDH2 are not excluded"
        return None, None, f"undetermined: {why}"
    return _idh_mutant(m) if m.idh else _idh_wildtype(m)


def _idh_mutant(m: Markers) -> tuple[str | None, int | None, str]:
    if m.codeleted is None:
        why = f"{m.arm} is lost, the other arm is not known" if m.arm else "1p/19q status is not known"
        return None, None, f"undetermined: IDH-mutant, {why}"
    if m.codeleted:
        grade = m.grade if m.grade in (2, 3) else None
        odd = f"; grade {m.grade} does not exist for it" if m.grade and grade is None else ""
        return OLIGODENDROGLIOMA, grade, f"IDH-mutant, 1p/19q-codeleted{odd}"
    if m.cdkn2:
        return ASTROCYTOMA, 4, "IDH-mutant, not 1p/19q-codeleted; grade 4 by homozygous deletion of CDKN2A/B"
    unknown = "; CDKN2A/B status is not known" if m.cdkn2 is None else ""
    unknown += "; by loss or mutation of ATRX no codeletion needs to be excluded" if m.by_atrx else ""
    grade = m.grade if m.grade in (2, 3, 4) else None
    odd = f"; grade {m.grade} does not exist for it" if m.grade and grade is None else ""
    return ASTROCYTOMA, grade, f"IDH-mutant, not 1p/19q-codeleted; grade by histology{unknown}{odd}"


def _idh_wildtype(m: Markers) -> tuple[str | None, int | None, str]:
    criteria = {
        "grade 4 histology": None if m.grade is None else m.grade == 4,
        "TERT promoter mutation": m.tert,
        "EGFR amplification": m.egfr,
        "+7/−10": m.gain7_loss10,
    }
    met = [name for name, holds in criteria.items() if holds]
    if met:
        by_age = f"; {'no R132H' if m.only_r132h else 'IDH1 is not mutated'}, {BY_AGE}" if m.by_age else ""
        return GLIOBLASTOMA, 4, f"IDH-wildtype with {', '.join(met)}{by_age}"
    unknown = [name for name, holds in criteria.items() if holds is None]
    rest = f"not known: {', '.join(unknown)}" if unknown else "none of the criteria of glioblastoma is met"
    return None, None, f"undetermined: IDH-wildtype; {rest}"
