"""The folds' results put together: `predictions.csv`, `rivals.csv` and `metrics.json`."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.catalogue import MODELS
from pipeline.metrics import Report
from pipeline.metrics.conformal import COLUMN
from pipeline.tasks import TASKS, FittedTask
from pipeline.training.evaluation import Evaluation
from pipeline.training.fold_job import FoldJob, TaskJobs
from pipeline.training.plan import TaskPlan
from pipeline.training.summary import by_pattern, conformal, coverage, validated, with_sets
from preprocessing.io.fingerprints import fingerprint

FIRST = ["case_id", "task", "fold", "status", "label", "prediction"]  # columns of the predictions


def conclude(
    plan: TaskPlan, jobs: TaskJobs, labels: pd.DataFrame, cases: pd.DataFrame, *, n_boot: int, seed: int
) -> tuple[Report, pd.DataFrame, list[pd.DataFrame]]:
    """The report of a task, its model's predictions, and those of each rival for the cases that were tested.

    Args:
        plan: the task.
        jobs: its jobs, finished.
        labels: of the usable cases.
        cases: the audit of all cases.
        n_boot: resamples behind each interval.
        seed: of the resamples.
    """
    predictions = collect_predictions(plan, jobs.model, labels, cases)
    evaluation = _evaluation(plan, jobs.model, predictions, n_boot, seed)
    report, rivals = evaluate(evaluation, jobs.model), []
    predictions = _with_sets(evaluation.task, jobs.model, predictions)
    if sets := evaluation.task.sets:
        tested = predictions[predictions["status"] == "tested"]
        report["sets"] = coverage(sets, tested, n_boot=n_boot, seed=seed)
    for name, folds in jobs.rivals.items():
        rival = collect_predictions(plan, folds, labels, cases)
        own = _evaluation(plan, folds, rival, n_boot, seed).cases
        report["rivals"][name] = evaluation.of(own) | {"reason": None}
        if genes := _subspaces(folds):
            notes = {"gene_notes": _gene_notes(folds), "slide_notes": _slide_notes(folds)}
            report["rivals"][name] |= {"subspaces": genes} | notes
        report["lead"][name] = evaluation.difference(own)
        rival = _with_sets(evaluation.task, folds, rival)
        rivals.append(rival[rival["status"] == "tested"].copy())
        rivals[-1].insert(2, "model", name)
    for name, folds in jobs.schemes.items():
        further = collect_predictions(plan, folds, labels, cases)
        report["schemes"][name] = evaluate(_evaluation(plan, folds, further, n_boot, seed), folds)
    report["subspaces"] = _subspaces(jobs.model)
    report["gene_notes"] = _gene_notes(jobs.model)
    report["slide_notes"] = _slide_notes(jobs.model)
    return report, predictions, rivals


def _with_sets(task: FittedTask, jobs: list[FoldJob], predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions with their conformal sets, where the task has some; columns in one order for all tasks."""
    if task.sets:
        predictions = with_sets(task.sets, predictions, _out_of_fold(jobs, predictions))
    else:
        predictions[COLUMN] = pd.NA
    first = [*FIRST, "rests_on", COLUMN, "spread"]
    return predictions[
        [name for name in first if name in predictions] + [name for name in predictions if name not in first]
    ]


def summarise(plan: TaskPlan, jobs: TaskJobs, predictions: pd.DataFrame, *, n_boot: int, seed: int) -> dict[str, Any]:
    """What the model folder says of the training: who was in it, how well each pattern of inputs did, thresholds of sets."""
    out_of_fold, task = _out_of_fold(jobs.model, predictions), _fitted(plan, jobs.model[-1])
    salt = jobs.model[-1].fingerprint()
    return {
        "training": {
            "n": len(plan.labelled),
            "validated": validated(task, out_of_fold, n_boot=n_boot, seed=seed),
            "conformal": conformal(task.sets, out_of_fold) if task.sets else None,
            "cases": {"salt": salt, "hashes": sorted(fingerprint(salt, case) for case in plan.labelled)},
        }
    }


def _out_of_fold(jobs: list[FoldJob], predictions: pd.DataFrame) -> pd.DataFrame:
    folds = [job for job in jobs if not job.is_final]
    tested = predictions[predictions["status"] == "tested"].reset_index(drop=True)
    return by_pattern(tested, _read_all(folds, "inputs.csv"))


def collect_predictions(plan: TaskPlan, jobs: list[FoldJob], labels: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """A row for every case that came in.

    `status` is `tested` (predicted by the fold that did not train on it), `unlabelled` (no label: predicted by the final
    model), `untested` (in no fold's test set) or `left out` (`cases.csv` says why).

    Args:
        plan: the task.
        jobs: its folds and the final model, finished.
        labels: of the usable cases.
        cases: the audit of all cases.
    """
    parts = [
        pd.read_csv(job.out / "predictions.csv", dtype={"case_id": str, "prediction": str})
        for job in jobs
        if job.fold.test
    ]
    told = pd.concat(parts) if parts else pd.DataFrame({"case_id": [], "task": [], "fold": []})
    told["status"] = np.where(told["case_id"].isin(plan.unlabelled), "unlabelled", "tested")
    told["fold"] = told["fold"].where(told["status"] == "tested").astype("Int64")
    silent = cases.loc[~cases["case_id"].isin(told["case_id"]), ["case_id", "status"]].copy()
    silent["status"] = silent["status"].where(silent["status"] == "left out", "untested")
    told = pd.concat([told, silent], ignore_index=True)
    for column, values in TASKS[plan.name].truth(labels.loc[list(plan.labelled)]).items():
        told[column] = told["case_id"].map(values)
    told["task"] = plan.name
    return told[FIRST + [name for name in told if name not in FIRST]].sort_values(["case_id", "fold"])


def evaluate(evaluation: Evaluation, jobs: list[FoldJob]) -> Report:
    """Metrics of the model, from each modality alone and of each baseline on the same test cases, and its lead over each."""
    folds = [job for job in jobs if not job.is_final]
    report = evaluation.report(jobs[0].candidate.name, _read_all(folds, "baselines.csv"))
    report["inputs"] = _by_input(evaluation, _read_all(folds, "inputs.csv"))
    return report


def _evaluation(plan: TaskPlan, jobs: list[FoldJob], predictions: pd.DataFrame, n_boot: int, seed: int) -> Evaluation:
    """The predictions that count, in one order for all predictors of the same folds, with what each fold's model fitted."""
    tested = predictions[predictions["status"] == "tested"].sort_values(["case_id", "fold"]).reset_index(drop=True)
    fitted = {job.fold.number: _fitted(plan, job) for job in jobs if not job.is_final}
    by_fold = pd.DataFrame({number: task.training_columns() for number, task in fitted.items()}).T
    for column in by_fold:
        tested[column] = tested["fold"].map(by_fold[column])
    return Evaluation(next(iter(fitted.values())), tested, by_fold=True, n_boot=n_boot, seed=seed)


def _fitted(plan: TaskPlan, job: FoldJob) -> FittedTask:
    return TASKS[plan.name].restore(_describe(job)["fitted"])


def _gene_notes(jobs: list[FoldJob]) -> dict[str, list[str]]:
    """What was decided about the genes for the last job, which is the final model's if there is one, and where others differ."""
    notes = {job.out.name: (_describe(job)["omics"] or {"notes": []})["notes"] for job in jobs}
    last = jobs[-1].out.name
    return {name: own for name, own in notes.items() if name == last or own != notes[last]}


def _slide_notes(jobs: list[FoldJob]) -> dict[str, list[str]]:
    """How each job's model read the slides of its training cases, where there is something to say."""
    told = {job.out.name: _describe(job)["slide_notes"] for job in jobs}
    return {name: notes for name, notes in told.items() if notes}


def _subspaces(jobs: list[FoldJob]) -> dict[str, list[str]]:
    """The genes of each group that the model is built upon, as the last job had them; empty for other models, and without genes."""
    names, omics = MODELS[jobs[-1].candidate.model].subspaces, _describe(jobs[-1])["omics"]
    return {name: omics["groups"][name] for name in names} if omics else {}


def _read_all(jobs: list[FoldJob], name: str) -> pd.DataFrame:
    """The tables of that name that the folds wrote; empty where they wrote none."""
    paths = [job.out / name for job in jobs if (job.out / name).is_file()]
    tables = [pd.read_csv(path, dtype={"case_id": str, "prediction": str}) for path in paths]
    return (
        pd.concat(tables, ignore_index=True)
        if tables
        else pd.DataFrame(columns=["case_id", "fold", "baseline", "input"])
    )


def _by_input(evaluation: Evaluation, alone: pd.DataFrame) -> Report:
    """The same model on the cases that have slides and genes: from both, from slides only, from genes only."""
    if alone.empty:
        return {}
    both = evaluation.among(alone)
    return {"both": both.of(both.cases)} | {
        str(name): both.of(both.matched(rows)) for name, rows in alone.groupby("input", sort=False)
    }


def _describe(job: FoldJob) -> Mapping[str, Any]:
    return json.loads((job.out / "model" / "model.json").read_text(encoding="utf-8"))
