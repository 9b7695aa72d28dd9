"""The report of a run: the schema of `metrics.json`, written from these models and read back through them.

    {"format": 2, "tasks": {"grade": TaskReport, …}}

A `TaskReport` compares a model with its comparators and baselines; each predictor has a `PredictorReport`: metrics of all
tested cases pooled and, where there are folds, of each. Which metrics those are depends on the kind of task: each kind has
its own subclass of `CaseMetrics`, which its report is read with. `json_schema` gives the whole as JSON Schema.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from pipeline.metrics.bootstrap import Metric
from preprocessing.io.errors import InputError, count
from preprocessing.io.outputs import read_json

FORMAT = 2
METRICS = {  # display names of the keys of metrics.json; in others, underscores become spaces
    "c_index": "c-index",
    "c_index_across_folds": "c-index incl. pairs across folds",
    "uno_c_index": "Uno's c-index",
    "integrated_brier": "integrated Brier score",
    "macro_auc": "macro AUC",
    "macro_auc_across_folds": "macro AUC incl. pairs across folds",
    "micro_auc": "micro AUC",
    "micro_auc_across_folds": "micro AUC incl. pairs across folds",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "log_rank": "log-rank χ²",
    "p_value": "p-value",
    "calibration_error": "expected calibration error",
    "calibration_slope": "calibration slope",
    "d_calibration": "D-calibration p-value",
    "exact_match": "all labels right",
    "label_accuracy": "labels right",
    "mae": "mean absolute error",
    "rank_error": "mean rank error",
    "weighted_kappa": "quadratic weighted κ",
    "r2": "R²",
    "spearman": "Spearman's ρ",
}


class Part(BaseModel):
    """A part of the report: unchangeable, without unknown keys, and without numbers that JSON does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Trivial(Part):
    """What a prediction gets that has learned nothing from the inputs."""

    description: str = Field(description="the prediction in a few words")
    metrics: dict[str, Metric]


class CaseMetrics(Part):
    """Metrics of one predictor on one set of cases; each kind of task adds its own."""

    n: int = Field(description="cases")
    trivial: Trivial | None = None

    def basis(self) -> str:
        """What the metrics are computed from, in a few words."""
        return count(self.n, "case")

    def scalars(self) -> Iterator[tuple[str, Metric]]:
        """Each metric with its path in JSON below this object; those of single classes or of parts of the cases aside."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Metric):
                yield name, value
            elif isinstance(value, Mapping):
                yield from ((f"{name}/{key}", one) for key, one in value.items() if isinstance(one, Metric))

    def scalar(self, path: str) -> Metric:
        """The metric of that path; KeyError for one that there is not."""
        return dict(self.scalars())[path]


M = TypeVar("M", bound=CaseMetrics)


class FoldReport(Part, Generic[M]):
    """A fold's test cases."""

    fold: int
    metrics: SerializeAsAny[M]


class PredictorReport(Part, Generic[M]):
    """One predictor.

    Mean and standard deviation (n − 1) are those of the headline metric over the `n_folds` folds in which it could be
    computed; null where there are none (or one, for the standard deviation).
    """

    pooled: SerializeAsAny[M] = Field(description="all tested cases")
    folds: tuple[FoldReport[M], ...] = Field(description="by fold; empty where one model predicted all cases")
    mean: float | None = None
    sd: float | None = None
    n_folds: int = 0
    reason: str | None = Field(None, description="why a baseline could not be fitted")


class ModelNotes(Part):
    """What a model read, and what was decided about it, by job: `final`, and folds that differ from it."""

    subspaces: dict[str, tuple[str, ...]] = Field({}, description="genes of each group that the model is built upon")
    gene_notes: dict[str, tuple[str, ...]] = {}
    training_notes: dict[str, tuple[str, ...]] = {}
    stack: dict[str, dict[str, dict[str, float]]] = Field(
        {},
        description="weights of the network, the linear logits of genes and covariates and a network of slides only, learned from "
        "left-out training cases, by what a case has; they need not sum to 1; empty without linear logits",
    )


class SetsReport(Part):
    """Conformal prediction sets of the model, on tested cases."""

    promised: float = Field(description="share of the sets that contain the label, at least; 0 to 1")
    method: str
    n: int
    coverage: Metric = Field(
        description="share of the sets that contain the label; of several labels, over all known ones"
    )
    by_label: dict[str, Metric] = Field({}, description="of several labels, the coverage of each")
    mean_size: Metric


FEWEST_REFERENCE = 100  # training cases: of fewer, the 99th percentile of their distances is a guess


class CohortShift(Part):
    """A new cohort as a whole against the training cohort."""

    n: int = Field(description="cases of the cohort that were assessed, in this call or an earlier one")
    n_out_of_distribution: int
    n_borderline: int
    n_reference: int | None = Field(None, description="training cases that they were compared with; null: unknown")
    sentence: str = Field("", description="how most cases differ from the training cohort; empty: they do not")
    remedies: tuple[str, ...] = ()

    def limit(self) -> str:
        """What a comparison with few training cases cannot show, as a phrase; empty where they are enough."""
        if self.n_reference is None or self.n_reference >= FEWEST_REFERENCE:
            return ""
        return f"compared with only {count(self.n_reference, 'training case')}, which can reveal only large differences"


class CohortTransfer(Part):
    """Cases of one cohort, predicted by models of these cohorts."""

    scheme: str = Field(description="how the folds were split: case: by cases of all cohorts; cohort, cohort-pairs")
    train: tuple[str, ...] = Field(description="cohorts with training cases")
    test: str
    n: int = Field(description="tested cases")
    headline: dict[str, Metric] = Field(description="headline metric of the model and of each baseline, by name")


class TaskReport(Part, Generic[M]):
    """A task: the model and all that it is compared with, on the same test cases."""

    kind: str = Field(description="kind of task, which decides the metrics")
    n: int = Field(description="tested cases")
    headline: str = Field(description="the metric that predictors are compared by; higher is better")
    chance: float | None = Field(description="the headline of predictions unrelated to the label; null: there is none")
    model_name: str
    new_cohort: bool = Field(
        description="True: cases of another cohort, predicted by a trained model; False: out-of-fold"
    )
    model: PredictorReport[M]
    by_modality: dict[str, PredictorReport[M]] = Field(
        {}, description="cases with slides and genes, predicted from both, from slides only, from genes only"
    )
    modalities: dict[str, PredictorReport[M]] = Field(
        {}, description="of a new cohort, by the modalities that cases have"
    )
    comparators: dict[str, PredictorReport[M]] = Field({}, description="further models and variants, same folds")
    baselines: dict[str, PredictorReport[M]] = {}
    differences: dict[str, Metric] = Field(
        {}, description="headline of the model minus that of each other predictor, paired"
    )
    schemes: dict[str, "TaskReport[M]"] = Field({}, description="the same by further ways of splitting")
    transfer: tuple[CohortTransfer, ...] = Field((), description="of several cohorts: by cohorts of training and test")
    prediction_sets: SetsReport | None = None
    cohort_shift: CohortShift | None = Field(None, description="of a new cohort, against the training cohort")
    caveats: tuple[str, ...] = Field((), description="what limits these metrics, a sentence each")
    notes: ModelNotes = ModelNotes()
    comparator_notes: dict[str, ModelNotes] = {}
    excluded_features: dict[str, str] = Field(
        {}, description="features left out since they define the label, with the reason"
    )

    def others(self) -> dict[str, PredictorReport[M]]:
        """Comparators and baselines, by name."""
        return {**self.comparators, **self.baselines}


def report_by_fold(
    compute: Callable[[Bool[np.ndarray, " n"], int | None], M], folds: Int[np.ndarray, " n"], *, headline: str
) -> PredictorReport[M]:
    """The metrics of each fold's test cases and of all of them pooled.

    Args:
        compute: from the cases to be used (n,) and the fold's number (None: pooled) to their metrics.
        folds: number of the fold in which each case was a test case.
        headline: the metric whose mean and standard deviation over folds are given.
    """
    reports: list[FoldReport[M]] = [
        FoldReport(fold=int(fold), metrics=compute(folds == fold, int(fold))) for fold in np.unique(folds)
    ]
    found = [report.metrics.scalar(headline).value for report in reports]
    values = [value for value in found if value is not None]
    return PredictorReport(
        pooled=compute(np.ones(len(folds), dtype=bool), None),
        folds=tuple(reports),
        mean=float(np.mean(values)) if values else None,
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        n_folds=len(values),
    )


def to_json(
    reports: Mapping[str, TaskReport[Any]], cohort_shift: Mapping[str, CohortShift] | None = None
) -> dict[str, Any]:
    """`metrics.json`, from the reports by task.

    Args:
        reports: tasks with labels.
        cohort_shift: of a new cohort, by task; also of tasks without labels, which have no report.
    """
    content = {"format": FORMAT, "tasks": {name: report.model_dump(mode="json") for name, report in reports.items()}}
    shifts = {name: shift.model_dump(mode="json") for name, shift in (cohort_shift or {}).items()}
    return content | ({"cohort_shift": shifts} if shifts else {})


def read_reports(path: Path, metrics_of: Mapping[str, type[CaseMetrics]]) -> dict[str, TaskReport[Any]]:
    """The reports of a `metrics.json` by task.

    Args:
        path: the file.
        metrics_of: the metrics of each kind of task.

    Raises:
        InputError: the file is damaged, or was written by another version.
    """
    content = read_json(path)
    if content.get("format") != FORMAT:
        found = f"format {content['format']}" if "format" in content else "no format number"
        raise InputError(
            f"{path} has {found}, and this version reads format {FORMAT}: another version wrote it; draw the report "
            "with that version, or repeat the command of the run with another --out"
        )
    try:
        return {name: _read_task(task, metrics_of) for name, task in content["tasks"].items()}
    except ValidationError as error:
        problem = error.errors()[0]
        where = "/".join(map(str, problem["loc"]))
        raise InputError(
            f"report: {path} is damaged ({where}: {problem['msg']}); give the run's command again"
        ) from None
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); repeat the command of the run") from None


def _read_task(content: Mapping[str, Any], metrics_of: Mapping[str, type[CaseMetrics]]) -> TaskReport[Any]:
    return _typed(metrics_of[content["kind"]]).model_validate(content)


def _typed(metrics: type[CaseMetrics]) -> type[TaskReport[Any]]:
    return TaskReport[metrics]  # type: ignore[valid-type]  # known when the program runs


def json_schema(metrics_of: Mapping[str, type[CaseMetrics]]) -> dict[str, Any]:
    """JSON Schema of `metrics.json`, with the metrics of each kind of task."""
    from pydantic import TypeAdapter

    kinds = [_typed(metrics) for metrics in metrics_of.values()]
    inputs = [(index, "validation", TypeAdapter(kind)) for index, kind in enumerate(kinds)]
    schemas, definitions = TypeAdapter.json_schemas(inputs)  # type: ignore[arg-type]  # "validation" is taken for any str
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "metrics.json",
        "type": "object",
        "required": ["format", "tasks"],
        "properties": {
            "format": {"const": FORMAT},
            "tasks": {"type": "object", "additionalProperties": {"anyOf": list(schemas.values())}},
        },
        **definitions,
    }


def metric_name(key: str) -> str:
    """Display name of a metric."""
    return METRICS.get(key, key.replace("_", " "))
