"""Display names of metrics, for reports, model cards and the terminal."""

METRICS = {  # by key of metrics.json; in others, underscores become spaces
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


def metric_name(key: str) -> str:
    """Display name of a metric."""
    return METRICS.get(key, key.replace("_", " "))
