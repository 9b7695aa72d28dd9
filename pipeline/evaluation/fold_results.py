"""The folds' results put together: `predictions.csv`, `comparators.csv` and `metrics.json`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.catalogue import MODELS
from pipeline.evaluation.cohort_transfer import cohort_transfer
from pipeline.evaluation.model_evaluation import Evaluation
from pipeline.evaluation.validation import by_pattern, conformal, coverage, validated, with_sets
from pipeline.folds.fold_job import SINGLE_MODALITY, FoldJob, TaskJobs
from pipeline.metrics import Bootstrap, CohortTransfer, PredictorReport, TaskReport
from pipeline.metrics.conformal import COLUMN
from pipeline.metrics.report import ModelNotes
from pipeline.model_folders.profile_hashes import distinctive_features, profile_hashes
from pipeline.planning.plan import TaskPlan
from pipeline.tasks import FittedTask
from preprocessing.cohort import COHORT, cohorts_by_case
from preprocessing.io.fingerprints import fingerprint
from preprocessing.io.outputs import damaged, read_json, read_table
from preprocessing.omics.matrix import OmicsMatrix

FIRST = ["case_id", "task", "fold", "status", "label", "prediction"]  # columns of the predictions


def conclude(
    plan: TaskPlan, jobs: TaskJobs, labels: pd.DataFrame, cases: pd.DataFrame, *, bootstrap: Bootstrap
) -> tuple[TaskReport[Any], pd.DataFrame, list[pd.DataFrame]]:
    """The report of a task, its model's predictions, and those of each comparator for the cases that were tested.

    Args:
        plan: the task.
        jobs: its jobs, finished.
        labels: of the usable cases.
        cases: the audit of all cases.
        bootstrap: resamples behind the intervals.
    """
    predictions = collect_predictions(plan, jobs.model, labels, cases)
    evaluation = _evaluation(plan, jobs.model, predictions, bootstrap)
    report = evaluate(plan, evaluation, jobs.model)
    predictions = _with_sets(evaluation.task, jobs.model, predictions)
    found: dict[str, Any] = {"notes": _notes(jobs.model), "excluded_features": plan.defining}
    if sets := evaluation.task.sets:
        tested = predictions[predictions["status"] == "tested"]
        found["prediction_sets"] = coverage(sets, tested, bootstrap=bootstrap)
    others = {name: collect_predictions(plan, folds, labels, cases) for name, folds in jobs.comparators.items()}
    found |= _compared(plan, evaluation, report, jobs, others)
    found["schemes"], found["transfer"] = {}, _transfer(plan, evaluation, next(iter(plan.schemes)), jobs.model)
    for name, folds in jobs.schemes.items():
        further = _evaluation(plan, folds, collect_predictions(plan, folds, labels, cases), bootstrap)
        found["schemes"][name] = evaluate(plan, further, folds)
        found["transfer"] += _transfer(plan, further, name, folds)
    tables = []
    for name, table in others.items():
        table = _with_sets(evaluation.task, jobs.comparators[name], table)
        tables.append(table[table["status"] == "tested"].copy())
        tables[-1].insert(2, "model", name)
    return report.model_copy(update=found), predictions, tables


def _compared(
    plan: TaskPlan, evaluation: Evaluation, report: TaskReport[Any], jobs: TaskJobs, others: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Fields of a report on comparators: their metrics, the differences and their notes."""
    rows = {
        name: _evaluation(plan, jobs.comparators[name], table, evaluation.bootstrap).cases
        for name, table in others.items()
    }
    notes = {name: _notes(folds) for name, folds in jobs.comparators.items()}
    return {
        "comparators": {name: evaluation.of(table) for name, table in rows.items()},
        "differences": {name: evaluation.difference(table) for name, table in rows.items()} | report.differences,
        "comparator_notes": {name: one for name, one in notes.items() if one.subspaces},
    }


def _with_sets(task: FittedTask, jobs: list[FoldJob], predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions with their conformal sets, where the task has some; columns in one order for all tasks."""
    if task.sets:
        predictions = with_sets(task.sets, predictions, _out_of_fold(jobs, predictions))
    else:
        predictions[COLUMN] = pd.NA
    first = [FIRST[0], COHORT, *FIRST[1:], "modalities", COLUMN, "ensemble_sd"]
    return predictions[
        [name for name in first if name in predictions] + [name for name in predictions if name not in first]
    ]


def summarise(plan: TaskPlan, jobs: TaskJobs, predictions: pd.DataFrame, *, bootstrap: Bootstrap) -> dict[str, Any]:
    """Metadata of the model folder on the training: hashed cases, validation by modalities, thresholds of prediction sets."""
    out_of_fold, task = _out_of_fold(jobs.model, predictions), _fitted(plan, jobs.model[-1])
    salt = jobs.model[-1].fingerprint()
    return {
        "training": {
            "n": len(plan.labelled),
            "validated": validated(task, out_of_fold, bootstrap=bootstrap),
            "conformal": conformal(task.sets, out_of_fold) if task.sets else None,
            "cases": {
                "salt": salt,
                "hashes": sorted(fingerprint(salt, case) for case in plan.labelled),
                **_hashed_profiles(plan, jobs.model[-1], salt),
            },
        }
    }


def _hashed_profiles(plan: TaskPlan, final: FoldJob, salt: str) -> dict[str, Any]:
    """Features and hashes by which training cases are recognised under other ids; empty without genes."""
    if not final.omics.is_file():
        return {}
    omics = OmicsMatrix.load(final.omics)
    there = set(omics.case_ids)
    matrix = omics.take([case for case in plan.labelled if case in there])
    features = distinctive_features(matrix)
    return {"features": features, "profiles": sorted(profile_hashes(matrix, features, salt).values())}


def _out_of_fold(jobs: list[FoldJob], predictions: pd.DataFrame) -> pd.DataFrame:
    folds = [job for job in jobs if not job.is_final]
    tested = predictions[predictions["status"] == "tested"].reset_index(drop=True)
    return by_pattern(tested, _read_all(folds, SINGLE_MODALITY))


def collect_predictions(plan: TaskPlan, jobs: list[FoldJob], labels: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each input case (several where several folds test it).

    `status` is `tested` (predicted by the fold that did not train on it), `unlabelled` (no label: predicted by the final
    model), `untested` (in no fold's test set) or `left out` (`cases.csv` has the reason).

    Args:
        plan: the task.
        jobs: its folds and the final model, finished.
        labels: of the usable cases.
        cases: the audit of all cases.
    """
    parts = [_read_predictions(job) for job in jobs if job.fold.test]
    table = pd.concat(parts) if parts else pd.DataFrame({"case_id": [], "task": [], "fold": []})
    table["status"] = np.where(table["case_id"].isin(plan.unlabelled), "unlabelled", "tested")
    table["fold"] = table["fold"].where(table["status"] == "tested").astype("Int64")
    absent = cases.loc[~cases["case_id"].isin(table["case_id"]), ["case_id", "status"]].copy()
    absent["status"] = absent["status"].where(absent["status"] == "left out", "untested")
    table = pd.concat([table, absent], ignore_index=True)
    for column, values in plan.task.truth(plan.task.prepare(labels.loc[list(plan.labelled)])).items():
        table[column] = table["case_id"].map(values)
    table["task"] = plan.name
    if COHORT in labels:
        table.insert(1, COHORT, table["case_id"].map(labels[COHORT]))
    return table[FIRST + [name for name in table if name not in FIRST]].sort_values(["case_id", "fold"])


def evaluate(plan: TaskPlan, evaluation: Evaluation, jobs: list[FoldJob]) -> TaskReport[Any]:
    """Metrics of the model, from each modality only and of each baseline on the same test cases, and their differences."""
    folds = [job for job in jobs if not job.is_final]
    kind, name = plan.task.kind, jobs[0].candidate.name
    report = evaluation.report(kind, name, _baselines(folds))
    return report.model_copy(update={"by_modality": _by_modality(evaluation, _read_all(folds, SINGLE_MODALITY))})


def _transfer(plan: TaskPlan, evaluation: Evaluation, scheme: str, jobs: list[FoldJob]) -> tuple[CohortTransfer, ...]:
    """The headline by cohorts of training and test; nothing where there is a single cohort."""
    if COHORT not in evaluation.cases:
        return ()
    cohort_of, name = cohorts_by_case(jobs[0].labels), jobs[0].candidate.name
    return cohort_transfer(
        evaluation, plan.schemes[scheme], _baselines(jobs), cohort_of, scheme=scheme, model_name=name
    )


def _baselines(jobs: list[FoldJob]) -> pd.DataFrame:
    return _read_all([job for job in jobs if not job.is_final], "baselines.csv")


def _evaluation(plan: TaskPlan, jobs: list[FoldJob], predictions: pd.DataFrame, bootstrap: Bootstrap) -> Evaluation:
    """The predictions that count, in one order for all predictors of the same folds, with what each fold's model fitted."""
    tested = predictions[predictions["status"] == "tested"].sort_values(["case_id", "fold"]).reset_index(drop=True)
    fitted = {job.fold.number: _fitted(plan, job) for job in jobs if not job.is_final}
    by_fold = pd.DataFrame({number: task.training_columns() for number, task in fitted.items()}).T
    for column in by_fold:
        tested[column] = tested["fold"].map(by_fold[column])
    return Evaluation(next(iter(fitted.values())), tested, by_fold=True, bootstrap=bootstrap)


def _fitted(plan: TaskPlan, job: FoldJob) -> FittedTask:
    return plan.task.restore(_describe(job)["fitted"])


def _notes(jobs: list[FoldJob]) -> ModelNotes:
    """What was decided about genes and slides for the last job, the final model's if there is one, and where others differ.

    Subspaces are those of the last job; there are none for models that are not built upon any, and without genes.
    """
    described = {job.out.name: _describe(job) for job in jobs}
    last = jobs[-1].out.name
    genes = {name: (one["omics"] or {"notes": []})["notes"] for name, one in described.items()}
    training = {name: one["training_notes"] for name, one in described.items()}
    names, omics = MODELS[jobs[-1].candidate.model].subspaces, described[last]["omics"]
    return ModelNotes(
        subspaces={name: omics["groups"][name] for name in names} if omics else {},
        gene_notes={name: notes for name, notes in genes.items() if name == last or notes != genes[last]},
        training_notes={
            name: notes for name, notes in training.items() if notes and (name == last or notes != training[last])
        },
        stack={name: one["stack"] for name, one in described.items() if one["stack"]},
    )


def _read_predictions(job: FoldJob) -> pd.DataFrame:
    """The predictions of a fold's test cases; DamagedFileError where they are of other cases."""
    path = job.out / "predictions.csv"
    table = read_table(path, "case_id", "fold", dtype={"case_id": str, "prediction": str})
    if sorted(table["case_id"]) != sorted(job.fold.test):
        raise damaged(
            path, f"{len(table)} rows of {table['case_id'].nunique()} cases for {len(job.fold.test)} test cases"
        )
    return table


def _read_all(jobs: list[FoldJob], name: str) -> pd.DataFrame:
    """The tables of that name that the folds wrote; empty where they wrote none."""
    paths = [job.out / name for job in jobs if (job.out / name).is_file()]
    tables = [read_table(path, "case_id", "fold", dtype={"case_id": str, "prediction": str}) for path in paths]
    return (
        pd.concat(tables, ignore_index=True)
        if tables
        else pd.DataFrame(columns=["case_id", "fold", "baseline", "modality"])
    )


def _by_modality(evaluation: Evaluation, single: pd.DataFrame) -> dict[str, PredictorReport[Any]]:
    """Metrics of the model on the cases with slides and genes: from both, from slides only, from genes only."""
    if single.empty:
        return {}
    both = evaluation.among(single)
    return {"both": both.of(both.cases)} | {
        str(name): both.of(both.matched(rows)) for name, rows in single.groupby("modality", sort=False)
    }


def _describe(job: FoldJob) -> Mapping[str, Any]:
    return read_json(job.out / "model" / "model.json")
