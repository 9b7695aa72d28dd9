"""Baselines of a number: ridge models of clinical columns and of genes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from pipeline.baselines.clinical import CLINICAL_FOR_SURVIVAL, ClinicalDesign
from pipeline.baselines.genomic import GeneScores, principal_components
from pipeline.baselines.predictors import INNER_FOLDS, PENALTIES, numbers

if TYPE_CHECKING:
    import pandas as pd

SHARPER = np.logspace(-4, -2.5, 4)  # a number is often predicted with less shrinkage than a class or a risk


@dataclass(frozen=True)
class LinearNumber:
    """A linear model of g columns.

    Attributes:
        coefficients: of each column, per unit.
        centre: of the columns.
        mean: the prediction at the centre.
        reason: why the fit failed; else None.
    """

    coefficients: Float[np.ndarray, " g"]
    centre: Float[np.ndarray, " g"]
    mean: float
    reason: str | None = None

    @classmethod
    def failed(cls, reason: str) -> "LinearNumber":
        """Return a predictor whose predictions are NaN, with the reason."""
        return cls(np.zeros(0), np.zeros(0), float("nan"), reason)

    def predict(self, x: Float[np.ndarray, "n g"]) -> Float[np.ndarray, " n"]:
        """Predictions of n cases, in the label's unit."""
        if self.reason:
            return np.full(len(x), np.nan)
        return self.mean + (x - self.centre) @ self.coefficients

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which `from_json` restores the same coefficients."""
        if self.reason:
            return {"reason": self.reason}
        return {
            "coefficients": self.coefficients.tolist(),
            "centre": self.centre.tolist(),
            "mean": self.mean,
            "reason": None,
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "LinearNumber":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        if described["reason"] is not None:
            return cls(np.zeros(0), np.zeros(0), float("nan"), str(described["reason"]))
        return cls(numbers(described["coefficients"]), numbers(described["centre"]), float(numbers(described["mean"])))


@dataclass(frozen=True)
class ClinicalNumber:
    """A linear model of clinical columns."""

    design: ClinicalDesign
    linear: LinearNumber

    def predict(self, cases: "pd.DataFrame") -> Float[np.ndarray, " n"]:
        """Predictions of any cases, from their clinical columns."""
        return self.linear.predict(self.design.of(cases))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"design": self.design.to_json(), "linear": self.linear.to_json()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "ClinicalNumber":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        return cls(ClinicalDesign.from_json(described["design"]), LinearNumber.from_json(described["linear"]))


def fit_clinical_ridge(
    train: "pd.DataFrame",
    label: Float[np.ndarray, " m"],
    *,
    covariates: Sequence[str] = CLINICAL_FOR_SURVIVAL,
    seed: int,
) -> ClinicalNumber:
    """A ridge model of age, sex, grade and subtype, as far as they are available.

    Args:
        train: training cases' clinical columns.
        label: their numbers.
        covariates: the columns to use, where present.
        seed: of the inner folds.
    """
    design = ClinicalDesign.fit(train, covariates)
    x = design.of(train)
    if x.shape[1] == 0:
        return ClinicalNumber(design, LinearNumber.failed("no clinical covariate varies among the training cases"))
    mean, sd = x.mean(axis=0), x.std(axis=0)
    fitted = ridge_number((x - mean) / sd, label, seed=seed)
    return ClinicalNumber(design, LinearNumber(fitted.coefficients[0] / sd, mean, float(label.mean())))


def fit_omics_ridge(train: Float[np.ndarray, "m g"], label: Float[np.ndarray, " m"], *, seed: int) -> LinearNumber:
    """A ridge model of all features, its penalty chosen by inner cross-validation.

    Args:
        train: training cases' features, scaled by training statistics, without missing values.
        label: their numbers.
        seed: of the inner folds.
    """
    if not (train.std(axis=0) > 0).any():
        return LinearNumber.failed("no feature varies among the training cases")
    fitted = ridge_number(train, label, seed=seed)
    return LinearNumber(fitted.coefficients[0], fitted.centre, float(label.mean()))


def ridge_number(train: Float[np.ndarray, "m g"], label: Float[np.ndarray, " m"], *, seed: int) -> GeneScores:
    """Ridge regression of a number; the penalty with the least squared error on inner folds.

    Returns:
        Coefficients, centre, and predictions of each training case from the inner fold that did not see it; all relative to the
        mean label.
    """
    scores, centre, axes = principal_components(train)
    target = label - label.mean()
    penalties = np.concatenate([SHARPER, PENALTIES]) * (scores**2).sum(axis=1).mean()
    held_out = np.zeros((len(penalties), len(label)))
    order = np.random.default_rng(seed).permutation(len(label))
    for held in np.array_split(order, min(INNER_FOLDS, len(label))):
        fitted = np.setdiff1d(order, held)
        mean, middle = target[fitted].mean(), scores[fitted].mean(axis=0)
        paths = _ridge_path(scores[fitted] - middle, target[fitted] - mean, penalties * len(fitted) / len(label))
        held_out[:, held] = mean + paths @ (scores[held] - middle).T
    best = int(((held_out - target) ** 2).sum(axis=1).argmin())
    coefficients = _ridge_path(scores, target, penalties[best : best + 1])[0]
    return GeneScores((coefficients @ axes)[None], centre, held_out[best][:, None])


def _ridge_path(
    x: Float[np.ndarray, "m r"], y: Float[np.ndarray, " m"], penalties: Float[np.ndarray, " l"]
) -> Float[np.ndarray, "l r"]:
    """The coefficients of each penalty, from one singular value decomposition."""
    left, size, axes = np.linalg.svd(x, full_matrices=False)
    along = size * (left.T @ y)
    return np.asarray((along / (size**2 + penalties[:, None])) @ axes)
