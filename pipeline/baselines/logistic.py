"""Multinomial ridge logistic regression, its penalty chosen by inner cross-validated log-loss."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from pipeline.baselines.predictors import PENALTIES, LinearClasses, NotConvergedError, inner_folds
from preprocessing.io.errors import count

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

MAX_STEPS = 5000


def best_logistic(
    x: Float[np.ndarray, "m r"], labels: Int[np.ndarray, " m"], classes: Sequence[str], *, seed: int
) -> "LogisticRegression":
    """Scikit-learn's logistic regression of all cases, with the penalty of the best inner cross-validated log-loss.

    Args:
        x: columns of the training cases.
        labels: class numbers.
        classes: their names, for messages.
        seed: of the inner folds.

    Raises:
        NotConvergedError: it cannot be fitted; the message gives the reason.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen, counts = np.unique(labels, return_counts=True)
    if len(seen) < 2 or counts.min() < 2:
        fewest = count(int(counts.min()), "training case") if len(seen) else ""
        rarest = f"class {classes[seen[counts.argmin()]]} has {fewest}" if fewest else "no case"
        raise NotConvergedError(f"too few training cases in {len(seen)} classes: {rarest}")
    penalties = PENALTIES[::-1] * (x**2).sum(axis=1).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # convergence of the fit that is used is checked below
        losses = [_held_out_losses(x, labels, penalties, *fold) for fold in inner_folds(labels, seed)]
        best = LogisticRegression(C=1 / penalties[np.mean(losses, axis=0).argmin()], max_iter=MAX_STEPS).fit(x, labels)
    if best.n_iter_.max() >= MAX_STEPS:
        raise NotConvergedError(f"the logistic model did not converge in {MAX_STEPS} steps")
    return best


def _held_out_losses(
    x: Float[np.ndarray, "m r"],
    labels: Int[np.ndarray, " m"],
    penalties: Float[np.ndarray, " p"],
    fitted: Int[np.ndarray, " a"],
    held: Int[np.ndarray, " b"],
) -> list[float]:
    """The log-loss of the held-out cases with each penalty, from stiff to loose: each fit begins at the last one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    model, losses = LogisticRegression(max_iter=MAX_STEPS, warm_start=True), []
    for penalty in penalties:
        model.set_params(C=1 / penalty).fit(x[fitted], labels[fitted])
        losses.append(float(log_loss(labels[held], model.predict_proba(x[held]), labels=model.classes_)))
    return losses


def fit_logistic(
    x: Float[np.ndarray, "m r"],
    labels: Int[np.ndarray, " m"],
    *,
    classes: Sequence[str],
    seed: int,
    directions: Float[np.ndarray, "r g"],
    centre: Float[np.ndarray, " g"],
) -> LinearClasses:
    """Ridge logistic regression, its penalty chosen by inner cross-validated log-loss.

    Args:
        x: training cases as the regression sees them: (columns − centre) turned by `directions`.
        labels: class numbers.
        classes: names of the K classes.
        seed: of the inner folds.
        directions: of each of the r in the columns: x is (columns − centre) @ directions.T.
        centre: of the columns.
    """
    try:
        best = best_logistic(x, labels, classes, seed=seed)
    except NotConvergedError as failure:
        return LinearClasses.failed(len(classes), str(failure))
    weights, intercepts = best.coef_ @ directions, best.intercept_
    if len(best.classes_) == 2:  # one logit, that of the second class
        weights, intercepts = np.vstack([0 * weights, weights]), np.array([0.0, intercepts[0]])
    return LinearClasses(len(classes), tuple(int(k) for k in best.classes_), weights, intercepts, centre)
