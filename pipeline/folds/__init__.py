"""Folds: one fold of one task as a job for a worker, and which folds are finished."""
