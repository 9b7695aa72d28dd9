"""What trained models say of a new cohort, case by case: thousands of bags pass through, one at a time."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.inference.trained import Predictor
from pipeline.metrics.conformal import COLUMN
from pipeline.ood.profiles import Genes, SlideKeys, read_genes, read_profiles
from pipeline.ood.reference import Judgement
from pipeline.terminal.progress import track
from pipeline.training.dataset import Bags, Dataset, absent_groups, dataset_for, known_covariates, with_covariates
from pipeline.training.fit import predict
from pipeline.training.modalities import rests_on
from pipeline.training.model_folder import TrainedModel
from pipeline.training.summary import told_validated
from preprocessing.cohort import Cohort
from preprocessing.features.store import FeatureStore
from preprocessing.io.errors import InputError, some
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

log = logging.getLogger(__name__)
JUDGED_AT_ONCE = 32  # cases of which a few tiles each are in memory


@dataclass(frozen=True)
class Shown:
    """The cohort as one trained model takes it.

    Attributes:
        model: the model.
        data: bags and genes; a case of which too many genes are missing has none.
        missing: of each case in the gene table, the share of the model's genes that was imputed.
        absent: likewise the gene groups of which too much was missing: they stand at the training cases' typical value.
        marks: likewise a hash of the genes as the model takes them.
    """

    model: TrainedModel
    data: Dataset
    missing: Mapping[str, float]
    absent: Mapping[str, tuple[str, ...]]
    marks: Mapping[str, str]


@dataclass(frozen=True)
class Presented:
    """A new cohort as every predictor takes it.

    Attributes:
        members: by task, for each member of the predictor.
        marks: by task and case that can be used, a hash of all that its prediction depends on: model, slides, genes.
    """

    members: Mapping[str, Sequence[Shown]]
    marks: Mapping[str, Mapping[str, str]]


def present(
    predictors: Sequence[Predictor], cohort: Cohort, features: Mapping[str, str], *, store: str, max_missing: float
) -> Presented:
    """The cohort as the predictors take it; bags are read when they are wanted, and none is kept.

    Args:
        predictors: one a task.
        cohort: the new cases.
        features: group in the store of each good slide.
        store: the feature store.
        max_missing: share of a gene group beyond which the group counts as absent.
    """
    by_case = cohort.slides_by_case(features)
    keys = {case: tuple(features[slide.slide_id] for slide in slides) for case, slides in by_case.items()}
    bags, none = Bags(store, keys, keep_bytes=0), Bags(store, {})
    members = {
        one.task: [
            _shown(one, member, cohort, bags if one.reads_slides else none, max_missing) for member in one.members
        ]
        for one in predictors
    }
    used = cohort.used_cases(features)
    marks = {
        one.task: {case: _mark(one, members[one.task], case, keys.get(case, ())) for case in used} for one in predictors
    }
    return Presented(members, marks)


def _shown(predictor: Predictor, member: TrainedModel, cohort: Cohort, bags: Bags, max_missing: float) -> Shown:
    scaler = member.scaler
    matrix = _matrix(predictor, scaler, cohort) if scaler else None
    if scaler is None or matrix is None:
        nobody = () if scaler is None else tuple(group[None] for group in scaler.average())
        return Shown(member, Dataset(bags, member.patch_dim, {}, nobody), {}, {}, {})
    absent = absent_groups(scaler, matrix, max_missing)
    names = np.array(list(scaler.groups))
    values = scaler.aligned(matrix)
    return Shown(
        model=member,
        data=dataset_for(scaler, matrix, bags, patch_dim=member.patch_dim, max_missing=max_missing),
        missing=dict(zip(matrix.case_ids, np.isnan(values).mean(axis=1).tolist(), strict=True)),
        absent={case: tuple(names[lost].tolist()) for case, lost in zip(matrix.case_ids, absent, strict=True)},
        marks={
            case: hashlib.sha256(row.tobytes() + lost.tobytes()).hexdigest()
            for case, row, lost in zip(matrix.case_ids, values, absent, strict=True)
        },
    )


def _matrix(predictor: Predictor, scaler: OmicsScaler, cohort: Cohort) -> OmicsMatrix | None:
    """Genes and covariates of the cases that have some; None where none has. A covariate that is not there is missing."""
    molecular = cohort.omics.without(predictor.facts.defining)
    labels = cohort.labels.reindex(cohort.labels.index.union(list(molecular.case_ids)))
    known = known_covariates(labels, predictor.facts.covariates)
    if not molecular.features and not known:
        return None
    return with_covariates(molecular, labels, known, features=scaler.features)


def _mark(predictor: Predictor, shown: Sequence[Shown], case: str, features: Sequence[str]) -> str:
    parts = [predictor.fingerprint, *features, *(one.marks.get(case, "") for one in shown)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def log_missing(predictor: Predictor, shown: Sequence[Shown], cohort: Cohort) -> dict[str, Any]:
    """Tells once which genes of the model the tables lack, and of how many cases a group or all genes count as absent."""
    scaler = shown[0].model.scaler
    if scaler is None or not cohort.omics.features or not predictor.reads_genes:
        return {}
    known = {feature for feature in scaler.features if feature in set(cohort.omics.features)}
    lacking = [name for members in _gene_groups(scaler.groups) for name in members if name not in known]
    lost = [case for case in shown[0].marks if case not in shown[0].data.rows]
    partly = [case for case, groups in shown[0].absent.items() if groups and case not in lost]
    if lacking:
        log.warning(
            "task %s: %d of the model's genes are missing, imputed: %s", predictor.task, len(lacking), some(lacking)
        )
    if lost:
        log.warning(
            "task %s: %d cases count as without genes, too many are missing: %s", predictor.task, len(lost), some(lost)
        )
    if partly:
        log.warning("task %s: %d cases lack a group of genes: %s", predictor.task, len(partly), some(partly))
    return {"genes_missing": lacking, "cases_without_genes": len(lost), "cases_without_a_group": len(partly)}


def _gene_groups(groups: Mapping[str, list[str]]) -> list[list[str]]:
    return [list(dict.fromkeys(name for group, members in groups.items() if group != COVARIATE for name in members))]


# --- Predictions ------------------------------------------------------------------------------------------------------


@dataclass
class _Said:
    """What one member said so far: logits of the ensemble, and of each model in it."""

    logits: list[Float[np.ndarray, "1 K"]]
    each: list[Float[np.ndarray, "E 1 K"]]


def predict_cases(
    asked: Mapping[str, Sequence[str]],
    predictors: Sequence[Predictor],
    shown: Presented,
    *,
    device: str,
) -> dict[str, pd.DataFrame]:
    """What each predictor says of the cases that it is asked about; a bag is read once for all of them.

    Args:
        asked: cases by task.
        predictors: one a task.
        shown: the cohort as they take it.
        device: "cpu" or "cuda".

    Returns:
        By task a row a case: `case_id, status, reason, rests_on, …`. `status` is `predicted`, or `not predicted` where the
        case has nothing that the model reads; then `reason` says so and nothing else is told.
    """
    wanted = {task: set(cases) for task, cases in asked.items()}
    every = list(dict.fromkeys(case for cases in asked.values() for case in cases))
    said = {one.task: [_Said([], []) for _ in one.members] for one in predictors}
    rows: dict[str, list[dict[str, Any]]] = {one.task: [] for one in predictors}
    for one in predictors:
        for member in one.members:
            member.model.to(device)
    for case in track(every, stage="prediction", total=len(every)):
        for one in predictors:
            if case in wanted.get(one.task, ()):
                rows[one.task].append(_ask(case, one, shown.members[one.task], said[one.task], device))
    return {one.task: _told(one, pd.DataFrame(rows[one.task]), said[one.task]) for one in predictors if rows[one.task]}


def _ask(case: str, predictor: Predictor, shown: Sequence[Shown], said: Sequence[_Said], device: str) -> dict[str, Any]:
    first = shown[0]
    features, _ = first.data.bags.read(case)
    if len(features) and features.shape[1] != first.data.patch_dim:
        raise InputError(
            f"case {case}: its features are {features.shape[1]} wide, and the model {predictor.folder} takes "
            f"{first.data.patch_dim}; they were made by another encoder"
        )
    pattern = rests_on(slides=bool(len(features)), genes=predictor.reads_genes and case in first.data.rows)
    known = {name: one.model_dump() for name, one in predictor.facts.training.validated.items()}
    row: dict[str, Any] = {"case_id": case, "status": "predicted", "reason": "", "rests_on": pattern}
    row["validated"] = told_validated(known, pattern)
    row["genes_missing"] = first.missing.get(case, math.nan)
    row["groups_missing"] = ";".join(first.absent.get(case, ()))
    if not pattern:
        return row | {"status": "not predicted", "reason": _why_not(case, predictor, first), "validated": ""}
    for one, logits in zip(shown, said, strict=True):
        (output,) = predict(one.model.model, one.data, [case], device=device)
        logits.logits.append(output.logits.float().cpu().numpy())
        logits.each.append(output.extras["logits"].float().cpu().numpy())
    return row


def _why_not(case: str, predictor: Predictor, shown: Shown) -> str:
    lost = case in shown.marks
    genes = "too many of its genes are missing" if lost else "it has no genes"
    if not predictor.reads_slides:
        return f"the model looks at genes only, and {genes}"
    return (
        f"it has no slide, and {genes}" if predictor.reads_genes else "the model looks at slides only, and it has none"
    )


def _told(predictor: Predictor, rows: pd.DataFrame, said: Sequence[_Said]) -> pd.DataFrame:
    """The rows with what was predicted beside them, and the sets of classes."""
    predicted = rows["status"] == "predicted"
    if not predicted.any():
        return rows
    parts, each = [], []
    for member, logits in zip(predictor.members, said, strict=True):
        parts.append(member.task.decode(np.concatenate(logits.logits)))
        each += [member.task.decode(own) for own in np.concatenate(logits.each, axis=1)]
    task, conformal = predictor.fitted, predictor.facts.training.conformal
    told = task.with_spread(task.pool(parts), each)
    if task.sets and conformal:
        limits = [conformal.thresholds.get(pattern) for pattern in rows.loc[predicted, "rests_on"]]
        numbers = np.array([math.inf if one is None or one.threshold is None else one.threshold for one in limits])
        told.insert(1, COLUMN, task.sets.sets(told, numbers))
    told.index = rows.index[predicted]
    return rows.join(told)


# --- Likeness ---------------------------------------------------------------------------------------------------------


def judge_cases(
    asked: Mapping[str, Sequence[str]],
    predictors: Sequence[Predictor],
    shown: Presented,
    cohort: Cohort,
    slides: Mapping[str, Sequence[SlideKeys]],
    *,
    store: FeatureStore,
) -> dict[str, Judgement]:
    """How like its training cohort each predictor finds the cases, by task: by what its predictions of them rest on.

    Args:
        asked: cases by task.
        predictors: one a task; of those that brought no reference nothing is told.
        shown: the cohort as they take it.
        cohort: the new cases.
        slides: of each case that has some.
        store: where they are.
    """
    wanted = {task: set(cases) for task, cases in asked.items()}
    every = list(dict.fromkeys(case for cases in asked.values() for case in cases))
    judges = [(one, one.likeness.reference) for one in predictors if one.likeness and wanted.get(one.task)]
    genes = {one.task: _genes(one, shown, cohort) for one, _ in judges}
    found: dict[str, list[Judgement]] = {one.task: [] for one, _ in judges}
    parts = [every[start : start + JUDGED_AT_ONCE] for start in range(0, len(every), JUDGED_AT_ONCE)] if judges else []
    for part in track(parts, stage="likeness", total=len(parts)):
        profiles = list(read_profiles(store, {case: slides.get(case, ()) for case in part}))
        for one, reference in judges:
            own = [case for case in part if case in wanted[one.task]]
            seen = [slide for slide in profiles if one.reads_slides and slide.case_id in wanted[one.task]]
            own_genes = genes[one.task]
            found[one.task].append(reference.judge(seen, own_genes.take(own) if own_genes else None))
    return {task: _joined(own) for task, own in found.items() if own}


def _genes(predictor: Predictor, shown: Presented, cohort: Cohort) -> Genes | None:
    """The genes of the cases whose predictions rest on genes; None where there are none."""
    scaler = predictor.likeness.scaler if predictor.likeness else None
    rows = shown.members[predictor.task][0].data.rows
    cases = [case for case in cohort.omics.case_ids if case in rows]
    if scaler is None or not predictor.reads_genes or not cases:
        return None
    matrix = _matrix(predictor, scaler, cohort)
    genes = None if matrix is None else read_genes(scaler, matrix.take(cases))
    return genes if genes is not None and genes.values.shape[1] else None  # of covariates alone nothing is told


def _joined(parts: Sequence[Judgement]) -> Judgement:
    slides, cases = [part.slides for part in parts], [part.cases for part in parts]
    return Judgement(*(pd.concat(own, ignore_index=True) for own in (slides, cases)))


def predict_baselines(
    predictor: Predictor, shown: Sequence[Shown], labels: pd.DataFrame, cases: Sequence[str], *, device: str
) -> pd.DataFrame:
    """What the baselines that were trained beside the model say of the cases; those of several members averaged."""
    tables = []
    for member, own in zip(predictor.members, shown, strict=True) if cases else ():
        if member.baselines:
            if member.baselines.slides:
                member.baselines.slides.model.to(device)
            tables.append(member.baselines.predict(labels, own.data, cases, device=device))
    if not tables:
        return pd.DataFrame(columns=["case_id", "baseline", "reason"])
    if len(tables) == 1:
        return tables[0]
    every = pd.concat(tables, ignore_index=True)
    grouped = every.groupby(["case_id", "baseline"], sort=False)
    reasons = grouped["reason"].first()
    return grouped.mean(numeric_only=True).join(reasons).reset_index()
