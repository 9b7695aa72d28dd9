"""Metrics with bootstrap intervals: survival, classification, by fold and pooled, and differences of two predictors."""

from pipeline.metrics.bootstrap import Metric, Report, Statistic, by_fold, paired_difference, to_json
from pipeline.metrics.classification import classification_by_fold, classification_metrics, macro_auc
from pipeline.metrics.concordance import c_index
from pipeline.metrics.survival import survival_by_fold, survival_metrics

__all__ = [
    "Metric",
    "Report",
    "Statistic",
    "by_fold",
    "c_index",
    "classification_by_fold",
    "classification_metrics",
    "macro_auc",
    "paired_difference",
    "survival_by_fold",
    "survival_metrics",
    "to_json",
]
