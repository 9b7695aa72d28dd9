"""The machinery of a run: configuration, run folder, Dask, tasks, folds, training, prediction, metrics."""
