"""Predictions of all folds against their truth: the reports of a run."""
