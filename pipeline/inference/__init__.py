"""Trained models, and the new cohorts that they are asked about."""
