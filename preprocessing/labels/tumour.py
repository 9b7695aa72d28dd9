"""Whether a cohort is of gliomas: only then do WHO 2021 diagnoses and the leakage rules of glioma apply."""

import re

import pandas as pd

GLIOMA, OTHER = "glioma", "other"
_WORDS = re.compile(r"gliom|glioblast|astrocyt|oligodendro|(?<![a-z])(gbm|lgg|idh)", re.IGNORECASE)


def recognise_tumour(annotations: pd.DataFrame) -> str:
    """Return GLIOMA where a column or a word in the clinical columns names one, or IDH status; else OTHER."""
    if any(_WORDS.search(str(column)) for column in annotations.columns):
        return GLIOMA
    texts = annotations.select_dtypes(["object", "string"])
    named = (_WORDS.search(str(value)) for column in texts for value in texts[column].dropna().unique())
    return GLIOMA if any(named) else OTHER
