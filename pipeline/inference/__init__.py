"""Applying trained models to new cohorts."""
