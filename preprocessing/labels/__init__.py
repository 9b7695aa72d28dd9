"""Labels and covariates of cases: recognising columns, survival endpoints, the WHO 2021 diagnosis."""
