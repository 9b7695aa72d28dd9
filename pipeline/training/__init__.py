"""Training: folds, fitting, fold jobs, cross-validated results, model folders."""
