"""Training: data of a fold, networks and ensembles, what they are blended with."""
