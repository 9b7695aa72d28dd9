"""Distribution shift of a new cohort: its slides and cases against the training cohort of each model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.inference.prediction import PreparedCohort, omics_matrix
from pipeline.inference.previous_table import FINGERPRINT, PreviousTable, with_checksums
from pipeline.inference.trained import Predictor
from pipeline.ood.profiles import GeneProfiles, SlideKeys, read_genes, read_profiles
from pipeline.ood.reference import DistributionShift
from pipeline.terminal.progress import track
from preprocessing.cohort import Cohort
from preprocessing.features.store import FeatureStore

TABLE = "distribution_shift.csv"
KEYS = ("task", "slide_id")
CASES_AT_ONCE = 32  # of which some tiles each are in memory


def assess_cases(
    requested: Mapping[str, Sequence[str]],
    predictors: Sequence[Predictor],
    prepared: PreparedCohort,
    cohort: Cohort,
    slides: Mapping[str, Sequence[SlideKeys]],
    *,
    store: FeatureStore,
) -> dict[str, DistributionShift]:
    """Assess, for each task, how far cases lie from the training cohort, in the modalities that their predictions use.

    Args:
        requested: cases by task.
        predictors: one for each task; those without a reference cohort are skipped.
        prepared: the cohort as the predictors read it.
        cohort: the new cases.
        slides: store keys of the slides, by case.
        store: the feature store.

    Returns:
        The distribution shift by task.
    """
    wanted = {task: set(cases) for task, cases in requested.items()}
    cases = list(dict.fromkeys(case for names in requested.values() for case in names))
    assessing = [(one, one.reference) for one in predictors if one.reference and wanted.get(one.task)]
    genes = {one.task: _gene_profiles(one, prepared, cohort) for one, _ in assessing}
    found: dict[str, list[DistributionShift]] = {one.task: [] for one, _ in assessing}
    parts = [cases[start : start + CASES_AT_ONCE] for start in range(0, len(cases), CASES_AT_ONCE)] if assessing else []
    for part in track(parts, stage="distribution shift", total=len(parts)):
        profiles = list(read_profiles(store, {case: slides.get(case, ()) for case in part}))
        for one, reference in assessing:
            in_task = wanted[one.task]
            read = [slide for slide in profiles if one.reads_slides and slide.case_id in in_task]
            of_task = genes[one.task]
            of_part = of_task.take([case for case in part if case in in_task]) if of_task else None
            found[one.task].append(reference.assess(read, of_part))
    return {task: _concatenated(shifts) for task, shifts in found.items() if shifts}


def _gene_profiles(predictor: Predictor, prepared: PreparedCohort, cohort: Cohort) -> GeneProfiles | None:
    """Gene profiles of the cases whose predictions use genes; None where there are none, or covariates only."""
    scaler, rows = predictor.reference_scaler, prepared.members[predictor.task][0].data.rows
    cases = [case for case in cohort.omics.case_ids if case in rows]
    if scaler is None or not predictor.reads_genes or not cases:
        return None
    matrix = omics_matrix(predictor, scaler, cohort)
    profiles = None if matrix is None else read_genes(scaler, matrix.take(cases))
    return profiles if profiles is not None and profiles.values.shape[1] else None


def _concatenated(shifts: Sequence[DistributionShift]) -> DistributionShift:
    slides, cases = [shift.slides for shift in shifts], [shift.cases for shift in shifts]
    return DistributionShift(*(pd.concat(tables, ignore_index=True) for tables in (slides, cases)))


def not_assessed(
    folder: Path,
    predictors: Sequence[Predictor],
    slides: Mapping[str, Sequence[SlideKeys]],
    fingerprints: Mapping[str, Mapping[str, str]],
) -> set[tuple[str, str]]:
    """Pairs of task and case whose slides must be assessed, and are not yet in the table of an earlier call.

    Args:
        folder: the run folder.
        predictors: one for each task.
        slides: store keys of the slides, by case.
        fingerprints: of each case's inputs, by task.
    """
    known = PreviousTable(folder / TABLE, KEYS).case_fingerprints()
    return {
        (one.task, case)
        for one in predictors
        if one.reference and one.reads_slides
        for case, mark in fingerprints[one.task].items()
        if slides.get(case) and known.get((one.task, case)) != mark
    }


def shift_table(
    folder: Path,
    shifts: Mapping[str, DistributionShift],
    requested: Mapping[str, Sequence[str]],
    fingerprints: Mapping[str, Mapping[str, str]],
) -> pd.DataFrame:
    """Build `distribution_shift.csv`: a row for each task and slide, with its measures, flags and verdict.

    Args:
        folder: the run folder, with the table of an earlier call if there was one.
        shifts: by task.
        requested: the cases that were assessed now, by task; rows of other cases are kept.
        fingerprints: of each case's inputs, by task.
    """
    previous = PreviousTable(folder / TABLE, KEYS).without(requested)
    tables = [pd.DataFrame(columns=["task", "slide_id", "case_id", FINGERPRINT])]
    for task, shift in shifts.items():
        rows = shift.slides.assign(**{FINGERPRINT: shift.slides["case_id"].map(fingerprints[task])})
        rows.insert(0, "task", task)
        tables.append(rows)
    return with_checksums(previous.updated(pd.concat([one for one in tables if len(one)] or tables)))
