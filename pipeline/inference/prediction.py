"""Predictions of trained models for a new cohort, a few cases at a time: only their bags are in memory."""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.validation import describe_validation
from pipeline.inference.previous_table import hash_text
from pipeline.inference.trained import Predictor
from pipeline.metrics.conformal import COLUMN
from pipeline.model_folders.model_folder import TrainedModel
from pipeline.planning.modalities import used_modalities
from pipeline.terminal.progress import track
from pipeline.training.dataset import Bags, Dataset, absent_groups, dataset_for, known_covariates, with_covariates
from pipeline.training.fit import Predicted, cases_at_once, predict
from preprocessing.cohort import Cohort
from preprocessing.io.errors import InputError, count, some
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix, unknown_values
from preprocessing.omics.scaler import OmicsScaler

log = logging.getLogger(__name__)
PROCEDURE = 2  # raise it whenever the same inputs get another prediction or distribution shift; 1 filled missing genes by medians
BAG_BYTES = 1 << 29  # of bags in memory, unless a single case has more: those of the cases that are predicted together


@dataclass(frozen=True)
class MemberInputs:
    """A new cohort as one trained model reads it.

    Attributes:
        model: the model.
        data: bags and scaled genes; a case that lacks too many genes has none.
        missing: share of the model's genes that are missing and were estimated, 0 to 1, of each case in the gene table.
        absent: gene groups with too many missing genes, likewise; they are set to the mean of the training cases.
        fingerprints: hash of the genes as the model reads them, likewise.
    """

    model: TrainedModel
    data: Dataset
    missing: Mapping[str, float]
    absent: Mapping[str, tuple[str, ...]]
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class PreparedCohort:
    """A new cohort as all predictors read it.

    Attributes:
        bags: of all cases; empty where no predictor reads slides.
        members: by task, the inputs of each member of the predictor.
        fingerprints: by task and usable case, a hash of everything its prediction depends on: `PROCEDURE`, model, slides
            and genes.
    """

    bags: Bags
    members: Mapping[str, Sequence[MemberInputs]]
    fingerprints: Mapping[str, Mapping[str, str]]


def prepare_cohort(
    predictors: Sequence[Predictor],
    cohort: Cohort,
    features: Mapping[str, str],
    *,
    store: str,
    max_missing: float,
    max_patches: int | None = None,
) -> PreparedCohort:
    """Prepare a cohort for all predictors; bags are read on demand and kept while their cases are predicted.

    Args:
        predictors: one for each task.
        cohort: the new cases.
        features: key in the store of each usable slide's features.
        store: the feature store.
        max_missing: share of missing genes, 0 to 1, above which a gene group counts as absent.
        max_patches: tiles that are read of a case; of a larger one always the same random sample.

    Raises:
        InputError: a gene table that contains none of the model's genes.
    """
    by_case = cohort.slides_by_case(features)
    keys = {case: tuple(features[slide.slide_id] for slide in slides) for case, slides in by_case.items()}
    bags, no_bags = Bags(store, keys, keep_bytes=BAG_BYTES, max_patches=max_patches), Bags(store, {})
    members = {
        one.task: [
            _member_inputs(one, member, cohort, bags if one.reads_slides else no_bags, max_missing)
            for member in one.members
        ]
        for one in predictors
    }
    used = cohort.used_cases(features)
    bound = () if max_patches is None else (f"up to {max_patches} tiles",)
    fingerprints = {
        one.task: {case: _fingerprint(one, members[one.task], case, (*keys.get(case, ()), *bound)) for case in used}
        for one in predictors
    }
    read = bags if any(one.reads_slides for one in predictors) else no_bags
    return PreparedCohort(read, members, fingerprints)


def _member_inputs(
    predictor: Predictor, member: TrainedModel, cohort: Cohort, bags: Bags, max_missing: float
) -> MemberInputs:
    scaler = member.scaler
    matrix = omics_matrix(predictor, scaler, cohort) if scaler else None
    if scaler is None or matrix is None:
        mean_genes = () if scaler is None else tuple(group[None] for group in scaler.average())
        return MemberInputs(member, Dataset(bags, member.patch_dim, {}, mean_genes), {}, {}, {})
    absent = absent_groups(scaler, matrix, max_missing)
    names = np.array(list(scaler.groups))
    values = scaler.aligned(matrix)
    return MemberInputs(
        model=member,
        data=dataset_for(scaler, matrix, bags, patch_dim=member.patch_dim, max_missing=max_missing),
        missing=dict(zip(matrix.case_ids, np.isnan(values).mean(axis=1).tolist(), strict=True)),
        absent={case: tuple(names[lost].tolist()) for case, lost in zip(matrix.case_ids, absent, strict=True)},
        fingerprints={
            case: hashlib.sha256(row.tobytes() + lost.tobytes()).hexdigest()
            for case, row, lost in zip(matrix.case_ids, values, absent, strict=True)
        },
    )


def omics_matrix(predictor: Predictor, scaler: OmicsScaler, cohort: Cohort) -> OmicsMatrix | None:
    """Join the genes and covariates of a cohort that a model reads, unscaled; absent covariates are NaN.

    Returns:
        The matrix of all cases that have any; None if none has.
    """
    molecular = cohort.omics.without(predictor.metadata.defining)
    labels = cohort.labels.reindex(cohort.labels.index.union(list(molecular.case_ids)))
    covariates = known_covariates(labels, predictor.metadata.covariates)
    if not molecular.features and not covariates:
        return None
    return with_covariates(molecular, labels, covariates, features=scaler.features)


def _fingerprint(predictor: Predictor, members: Sequence[MemberInputs], case: str, features: Sequence[str]) -> str:
    parts = [str(PROCEDURE), predictor.fingerprint, *features, *(one.fingerprints.get(case, "") for one in members)]
    return hash_text(hashlib.sha256("\n".join(parts).encode()).hexdigest())


def log_missing_genes(
    predictor: Predictor, members: Sequence[MemberInputs], cohort: Cohort, *, max_missing: float
) -> dict[str, Any]:
    """Warn of model genes that the gene table lacks, and of cases in which a gene group or all genes count as absent.

    Args:
        predictor: of one task.
        members: the cohort as its members read it.
        cohort: the new cases.
        max_missing: share of missing genes, 0 to 1, above which a gene group counted as absent.

    Returns:
        The same for run.json: names of the missing genes and numbers of cases; empty if genes play no part.
    """
    first = members[0]
    scaler = first.model.scaler
    if scaler is None or not cohort.omics.features or not predictor.reads_genes:
        return {}
    known = set(cohort.omics.features)
    missing = [name for name in _gene_names(scaler.groups) if name not in known]
    used = set(cohort.used_cases())
    without_genes = [case for case in first.fingerprints if case in used and case not in first.data.rows]
    absent = {case: set(first.absent[case]) for case in first.absent if case in used.difference(without_genes)}
    without_group = [case for case, groups in absent.items() if groups - {COVARIATE}]
    without_covariates = [case for case, groups in absent.items() if COVARIATE in groups]
    if missing:
        message = "task %s: %d of the model's genes are missing from the gene table and are %s: %s"
        source = "estimated from the others" if scaler.imputer else "set to the training median"
        log.warning(message, predictor.task, len(missing), source, some(missing))
    if without_genes:
        message = (
            "task %s: %s with too few of the model's genes, treated as without genes: %s; "
            "--set max_missing_genes=… allows a larger share of each gene group than %g"
        )
        log.warning(message, predictor.task, count(len(without_genes), "case"), some(without_genes), max_missing)
    if without_group:
        message = "task %s: in %s at least one gene group lacks too many genes and counts as absent: %s"
        log.warning(message, predictor.task, count(len(without_group), "case"), some(without_group))
    if without_covariates:
        message = "task %s: the covariates of the model (%s) are missing in %s and count as absent: %s"
        names = ", ".join(predictor.metadata.covariates)
        log.warning(message, predictor.task, names, count(len(without_covariates), "case"), some(without_covariates))
    return {
        "missing_genes": missing,
        "cases_without_genes": len(without_genes),
        "cases_without_a_gene_group": len(without_group),
    }


def log_unknown_values(predictor: Predictor, cohort: Cohort) -> None:
    """Warn of values of text covariates that the model was not trained on, as of a scanner or a hospital."""
    scaler = predictor.members[0].scaler
    if scaler is None:
        return
    for column, values in unknown_values(cohort.labels, predictor.metadata.covariates, scaler.features).items():
        message = "task %s: covariate %s has values that the model was not trained on, and that count as missing: %s"
        log.warning(message, predictor.task, column, some(values))


def _gene_names(groups: Mapping[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(name for group, members in groups.items() if group != COVARIATE for name in members))


# --- Predictions ------------------------------------------------------------------------------------------------------


def predict_cases(
    requested: Mapping[str, Sequence[str]],
    predictors: Sequence[Predictor],
    prepared: PreparedCohort,
    *,
    device: str,
) -> dict[str, pd.DataFrame]:
    """Predict the requested cases of each task; each bag is read once for all tasks.

    Args:
        requested: cases by task.
        predictors: one for each task.
        prepared: the cohort as they read it.
        device: "cpu" or "cuda".

    Returns:
        By task a row for each case: `case_id`, `status`, `reason`, `modalities`, `cross_validation`, `missing_gene_share`,
        `missing_gene_groups`, then the task's predictions. `status` is `predicted`, or `not predicted` for a case without any
        modality that the model reads, with the reason and no prediction.

    Raises:
        InputError: patch features of another width than the model's.
    """
    every = list(dict.fromkeys(case for cases in requested.values() for case in cases))
    for one in predictors:
        for member in one.members:
            member.model.to(device)
    rows: dict[str, list[dict[str, Any]]] = {one.task: [] for one in predictors}
    outputs: dict[str, list[list[Predicted]]] = {one.task: [] for one in predictors}

    def predicted() -> Iterator[str]:
        for together in cases_at_once(prepared.bags, every, device=device):
            for one in predictors:
                wanted, members = set(requested.get(one.task, ())), prepared.members[one.task]
                found = [_describe_case(case, one, members[0]) for case in together if case in wanted]
                rows[one.task] += found
                if cases := [row["case_id"] for row in found if row["status"] == "predicted"]:
                    outputs[one.task].append([predict(m.model.model, m.data, cases, device=device) for m in members])
            yield from together

    for case in track(predicted(), stage="prediction", total=len(every), things="cases"):
        log.debug("prediction %s: done", case)
    return {
        one.task: _with_predictions(one, pd.DataFrame(rows[one.task]), outputs[one.task])
        for one in predictors
        if rows[one.task]
    }


def _describe_case(case: str, predictor: Predictor, inputs: MemberInputs) -> dict[str, Any]:
    """The row of a case, but for its predictions."""
    data = inputs.data
    features, _ = data.bags.read(case)
    if len(features) and features.shape[1] != data.patch_dim:
        raise InputError(
            f"case {case}: its patch features have {features.shape[1]} values, and the model {predictor.folder} reads "
            f"{data.patch_dim}; give features of the model's encoder"
        )
    pattern = used_modalities(slides=bool(len(features)), genes=predictor.reads_genes and case in data.rows)
    validated = {name: one.model_dump() for name, one in predictor.metadata.training.validated.items()}
    row: dict[str, Any] = {"case_id": case, "status": "predicted", "reason": "", "modalities": pattern}
    row["cross_validation"] = describe_validation(validated, pattern)
    row["missing_gene_share"] = inputs.missing.get(case, math.nan)
    row["missing_gene_groups"] = ";".join(inputs.absent.get(case, ()))
    if pattern:
        return row
    return row | {
        "status": "not predicted",
        "reason": _why_not_predicted(case, predictor, inputs),
        "cross_validation": "",
    }


def _why_not_predicted(case: str, predictor: Predictor, inputs: MemberInputs) -> str:
    genes = "too many genes of the model are missing (max_missing_genes)" if case in inputs.fingerprints else "no genes"
    if not predictor.reads_slides:
        return f"the model reads genes only: {genes}"
    return f"no slide, and {genes}" if predictor.reads_genes else "the model reads slides only: no slide"


def _with_predictions(predictor: Predictor, rows: pd.DataFrame, outputs: Sequence[Sequence[Predicted]]) -> pd.DataFrame:
    """The rows joined with the decoded predictions and, for classes, the prediction sets.

    Args:
        predictor: of the task.
        rows: of all cases.
        outputs: of those that are predicted, a few at a time, each by all members.
    """
    predicted = rows["status"] == "predicted"
    if not predicted.any():
        return rows
    parts, each = [], []
    for member, found in zip(predictor.members, zip(*outputs, strict=True), strict=True):
        joined = Predicted.joined(found)
        parts.append(member.task.decode(joined.logits))
        each += [member.task.decode(one) for one in joined.members]
    task, conformal = predictor.fitted, predictor.metadata.training.conformal
    pooled = task.with_ensemble_sd(task.pool(parts), each)
    if task.sets and conformal:
        n_labels = len(task.sets.labels)
        limits = np.full((len(pooled), *([n_labels] if n_labels else [])), math.inf)
        for row, pattern in enumerate(rows.loc[predicted, "modalities"]):
            if pattern in conformal.thresholds:
                limits[row] = conformal.thresholds[pattern].limits(n_labels)
        pooled.insert(1, COLUMN, task.sets.sets(pooled, limits))
    pooled.index = rows.index[predicted]
    return rows.join(pooled)


def predict_baselines(
    predictor: Predictor, members: Sequence[MemberInputs], labels: pd.DataFrame, cases: Sequence[str], *, device: str
) -> pd.DataFrame:
    """Predict cases by the baselines that were trained beside the model; predictions of several members are averaged.

    Args:
        predictor: of the task.
        members: the cohort as each member reads it.
        labels: clinical columns, which some baselines read, by case id.
        cases: whom to predict.
        device: "cpu" or "cuda".

    Returns:
        A row for each case and baseline: `case_id`, `baseline`, `reason` (why there is no prediction) and the predictions.
    """
    tables = []
    for member, inputs in zip(predictor.members, members, strict=True) if cases else ():
        if member.baselines:
            if member.baselines.slides:
                member.baselines.slides.model.to(device)
            tables.append(member.baselines.predict(labels, inputs.data, cases, device=device))
    if not tables:
        return pd.DataFrame(columns=["case_id", "baseline", "reason"])
    if len(tables) == 1:
        return tables[0]
    every = pd.concat(tables, ignore_index=True)
    grouped = every.groupby(["case_id", "baseline"], sort=False)
    reasons = grouped["reason"].first()
    return grouped.mean(numeric_only=True).join(reasons).reset_index()
