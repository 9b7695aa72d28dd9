"""Training: data of a fold, networks and ensembles, fold jobs, model folders."""
