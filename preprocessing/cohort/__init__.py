"""The cohort: slides, genes and labels joined by case, and the audit of every case of the input."""

from preprocessing.cohort.cohort import COHORT, Cohort, cohorts_by_case
from preprocessing.cohort.cohort_inputs import CohortFiles, CohortOptions
from preprocessing.cohort.flow import describe_gaps
from preprocessing.cohort.ledgers import audit_cases, ledger
from preprocessing.cohort.loading import load_cohort
from preprocessing.cohort.molecular import further_table
from preprocessing.cohort.pooling import pool_cohorts

__all__ = [
    "COHORT",
    "Cohort",
    "CohortFiles",
    "CohortOptions",
    "audit_cases",
    "cohorts_by_case",
    "describe_gaps",
    "further_table",
    "ledger",
    "load_cohort",
    "pool_cohorts",
]
