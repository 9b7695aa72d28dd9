"""How each kind of task is drawn: the one place where the report tells tasks apart, by `Task.kind`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.metrics import ClassificationMetrics, SurvivalMetrics, TaskReport
from pipeline.run.finished import FinishedRun
from pipeline.tasks import TASKS
from pipeline.tasks.classification import PROBABILITY
from pipeline.tasks.survival import outcome
from workflows.report import class_charts, survival_charts
from workflows.report.chart import Chart, missing
from workflows.report.tables import Table, class_table
from workflows.report.words import MODALITIES, other_name


@dataclass(frozen=True)
class Confusion:
    """How many cases of each class (rows) were predicted as each class."""

    name: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...] | None
    reason: str

    @property
    def shares(self) -> list[list[float]]:
        """Of each row's cases, 0 to 1."""
        return [[count / max(1, sum(row)) for count in row] for row in self.counts or ()]


def _no_table(key: str, path: str, pooled: Any) -> Table | None:
    return None


def _nothing(*_: object) -> tuple[Any, ...]:
    return ()


def _no_words(tested: pd.DataFrame) -> str:
    return ""


def _no_columns(columns: Sequence[str]) -> list[str]:
    return []


def _no_titles(columns: Sequence[str]) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class KindView:
    """What is drawn of a kind of task, beside what is drawn of every task.

    Attributes:
        charts: of the run, the task's name, its report (None without metrics) and the cases whose predictions count.
        table: of the task's pooled metrics, its key and the path in metrics.json; None for no table.
        confusions: of its report.
        about: the tested cases in a few words; may be empty.
        outputs: titles of the columns of predictions.csv that the table of cases shows as numbers, from all column names.
        hidden: those that it does not show.
        is_decided: whether a prediction is right or wrong as compared with the label.
    """

    charts: Callable[[FinishedRun, str, TaskReport[Any] | None, pd.DataFrame], tuple[Chart, ...]] = _nothing
    table: Callable[[str, str, Any], Table | None] = _no_table
    confusions: Callable[[TaskReport[Any]], tuple[Confusion, ...]] = _nothing
    about: Callable[[pd.DataFrame], str] = _no_words
    outputs: Callable[[Sequence[str]], dict[str, str]] = _no_titles
    hidden: Callable[[Sequence[str]], list[str]] = _no_columns
    is_decided: bool = False


def kind_of(task: str) -> KindView:
    """How a task of this name is drawn; one that this version does not know as plain tables."""
    return KINDS.get(TASKS[task].kind, KindView()) if task in TASKS else KindView()


def truth_of(task: str) -> list[str]:
    """The columns of predictions.csv that hold the truth of a task, as the table of cases shows it."""
    return list(TASKS[task].truth_columns) or ["label"] if task in TASKS else ["label"]


def _survival_charts(
    run: FinishedRun, name: str, report: TaskReport[SurvivalMetrics] | None, tested: pd.DataFrame
) -> tuple[Chart, ...]:
    if "risk" not in tested:
        return (missing(f"{name}-kaplan-meier", "Kaplan–Meier, AUC and calibration", "No case has a risk."),)
    groups = report.model.pooled.risk_groups if report else None
    no_labels = "It needs outcomes, and this run has no metrics."
    return (
        survival_charts.kaplan_meier(f"{name}-kaplan-meier", tested, groups),
        survival_charts.single_curves(f"{name}-curves", run.predicted(name)),
        survival_charts.auc_over_time(f"{name}-auc", tested, report)
        if report
        else missing(f"{name}-auc", "AUC over time", no_labels),
        survival_charts.survival_calibration(f"{name}-calibration", report)
        if report
        else missing(f"{name}-calibration", "Calibration", no_labels),
    )


def _deaths(tested: pd.DataFrame) -> str:
    known = survival_charts.followed(tested)
    return f"{int(outcome(known)[1].sum())} events" if len(known) else ""


def _class_charts(
    run: FinishedRun, name: str, report: TaskReport[ClassificationMetrics] | None, tested: pd.DataFrame
) -> tuple[Chart, ...]:
    if not report or "label" not in tested:
        return (missing(f"{name}-roc", "ROC, precision and recall, calibration", "They need labels; there are none."),)
    classes = report.model.pooled.confusion.classes
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
    predictors |= {other_name(other): one for other, one in report.others().items()}
    found = {name: one.pooled.confusion for name, one in predictors.items()}
    return tuple(Confusion(name, one.classes, one.counts, one.reason or "") for name, one in found.items())


def _probabilities(columns: Sequence[str]) -> dict[str, str]:
    return {name: f"p({name.removeprefix(PROBABILITY)})" for name in columns if name.startswith(PROBABILITY)}


KINDS: Mapping[str, KindView] = {
    "survival": KindView(
        charts=_survival_charts,
        about=_deaths,
        outputs=lambda columns: {"risk": "risk"},
        hidden=lambda columns: [name for name in columns if name.startswith("survival_") and name != "survival_months"],
    ),
    "classification": KindView(
        charts=_class_charts,
        table=class_table,
        confusions=_confusions,
        outputs=_probabilities,
        is_decided=True,
    ),
}
