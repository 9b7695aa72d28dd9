"""A new cohort as a whole against the training cohort: how many cases are out of distribution, and what differs for all."""

import logging

import numpy as np
import pandas as pd

from pipeline.inference.trained import Predictor
from pipeline.metrics.report import CohortShift
from pipeline.ood.reference import BORDERLINE, NOT_ASSESSED, OUT_OF_DISTRIBUTION, SEVERITY
from preprocessing.cohort import Cohort
from preprocessing.omics.matrix import COVARIATE
from preprocessing.omics.scaler import LARGEST_LOG

log = logging.getLogger(__name__)
MANY = 0.5  # share of the cases out of distribution, beyond which the cohort is at fault rather than cases
ANOTHER_SCALE = 1.0  # median of the scaled values, in standard deviations of the training cases
FEW_GENES = 0.2  # share of the model's genes that are missing
PERCENTILES = (1, 99)  # percentiles that describe the range of values


def summarise_cohort(predictor: Predictor, verdicts: pd.Series, cohort: Cohort, *, rescaled: bool) -> CohortShift:
    """Return how a cohort's cases differ from the training cohort, and log it where most of them deviate.

    Args:
        predictor: of one task.
        verdicts: one of `SEVERITY` for each predicted case, those of earlier calls among them; others count as not assessed.
        cohort: the new cases.
        rescaled: whether expression was already rescaled to the training cohort.
    """
    n_out, n_borderline = int((verdicts == OUT_OF_DISTRIBUTION).sum()), int((verdicts == BORDERLINE).sum())
    n_assessed = int(verdicts.isin([name for name in SEVERITY if name != NOT_ASSESSED]).sum())
    sentence, remedies = "", tuple[str, ...]()
    differences = _gene_differences(predictor, cohort)
    if n_assessed and n_out > MANY * n_assessed:
        grounds = f": {'; '.join(differences)}" if differences else ""
        sentence = f"{n_out} of {n_assessed} cases are out of distribution{grounds}"
        remedies = _remedies(predictor, cohort, rescaled=rescaled)
        log.warning("task %s: %s. %s", predictor.task, sentence, " ".join(remedies))
    found = CohortShift(
        n=n_assessed,
        n_out_of_distribution=n_out,
        n_borderline=n_borderline,
        n_reference=predictor.reference.n_cases if predictor.reference else None,
        sentence=sentence,
        remedies=remedies,
    )
    if n_assessed and (limit := found.limit()):
        log.info("task %s: distribution shift: %s", predictor.task, limit)
    return found


def _gene_differences(predictor: Predictor, cohort: Cohort) -> list[str]:
    """Range of values against the training cohort's, and the share of missing genes, as phrases."""
    scaler = predictor.members[0].scaler
    if scaler is None or not predictor.reads_genes or not cohort.omics.features:
        return []
    positions = {name: position for position, name in enumerate(cohort.omics.features)}
    names = [name for name in scaler.features if name not in scaler.groups.get(COVARIATE, ())]
    shared = [name for name in names if name in positions]
    phrases = []
    if shared:
        values = cohort.omics.values[:, [positions[name] for name in shared]]
        low, high = np.nanpercentile(values, PERCENTILES)
        at = np.isin(scaler.features, shared)
        centre = np.where(scaler.logged, np.exp2(np.minimum(scaler.centre, LARGEST_LOG)) - 1, scaler.centre)[at]
        if abs(np.nanmedian(scaler.scaled(cohort.omics)[:, at])) > ANOTHER_SCALE:
            phrases.append(f"values {low:.3g} to {high:.3g}, trained on values around {np.median(centre):.3g}")
    missing = 1 - len(shared) / max(1, len(names))
    if missing > FEW_GENES:
        phrases.append(f"{missing:.0%} of the model's genes are missing".replace("%", " %"))
    return phrases


def _remedies(predictor: Predictor, cohort: Cohort, *, rescaled: bool) -> tuple[str, ...]:
    remedies = []
    if predictor.reads_genes and cohort.omics.features and not rescaled:
        remedies.append(
            "If the genes were measured or scaled otherwise than in training, use --rescale matched (with the grades or "
            "subtypes of the cases) or --rescale cohort (the cohort must be composed like the training cohort), or give values on "
            "the scale of the training table."
        )
    doubt = "do not use these predictions without validation: the model was not trained on such cases."
    return (*remedies, f"Otherwise {doubt}" if remedies else doubt[0].upper() + doubt[1:])
