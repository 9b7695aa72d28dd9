"""Baselines: simple predictors of clinical columns and of genes."""

BASELINES = {  # by their keys in metrics.json, as tables call them
    "clinical": "clinical model",
    "genes": "ridge on genes",
    "slides": "MIL on slides",
    "late fusion": "late fusion",
}
