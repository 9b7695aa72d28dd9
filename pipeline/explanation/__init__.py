"""Explanations of predictions: attention, contributions of tiles and genes, prototypes."""
