"""Views of each kind of task, by its metrics: the only place where the report depends on the kind of a task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.baselines.number_baselines import VALUE
from pipeline.metrics import ClassificationMetrics, MultilabelMetrics, RegressionMetrics, SurvivalMetrics, TaskReport
from pipeline.run.finished import FinishedRun
from pipeline.tasks.classification import PROBABILITY
from pipeline.tasks.survival import outcome
from preprocessing.io.errors import count
from workflows.report import class_charts, number_charts, survival_charts
from workflows.report.chart import Chart, missing
from workflows.report.plain.phrasing import MODALITIES, comparator_name
from workflows.report.tables import Table, class_table


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of one predictor.

    Attributes:
        name: display name of the predictor.
        classes: class names.
        counts: number of cases by true class (rows) and predicted class; None where it could not be computed.
        reason: why it could not be computed; else empty.
    """

    name: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...] | None
    reason: str

    @property
    def shares(self) -> list[list[float]]:
        """Counts as shares of the true class (row), 0 to 1."""
        return [[count / max(1, sum(row)) for count in row] for row in self.counts or ()]


def _no_table(key: str, path: str, pooled: Any) -> Table | None:
    return None


def _nothing(*_: object) -> tuple[Any, ...]:
    return ()


def _no_summary(tested: pd.DataFrame) -> str:
    return ""


def _no_columns(columns: Sequence[str]) -> list[str]:
    return []


def _no_titles(columns: Sequence[str]) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class KindView:
    """Charts and tables specific to a kind of task.

    Attributes:
        charts: from the run, the name of the task, its report (None without metrics) and its test cases.
        table: further table from its key, the path of the pooled metrics in metrics.json and these metrics; None: none.
        confusions: confusion matrices from the report.
        summarise: summary of the test cases in a few words; may be empty.
        outputs: headers of the numeric output columns of predictions.csv by column name, from all column names.
        hidden: columns of predictions.csv omitted from the table of predictions, from all column names.
        is_decided: whether a prediction is either correct or incorrect.
    """

    charts: Callable[[FinishedRun, str, TaskReport[Any] | None, pd.DataFrame], tuple[Chart, ...]] = _nothing
    table: Callable[[str, str, Any], Table | None] = _no_table
    confusions: Callable[[TaskReport[Any]], tuple[Confusion, ...]] = _nothing
    summarise: Callable[[pd.DataFrame], str] = _no_summary
    outputs: Callable[[Sequence[str]], dict[str, str]] = _no_titles
    hidden: Callable[[Sequence[str]], list[str]] = _no_columns
    is_decided: bool = False


def kind_of(run: FinishedRun, task: str) -> KindView:
    """View of the task of this name, that of the nearest class of its metrics; where there is none, one without charts."""
    if task not in run.definitions:
        return KindView()
    classes = run.definitions[task].metrics_type.__mro__
    return next((VIEWS[one] for one in classes if one in VIEWS), KindView())


def truth_of(run: FinishedRun, task: str) -> list[str]:
    """Columns of predictions.csv with the true outcome or label of a task."""
    return list(run.definitions[task].truth_columns) or ["label"] if task in run.definitions else ["label"]


def _survival_charts(
    run: FinishedRun, name: str, report: TaskReport[SurvivalMetrics] | None, tested: pd.DataFrame
) -> tuple[Chart, ...]:
    if "risk" not in tested:
        return (
            missing(
                f"{name}-kaplan-meier", "Kaplan–Meier curves, AUC and calibration", "No case has a predicted risk."
            ),
        )
    groups = report.model.pooled.risk_groups if report else None
    no_labels = "Needs outcomes; this run has no metrics."
    return (
        survival_charts.kaplan_meier(f"{name}-kaplan-meier", tested, groups),
        survival_charts.survival_curves(f"{name}-curves", run.predicted(name)),
        survival_charts.auc_over_time(f"{name}-auc", tested, report)
        if report
        else missing(f"{name}-auc", "AUC over time", no_labels),
        survival_charts.survival_calibration(f"{name}-calibration", report)
        if report
        else missing(f"{name}-calibration", "Calibration", no_labels),
    )


def _events(tested: pd.DataFrame) -> str:
    known = survival_charts.evaluable(tested)
    return count(int(outcome(known)[1].sum()), "event") if len(known) else ""


def _class_charts(
    run: FinishedRun, name: str, report: TaskReport[ClassificationMetrics] | None, tested: pd.DataFrame
) -> tuple[Chart, ...]:
    if not report or "label" not in tested:
        return (missing(f"{name}-roc", "ROC, precision–recall and calibration curves", "Need labels; there are none."),)
    classes = report.model.pooled.confusion.classes
    tested = tested[tested["label"].isin(classes)]  # a new cohort may have others, which no metric counts
    return (
        class_charts.roc(f"{name}-roc", tested, classes),
        class_charts.precision_recall(f"{name}-precision-recall", tested, classes),
        class_charts.reliability(f"{name}-calibration", tested, classes),
    )


def _confusions(report: TaskReport[ClassificationMetrics]) -> tuple[Confusion, ...]:
    predictors = {report.model_name: report.model}
    predictors |= {
        f"{report.model_name}, {MODALITIES[modality]}": report.by_modality[modality]
        for modality in ("slides", "genes")
        if modality in report.by_modality
    }
    predictors |= {comparator_name(other): one for other, one in report.others().items()}
    found = {name: one.pooled.confusion for name, one in predictors.items()}
    return tuple(Confusion(name, one.classes, one.counts, one.reason or "") for name, one in found.items())


def _probabilities(columns: Sequence[str]) -> dict[str, str]:
    return {name: f"p({name.removeprefix(PROBABILITY)})" for name in columns if name.startswith(PROBABILITY)}


def _label_charts(
    run: FinishedRun, name: str, report: TaskReport[MultilabelMetrics] | None, tested: pd.DataFrame
) -> tuple[Chart, ...]:
    if not report or "label" not in tested:
        return (missing(f"{name}-roc", "ROC, precision–recall and calibration curves", "Need labels; there are none."),)
    labels = tuple(report.model.pooled.label_auc)
    return (
        class_charts.roc(f"{name}-roc", tested, labels, holds=_holds),
        class_charts.precision_recall(f"{name}-precision-recall", tested, labels, holds=_holds),
        class_charts.reliability(f"{name}-calibration", tested, labels, holds=_holds),
    )


def _holds(labels: pd.Series, name: str) -> pd.Series:
    """Whether one of several labels holds, from `A=1;B=0;C=?`; missing where unknown."""
    answer = ";" + labels + ";"
    return answer.str.contains(f";{name}=1;", regex=False).where(~answer.str.contains(f";{name}=?;", regex=False))


def _number_charts(
    run: FinishedRun, name: str, report: TaskReport[RegressionMetrics] | None, tested: pd.DataFrame
) -> tuple[Chart, ...]:
    unit = run.definitions[name].spec.unit
    return (
        number_charts.scatter(f"{name}-scatter", tested, unit),
        number_charts.calibration(f"{name}-calibration", tested, unit),
        number_charts.errors(f"{name}-errors", tested, unit),
    )


VIEWS: Mapping[type, KindView] = {
    SurvivalMetrics: KindView(
        charts=_survival_charts,
        summarise=_events,
        outputs=lambda columns: {"risk": "risk"},
        hidden=lambda columns: [name for name in columns if name.startswith("survival_") and name != "survival_months"],
    ),
    ClassificationMetrics: KindView(  # of ordered classes, too
        charts=_class_charts,
        table=class_table,
        confusions=_confusions,
        outputs=_probabilities,
        is_decided=True,
    ),
    MultilabelMetrics: KindView(charts=_label_charts, outputs=_probabilities),
    RegressionMetrics: KindView(charts=_number_charts, outputs=lambda columns: {VALUE: "predicted"}),
}
