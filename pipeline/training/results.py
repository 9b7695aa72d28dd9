"""The folds' results put together: `predictions.csv`, `rivals.csv` and `metrics.json`."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.catalogue import MODELS
from pipeline.metrics import (
    Report,
    c_index,
    classification_by_fold,
    macro_auc,
    paired_difference,
    survival_by_fold,
)
from pipeline.metrics.conformal import COLUMN
from pipeline.tasks import TASKS
from pipeline.tasks.survival import CURVE_MONTHS
from pipeline.training.fold_job import FoldJob, TaskJobs
from pipeline.training.plan import TaskPlan
from pipeline.training.summary import by_pattern, conformal, coverage, headline, validated, with_sets
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
    told = collect_predictions(plan, jobs.model, labels, cases)
    report = evaluate(plan, jobs.model, told, n_boot=n_boot, seed=seed)
    tested, rivals = _tested(jobs.model, told), []
    told = _with_sets(plan, jobs.model, told)
    if plan.vocabulary:
        report["sets"] = coverage(told[told["status"] == "tested"], n_boot=n_boot, seed=seed)
    for name, folds in jobs.rivals.items():
        rival = collect_predictions(plan, folds, labels, cases)
        own = _tested(folds, rival)
        report["rivals"][name] = _report(plan, tested, own, n_boot, seed) | {"reason": None}
        if genes := _subspaces(folds):
            notes = {"gene_notes": _gene_notes(folds), "slide_notes": _slide_notes(folds)}
            report["rivals"][name] |= {"subspaces": genes} | notes
        report["lead"][name] = _lead(plan, tested, own, n_boot, seed)
        rival = _with_sets(plan, folds, rival)
        rivals.append(rival[rival["status"] == "tested"].copy())
        rivals[-1].insert(2, "model", name)
    for name, folds in jobs.schemes.items():
        predictions = collect_predictions(plan, folds, labels, cases)
        report["schemes"][name] = evaluate(plan, folds, predictions, n_boot=n_boot, seed=seed)
    report["subspaces"] = _subspaces(jobs.model)
    report["gene_notes"] = _gene_notes(jobs.model)
    report["slide_notes"] = _slide_notes(jobs.model)
    return report, told, rivals


def _with_sets(plan: TaskPlan, jobs: list[FoldJob], told: pd.DataFrame) -> pd.DataFrame:
    """The predictions with the sets of classes, which survival has none of; columns in one order for all tasks."""
    if plan.vocabulary:
        told = with_sets(told, _out_of_fold(jobs, told), plan.vocabulary)
    else:
        told[COLUMN] = pd.NA
    first = [*FIRST, "rests_on", COLUMN, "spread"]
    return told[[name for name in first if name in told] + [name for name in told if name not in first]]


def summarise(plan: TaskPlan, jobs: TaskJobs, told: pd.DataFrame, *, n_boot: int, seed: int) -> dict[str, Any]:
    """What the model folder says of the training: who was in it, how well each pattern of inputs did, thresholds of sets."""
    out_of_fold = _out_of_fold(jobs.model, told)
    salt = jobs.model[-1].fingerprint()
    return {
        "training": {
            "n": len(plan.labelled),
            "validated": validated(plan.name, out_of_fold, plan.vocabulary, n_boot=n_boot, seed=seed),
            "conformal": conformal(out_of_fold, plan.vocabulary) if plan.vocabulary else None,
            "cases": {"salt": salt, "hashes": sorted(fingerprint(salt, case) for case in plan.labelled)},
        }
    }


def _out_of_fold(jobs: list[FoldJob], told: pd.DataFrame) -> pd.DataFrame:
    folds = [job for job in jobs if not job.is_final]
    return by_pattern(told[told["status"] == "tested"].reset_index(drop=True), _read_all(folds, "inputs.csv"))


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
    own = labels.loc[list(plan.labelled)]
    told["label"] = told["case_id"].map(TASKS[plan.name].describe(own))
    for column in TASKS[plan.name].label_columns if plan.name == "survival" else ():
        told[column] = told["case_id"].map(own[column])
    told["task"] = plan.name
    return told[FIRST + [name for name in told if name not in FIRST]].sort_values(["case_id", "fold"])


def evaluate(plan: TaskPlan, jobs: list[FoldJob], predictions: pd.DataFrame, *, n_boot: int, seed: int) -> Report:
    """Metrics of the model and of each baseline on the same test cases, and the model's lead over each."""
    tested = _tested(jobs, predictions)
    folds = [job for job in jobs if not job.is_final]
    report: Report = {"n": len(tested), "headline": headline(plan.name), "contender": jobs[0].contender.name}
    report["model"] = _report(plan, tested, tested, n_boot, seed)
    report["inputs"] = _by_input(plan, folds, tested, n_boot, seed)
    report |= {"rivals": {}, "baselines": {}, "lead": {}, "schemes": {}}
    for name, baseline in _read_all(folds, "baselines.csv").groupby("baseline", sort=False):
        own = tested[["case_id", "fold"]].merge(baseline, on=["case_id", "fold"], how="left")
        reasons = own["reason"].dropna().unique()
        report["baselines"][name] = _report(plan, tested, own, n_boot, seed) | {"reason": "; ".join(reasons) or None}
        report["lead"][name] = _lead(plan, tested, own, n_boot, seed)
    return report


def _tested(jobs: list[FoldJob], predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions that count, in one order for all predictors of the same folds; risks with their training median."""
    tested = predictions[predictions["status"] == "tested"].sort_values(["case_id", "fold"]).reset_index(drop=True)
    fitted = {job.fold.number: _describe(job)["fitted"] for job in jobs if not job.is_final}
    medians = {number: told.get("median_risk", float("nan")) for number, told in fitted.items()}
    return tested.assign(train_risk_median=tested["fold"].map(medians))


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
    names, omics = MODELS[jobs[-1].contender.model].subspaces, _describe(jobs[-1])["omics"]
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


def _by_input(plan: TaskPlan, folds: list[FoldJob], tested: pd.DataFrame, n_boot: int, seed: int) -> Report:
    """The same model on the cases that have slides and genes: shown both, slides alone, genes alone."""
    alone = _read_all(folds, "inputs.csv")
    if alone.empty:
        return {}
    has_both = tested[["case_id", "fold"]].merge(alone[["case_id", "fold"]].drop_duplicates(), on=["case_id", "fold"])
    shown = tested.merge(has_both, on=["case_id", "fold"]).reset_index(drop=True)
    reports = {"both": _report(plan, shown, shown, n_boot, seed)}
    for name, part in alone.groupby("input", sort=False):
        own = shown[["case_id", "fold", "train_risk_median"]].merge(part, on=["case_id", "fold"])
        reports[str(name)] = _report(plan, shown, own, n_boot, seed)
    return reports


def _describe(job: FoldJob) -> Mapping[str, Any]:
    return json.loads((job.out / "model" / "model.json").read_text(encoding="utf-8"))


def _truth(plan: TaskPlan, tested: pd.DataFrame) -> np.ndarray:
    return pd.Index(plan.vocabulary).get_indexer(pd.Index(tested["label"].astype(str)))


def _outputs(plan: TaskPlan, table: pd.DataFrame) -> np.ndarray:
    if plan.name == "survival":
        return table["risk"].to_numpy(float)
    return table[[f"probability_{name}" for name in plan.vocabulary]].to_numpy(float)


def _report(plan: TaskPlan, tested: pd.DataFrame, predictor: pd.DataFrame, n_boot: int, seed: int) -> Report:
    folds, outputs = tested["fold"].to_numpy(int), _outputs(plan, predictor)
    if plan.name != "survival":
        return classification_by_fold(_truth(plan, tested), outputs, plan.vocabulary, folds, n_boot=n_boot, seed=seed)
    return survival_by_fold(
        tested["survival_months"].to_numpy(float),
        tested["event"].to_numpy(bool),
        outputs,
        folds,
        curves=predictor[[f"survival_{month}m" for month in CURVE_MONTHS]].to_numpy(float),
        curve_times=np.array(CURVE_MONTHS, float),
        train_risk_median=predictor["train_risk_median"].to_numpy(float),
        n_boot=n_boot,
        seed=seed,
    )


def _lead(plan: TaskPlan, tested: pd.DataFrame, rival: pd.DataFrame, n_boot: int, seed: int) -> Any:
    """How much higher the model's headline is than the rival's, on the same resamples."""
    a, b, folds = _outputs(plan, tested), _outputs(plan, rival), tested["fold"].to_numpy(int)
    if plan.name == "survival":
        time, event = tested["survival_months"].to_numpy(float), tested["event"].to_numpy(bool)
        return paired_difference(lambda risk: c_index(time, event, risk, folds=folds), a, b, n_boot=n_boot, seed=seed)
    truth = _truth(plan, tested)
    return paired_difference(lambda told: macro_auc(truth, told, folds=folds), a, b, n_boot=n_boot, seed=seed)
