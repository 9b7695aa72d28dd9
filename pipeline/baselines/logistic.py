"""Multinomial ridge logistic regression along a path of penalties, from stiff to loose: each fit begins at the last one.

The same model as scikit-learn's `LogisticRegression` with its lbfgs solver, of which the tests compare coefficients, closer
to the optimum and in about half of the time: coefficients are scaled by the curvature that equally likely
classes would give them, which leaves L-BFGS few steps to go (Nocedal & Wright 2006, "Numerical optimization", chapter 7).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pipeline.baselines.predictors import PENALTIES, LinearClasses, NotConvergedError, inner_folds

MAX_STEPS = 5000
TOLERANCE = 1e-7  # of the largest slope of the mean loss, by a coefficient in units of its curvature
NOT_CONVERGED = 1000 * TOLERANCE  # rounding ends the search above the tolerance where columns differ much in size


@dataclass(frozen=True)
class Logits:
    """Logits of the classes that have training cases.

    Attributes:
        seen: numbers of these k classes, ascending.
        coefficients: of each logit and column; of two classes there is one logit, that of the second.
        intercepts: of each logit.
        penalty: with which they were fitted.
        slope: the largest one that is left; see `TOLERANCE`.
    """

    seen: Int[np.ndarray, " k"]
    coefficients: Float[np.ndarray, "l r"]
    intercepts: Float[np.ndarray, " l"]
    penalty: float
    slope: float

    def of(self, x: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "n k"]:
        """The logits of n cases."""
        logits = x @ self.coefficients.T + self.intercepts
        return np.column_stack([np.zeros(len(x)), logits]) if len(self.seen) == 2 else logits

    def log_loss(self, x: Float[np.ndarray, "n r"], labels: Int[np.ndarray, " n"]) -> float:
        """The mean negative log-probability of the labels of n cases, which are of these classes."""
        logits = self.of(x)
        rows = np.arange(len(x)), np.searchsorted(self.seen, labels)
        return float(np.mean(_log_sum(logits) - logits[rows]))


def fit_logits(x: Float[np.ndarray, "m r"], labels: Int[np.ndarray, " m"], penalties: Sequence[float]) -> list[Logits]:
    """The logits that minimise the summed negative log-likelihood + ½·penalty·‖coefficients‖², one after the other.

    Args:
        x: columns of the training cases.
        labels: their class numbers, two classes at least.
        penalties: above 0, descending: each fit begins at the last one.

    Returns:
        A fit for each penalty; its slope is small where it has converged.
    """
    from scipy.optimize import minimize

    seen, codes = np.unique(labels, return_inverse=True)
    n_logits = 1 if len(seen) == 2 else len(seen)
    is_class = codes[:, None] == (np.ones(1) if n_logits == 1 else np.arange(n_logits))
    curvature = (x**2).sum(axis=0) / 4
    weights, fits = np.zeros((n_logits, x.shape[1] + 1)), []
    for penalty in penalties:
        scale = np.append(np.sqrt(len(x) / (curvature + penalty)), 1.0)
        found = minimize(
            _loss,
            (weights / scale).ravel(),
            args=(x, is_class.astype(float), penalty, scale),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "gtol": TOLERANCE, "ftol": 0.0},
        )
        weights = found.x.reshape(weights.shape) * scale
        fits.append(Logits(seen, weights[:, :-1], weights[:, -1], float(penalty), float(np.abs(found.jac).max())))
    return fits


def _loss(
    scaled: Float[np.ndarray, " w"],
    x: Float[np.ndarray, "m r"],
    is_class: Float[np.ndarray, "m l"],
    penalty: float,
    scale: Float[np.ndarray, " s"],
) -> tuple[float, Float[np.ndarray, " w"]]:
    """The mean loss of scaled weights (l × (r columns and an intercept)), and its gradient."""
    weights = scaled.reshape(is_class.shape[1], -1) * scale
    coefficients = weights[:, :-1]
    logits = x @ coefficients.T + weights[:, -1]
    log_sum = np.logaddexp(0, logits[:, 0]) if logits.shape[1] == 1 else _log_sum(logits)
    residual = np.exp(logits - log_sum[:, None]) - is_class
    loss = log_sum.sum() - (logits * is_class).sum() + penalty * (coefficients**2).sum() / 2
    slopes = np.column_stack([residual.T @ x + penalty * coefficients, residual.sum(axis=0)]) * scale
    return loss / len(x), slopes.ravel() / len(x)


def _log_sum(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """log Σ exp of each row."""
    top = logits.max(axis=1)
    return np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top


def best_logits(
    x: Float[np.ndarray, "m r"], labels: Int[np.ndarray, " m"], classes: Sequence[str], *, seed: int
) -> Logits:
    """The fit to all cases with the penalty of the best inner cross-validated log-loss.

    Args:
        x: columns of the training cases.
        labels: class numbers.
        classes: their names, for messages.
        seed: of the inner folds.

    Raises:
        NotConvergedError: it cannot be fitted; the message gives the reason.
    """
    seen, counts = np.unique(labels, return_counts=True)
    if len(seen) < 2 or counts.min() < 2:
        rarest = f"class {classes[seen[counts.argmin()]]} has {counts.min()} training cases" if len(seen) else "no case"
        raise NotConvergedError(f"too few training cases in {len(seen)} classes: {rarest}")
    penalties = PENALTIES[::-1] * (x**2).sum(axis=1).mean()
    losses = np.mean(
        [
            [fit.log_loss(x[held], labels[held]) for fit in fit_logits(x[fitted], labels[fitted], penalties)]
            for fitted, held in inner_folds(labels, seed)
        ],
        axis=0,
    )
    best = fit_logits(x, labels, penalties[: losses.argmin() + 1])[-1]
    if not best.slope <= NOT_CONVERGED:
        raise NotConvergedError(f"the logistic model did not converge in {MAX_STEPS} steps")
    return best


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
        best = best_logits(x, labels, classes, seed=seed)
    except NotConvergedError as failure:
        return LinearClasses.failed(len(classes), str(failure))
    weights, intercepts = best.coefficients @ directions, best.intercepts
    if len(best.seen) == 2:
        weights, intercepts = np.vstack([0 * weights, weights]), np.array([0.0, intercepts[0]])
    return LinearClasses(len(classes), tuple(int(k) for k in best.seen), weights, intercepts, centre)
