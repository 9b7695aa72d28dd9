"""Expression of several cohorts on one scale: of the cohorts of a run, and of a new cohort for trained models."""
