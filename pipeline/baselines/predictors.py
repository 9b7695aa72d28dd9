"""Baselines that a model is compared with: linear predictors, fitted on training cases and kept in the model folder.

A predictor is fitted once (`clinical.py`, `genomic.py`) and then predicts any cases, without their labels. A
fit that fails (too few events, no convergence) gives NaN predictions with the reason, from which the metrics become None
with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from preprocessing.io.errors import count

CURVE_TIMES = np.arange(0.0, 61.0)  # months
INNER_FOLDS = 5
PENALTIES = np.logspace(-2, 2, 9)  # times the mean squared norm of a training row

Months = Float[np.ndarray, " m"]
Events = Bool[np.ndarray, " m"]


class NotConvergedError(ArithmeticError):
    """A baseline cannot be fitted to these cases."""


@dataclass(frozen=True)
class SurvivalPrediction:
    """Prediction of survival for n cases.

    Attributes:
        risk: higher is worse; NaN if the fit failed.
        curves: survival probability at curve_times, 0–1; NaN beyond the follow-up of the training cases.
        curve_times: months, ascending.
        train_risk: of the m training cases, on the same scale; its median cuts risk groups, its mean and sd
            standardise.
        reason: why the fit failed; else None.
    """

    risk: Float[np.ndarray, " n"]
    curves: Float[np.ndarray, "n t"]
    curve_times: Float[np.ndarray, " t"]
    train_risk: Float[np.ndarray, " m"]
    reason: str | None = None


@dataclass(frozen=True)
class ClassPrediction:
    """Prediction of classes for n cases.

    Attributes:
        probabilities: of the K classes; rows add up to 1; NaN if the fit failed.
        reason: why the fit failed; else None.
    """

    probabilities: Float[np.ndarray, "n k"]
    reason: str | None = None


@dataclass(frozen=True)
class LinearRisk:
    """A proportional hazards model of g columns, fitted on m training cases.

    Attributes:
        coefficients: of each column, per unit.
        centre: where the risk is 0.
        slope: curves are those of slope × risk.
        steps: months of the training cases' deaths, ascending.
        hazard: cumulative hazard of risk 0 from each step on.
        train_risk: of the training cases; see `SurvivalPrediction`.
        last_month: the longest follow-up of a training case, beyond which there is no curve.
        reason: why the fit failed; else None.
    """

    coefficients: Float[np.ndarray, " g"]
    centre: Float[np.ndarray, " g"]
    slope: float
    steps: Float[np.ndarray, " s"]
    hazard: Float[np.ndarray, " s"]
    train_risk: Float[np.ndarray, " m"]
    last_month: float
    reason: str | None = None

    @classmethod
    def of(
        cls,
        coefficients: Float[np.ndarray, " g"],
        centre: Float[np.ndarray, " g"],
        *,
        train_risk: Float[np.ndarray, " m"],
        time: Months,
        event: Events,
        slope: float = 1.0,
    ) -> "LinearRisk":
        """With Breslow's cumulative hazard of the training cases (Breslow 1972).

        Args:
            coefficients: of each column, per unit.
            centre: where the risk is 0.
            train_risk: risk of each training case, higher is worse.
            time: of the training cases, months to event or censoring.
            event: True where the event happened.
            slope: curves are those of slope × risk.
        """
        steps, deaths = np.unique(time[event], return_counts=True)
        rises = deaths / ((time >= steps[:, None]) @ np.exp(slope * train_risk))
        return cls(coefficients, centre, slope, steps, np.cumsum(rises), train_risk, float(time.max()))

    @classmethod
    def failed(cls, n_train: int, reason: str) -> "LinearRisk":
        """Return a predictor whose predictions are NaN, with the reason."""
        nothing = np.zeros(0)
        return cls(nothing, nothing, 1.0, nothing, nothing, np.full(n_train, np.nan), 0.0, reason)

    def predict(
        self, x: Float[np.ndarray, "n g"], *, curve_times: Float[np.ndarray, " t"] = CURVE_TIMES
    ) -> SurvivalPrediction:
        """Risks and curves of n cases; curves begin at 1 at 0 months, and are NaN beyond the last month."""
        if self.reason:
            empty = np.full((len(x), len(curve_times)), np.nan)
            return SurvivalPrediction(empty[:, 0], empty, curve_times, self.train_risk, self.reason)
        risk = (x - self.centre) @ self.coefficients
        hazard = np.concatenate([[0.0], self.hazard])[np.searchsorted(self.steps, curve_times, side="right")]
        curves = np.exp(-np.exp(self.slope * risk)[:, None] * hazard)
        curves[:, curve_times > self.last_month] = np.nan
        return SurvivalPrediction(risk, curves, curve_times, self.train_risk)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which `from_json` restores the same coefficients."""
        if self.reason:
            return {"reason": self.reason, "n_train": len(self.train_risk)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "LinearRisk":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        if described["reason"] is not None:
            nothing = np.zeros(0)
            risk = np.full(int(described["n_train"]), np.nan)
            return cls(nothing, nothing, 1.0, nothing, nothing, risk, 0.0, described["reason"])
        return cls(
            coefficients=numbers(described["coefficients"]),
            centre=numbers(described["centre"]),
            slope=float(described["slope"]),
            steps=numbers(described["steps"]),
            hazard=numbers(described["hazard"]),
            train_risk=numbers(described["train_risk"]),
            last_month=float(described["last_month"]),
        )


@dataclass(frozen=True)
class LinearClasses:
    """A multinomial logistic model of g columns.

    Attributes:
        n_classes: K.
        seen: numbers of the k classes that had training cases; the others get probability 0.
        coefficients: of each seen class and column, per unit.
        intercepts: of each seen class.
        centre: of the columns.
        reason: why the fit failed; else None.
    """

    n_classes: int
    seen: tuple[int, ...]
    coefficients: Float[np.ndarray, "k g"]
    intercepts: Float[np.ndarray, " k"]
    centre: Float[np.ndarray, " g"]
    reason: str | None = None

    @classmethod
    def failed(cls, n_classes: int, reason: str) -> "LinearClasses":
        """Return a predictor whose predictions are NaN, with the reason."""
        return cls(n_classes, (), np.zeros((0, 0)), np.zeros(0), np.zeros(0), reason)

    def predict(self, x: Float[np.ndarray, "n g"]) -> ClassPrediction:
        """Probabilities of n cases."""
        if self.reason:
            return ClassPrediction(np.full((len(x), self.n_classes), np.nan), self.reason)
        from scipy.special import softmax

        probabilities = np.zeros((len(x), self.n_classes))
        logits = (x - self.centre) @ self.coefficients.T + self.intercepts
        probabilities[:, list(self.seen)] = softmax(logits, axis=1)
        return ClassPrediction(probabilities)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of which `from_json` restores the same coefficients."""
        if self.reason:
            return {"reason": self.reason, "n_classes": self.n_classes}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "LinearClasses":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        n_classes = int(described["n_classes"])
        if described["reason"] is not None:
            return cls(n_classes, (), np.zeros((0, 0)), np.zeros(0), np.zeros(0), str(described["reason"]))
        seen = tuple(int(k) for k in described["seen"])
        if not all(0 <= k < n_classes for k in seen):
            raise ValueError(f"classes {seen} of {n_classes}")
        return cls(
            n_classes,
            seen,
            numbers(described["coefficients"]),
            numbers(described["intercepts"]),
            numbers(described["centre"]),
        )


def numbers(values: Any) -> Float[np.ndarray, "..."]:
    """The numbers of a JSON list; ValueError where one is not finite."""
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("numbers that are not finite")
    return array


def fuse_risks(a: SurvivalPrediction, b: SurvivalPrediction) -> SurvivalPrediction:
    """Late fusion: risks standardised by their training mean and sd, then averaged; curves averaged as they are.

    A predictor whose training risks are all equal adds nothing.

    Raises:
        ValueError: if the curves are not given at the same times.
    """
    if not np.array_equal(a.curve_times, b.curve_times):
        raise ValueError("late fusion needs both predictors' curves at the same times")
    standard = [_standardise(side) for side in (a, b)]
    return SurvivalPrediction(
        risk=(standard[0][0] + standard[1][0]) / 2,
        curves=(a.curves + b.curves) / 2,
        curve_times=a.curve_times,
        train_risk=(standard[0][1] + standard[1][1]) / 2,
        reason=a.reason or b.reason,
    )


def fuse_probabilities(a: ClassPrediction, b: ClassPrediction) -> ClassPrediction:
    """Late fusion: the mean of both predictors' probabilities."""
    return ClassPrediction((a.probabilities + b.probabilities) / 2, a.reason or b.reason)


def stratified_folds(strata: Int[np.ndarray, " n"], n_folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold that tests each case: those of scikit-learn's `StratifiedKFold`, whose import takes half of a dry run.

    Sorted by stratum, in the order of their first cases, the cases are counted off to the folds, which fixes how many of a
    stratum a fold tests; which of them, is drawn.

    Args:
        strata: the stratum of each case, as a number.
        n_folds: how many.
        seed: of the drawing.
    """
    first, codes = np.unique(strata, return_index=True, return_inverse=True)[1:]
    codes = np.argsort(np.argsort(first))[codes]  # numbered in the order of their first cases
    counted_off = np.arange(len(codes)) % n_folds  # of the sorted cases
    in_order, tested_by = np.sort(codes), np.empty(len(codes), dtype=np.int64)
    draw = np.random.RandomState(seed)
    for code in range(len(first)):
        folds = np.sort(counted_off[in_order == code])
        draw.shuffle(folds)
        tested_by[codes == code] = folds
    return tested_by


def inner_folds(labels: Int[np.ndarray, " m"], seed: int) -> list[tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]]:
    """Five inner folds, stratified by label; fewer where a label has fewer cases.

    Args:
        labels: class numbers of the m cases.
        seed: of the folds.

    Returns:
        For each fold the indices of the a fitted cases and of the b = m − a held-out cases.
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    n_folds = max(2, min(INNER_FOLDS, smallest))
    held_by = stratified_folds(labels, n_folds, seed)
    return [(np.flatnonzero(held_by != fold), np.flatnonzero(held_by == fold)) for fold in range(n_folds)]


def _standardise(prediction: SurvivalPrediction) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    mean, sd = prediction.train_risk.mean(), prediction.train_risk.std()
    scale = sd if sd > 0 else 1.0
    return (prediction.risk - mean) / scale, (prediction.train_risk - mean) / scale


def unfit_for_cox(train_event: Events, n_columns: int) -> str | None:
    """Why a Cox model cannot be fitted to these cases; None where it can."""
    if train_event.sum() < 2:
        return f"{count(int(train_event.sum()), 'event')} among {len(train_event)} training cases: a Cox model needs at least two"
    if n_columns == 0:
        return "no covariate varies among the training cases"
    return None
