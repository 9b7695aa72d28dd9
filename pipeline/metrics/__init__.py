"""Metrics with bootstrap intervals: survival, classes, numbers, by fold and pooled, differences of predictors; the report."""

from pipeline.metrics.bootstrap import Bootstrap, Metric, Statistic, measure, paired_difference
from pipeline.metrics.classification import (
    ClassificationMetrics,
    classification_by_fold,
    classification_metrics,
    macro_auc,
)
from pipeline.metrics.concordance import FollowUp, c_index
from pipeline.metrics.multilabel import (
    MultilabelMetrics,
    macro_label_auc,
    multilabel_by_fold,
    multilabel_metrics,
)
from pipeline.metrics.ordinal import OrdinalMetrics, with_rank_metrics
from pipeline.metrics.regression import RegressionMetrics, r_squared, regression_by_fold, regression_metrics
from pipeline.metrics.report import CaseMetrics, CohortTransfer, PredictorReport, TaskReport, report_by_fold
from pipeline.metrics.survival import SurvivalMetrics, SurvivalPredictions, survival_by_fold, survival_metrics

__all__ = [
    "Bootstrap",
    "CaseMetrics",
    "ClassificationMetrics",
    "CohortTransfer",
    "FollowUp",
    "Metric",
    "MultilabelMetrics",
    "OrdinalMetrics",
    "PredictorReport",
    "RegressionMetrics",
    "Statistic",
    "SurvivalMetrics",
    "SurvivalPredictions",
    "TaskReport",
    "c_index",
    "classification_by_fold",
    "classification_metrics",
    "macro_auc",
    "macro_label_auc",
    "measure",
    "multilabel_by_fold",
    "multilabel_metrics",
    "paired_difference",
    "r_squared",
    "regression_by_fold",
    "regression_metrics",
    "report_by_fold",
    "survival_by_fold",
    "survival_metrics",
    "with_rank_metrics",
]
