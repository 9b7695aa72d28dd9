"""The scale of training cases that are composed like a new cohort, by the classes that are known of it.

Standardised within itself, a cohort of glioblastomas looks like any other cohort, and a third of it like lower-grade gliomas.
Where grade or subtype of the new cases are known, their shares decide what mean and standard deviation each gene should have. No
prediction depends on whose label is which, but all depend on how many there are of each: metrics by the same labels have a caveat.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.inference.trained import Predictor, scalers_of
from pipeline.ood.gene_classes import GeneClasses
from preprocessing.cohort import Cohort
from preprocessing.io.errors import InputError, count, some
from preprocessing.omics.harmonisation.rescale import Method, Target, targets_of
from preprocessing.omics.matrix import COVARIATE

log = logging.getLogger(__name__)
KNOWN = 0.5  # share of the cases whose class must be known
NOT_INDEPENDENT = (
    "--rescale matched: the shares of these labels set the scale of the genes, so metrics of the predicted classes (accuracy, "
    "calibration, prediction sets) are not independent of the labels; in a cohort of one class they evaluate nothing."
)
DIFFERENT = 0.25  # share of the cases that would have to change class for the compositions to agree


def rescale_targets(predictors: Sequence[Predictor], cohort: Cohort, method: Method) -> dict[str, Target]:
    """Return the distribution to which each gene is brought, and log by which classes.

    Args:
        predictors: the trained models.
        cohort: the new cases, with the labels of the models' tasks as far as they are known.
        method: matched: the distribution in training cases composed like the cohort; else that of the training cohort, with
            a warning if the cohort is known to be composed otherwise.

    Raises:
        InputError: matched, without a known class for half of the cases.
    """
    targets = targets_of(scalers_of(predictors))
    found = _best_known(predictors, cohort)
    if found is None:
        if method == "matched":
            raise InputError(_why_not_matched(predictors, cohort))
        return targets
    predictor, classes, counts = found
    shares = {name: count / sum(counts.values()) for name, count in counts.items()}
    if method == "matched":
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        log.info("--rescale matched: classes of the cohort by %s: %s", predictor.task, listed)
        mixed = _mixed(predictor, classes, shares)
        if unmatched := [name for name in cohort.omics.features if name in targets and name not in mixed]:
            log.warning(
                "--rescale matched: %d genes that the %s model does not read are standardised to the whole training "
                "cohort instead: %s",
                len(unmatched),
                predictor.task,
                some(unmatched),
            )
        return targets | mixed
    if method != "none" and _distance(shares, classes.shares) > DIFFERENT:
        log.warning(
            "--rescale %s assumes a cohort composed like the training cohort, but its proportions by %s are %s (training: %s); use "
            "--rescale matched",
            method,
            predictor.task,
            _percentages(shares),
            _percentages(classes.shares),
        )
    return targets


def caveats(predictors: Sequence[Predictor], cohort: Cohort, method: Method) -> dict[str, tuple[str, ...]]:
    """Return what limits the metrics of a cohort that was rescaled by its labels, by task; empty for other methods.

    Args:
        predictors: the trained models.
        cohort: as it was given to `rescale_targets`, or rescaled.
        method: by which it was rescaled.
    """
    found = _best_known(predictors, cohort) if method == "matched" else None
    if found is None:
        return {}
    return {found[0].task: (NOT_INDEPENDENT,)}


def _best_known(
    predictors: Sequence[Predictor], cohort: Cohort
) -> tuple[Predictor, GeneClasses, dict[str, int]] | None:
    """The model whose classes are known of most cases, of several the one whose classes differ most in their genes."""
    cases = set(cohort.omics.case_ids)
    found = []
    for one in predictors:
        classes = one.reference.gene_classes if one.reference else None
        if classes is None or one.reference_scaler is None:
            continue
        known = [name for case, name in one.definition.class_names(cohort.labels).items() if case in cases]
        counts = {name: known.count(name) for name in classes.names if name in known}
        if unseen := sorted(set(known) - set(classes.names)):
            log.info("task %s: class %s has no or too few training cases, and is not compared", one.task, some(unseen))
        if sum(counts.values()) >= max(1, KNOWN * len(cases)):
            found.append((sum(counts.values()), classes.separation, one, classes, counts))
    if not found:
        return None
    *_, predictor, classes, counts = max(found, key=lambda entry: entry[:2])
    return predictor, classes, counts


def _mixed(predictor: Predictor, classes: GeneClasses, shares: Mapping[str, float]) -> dict[str, Target]:
    """The distribution of each gene in a cohort with these shares, in the unit of the gene table."""
    scaler = predictor.reference_scaler
    if scaler is None:
        return {}
    covariates = set(scaler.groups.get(COVARIATE, ()))
    genes = [position for position, name in enumerate(scaler.features) if name not in covariates]
    mean, sd = classes.mixture(shares)
    centre, scale = scaler.centre[genes] + scaler.scale[genes] * mean, scaler.scale[genes] * sd
    logged = scaler.logged[genes]
    return {
        scaler.features[position]: Target(float(centre[at]), float(scale[at]), bool(logged[at]))
        for at, position in enumerate(genes)
    }


def _distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Total variation distance of two compositions, 0 to 1."""
    return float(np.abs([one.get(name, 0.0) - other.get(name, 0.0) for name in {*one, *other}]).sum() / 2)


def _percentages(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {share:.0%}".replace("%", " %") for name, share in shares.items())


def _why_not_matched(predictors: Sequence[Predictor], cohort: Cohort) -> str:
    names = [one.task for one in predictors if one.reference and one.reference.gene_classes]
    if not names:
        return (
            "--rescale matched: no model of --trained contains the genes of its classes; train a task with classes, such as "
            "grade or subtype, with this version, or use --rescale cohort"
        )
    return (
        f"--rescale matched: the {' or '.join(names)} of fewer than half of the "
        f"{count(len(cohort.omics.case_ids), 'case')} is known in "
        f"{cohort.label_source}; add it (--clinical), or use --rescale cohort"
    )
