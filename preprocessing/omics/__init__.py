"""Molecular features: the matrix of cases by genes, scaling, gene sets, subspaces, leakage of labels."""
