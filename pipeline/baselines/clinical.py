"""Clinical baselines: models of age and sex and, for survival, of grade and subtype."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from pipeline.baselines.logistic import fit_logistic
from pipeline.baselines.predictors import (
    CURVE_TIMES,
    ClassPrediction,
    Events,
    LinearClasses,
    LinearRisk,
    Months,
    SurvivalPrediction,
    numbers,
    unfit_for_cox,
)

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

NUMERIC = ("age", "is_female")
CATEGORICAL = ("grade", "subtype")
CLINICAL_FOR_SURVIVAL = (*NUMERIC, *CATEGORICAL)
# Grade and subtype define one another (WHO 2021: an IDH-wildtype diffuse glioma of an adult is a glioblastoma, grade 4):
# each, given to predict the other, would be the label by another name.
CLINICAL_FOR_CLASSES = NUMERIC
CLINICAL_RIDGE = 0.01  # of lifelines' mean log-likelihood: steadies rare levels, moves the others by a few per cent


@dataclass(frozen=True)
class ClinicalDesign:
    """Numeric columns for a linear model, learned from training cases only.

    Numbers: a missing value is the training median. Categories: an indicator for each training level but the first; a
    case whose level is missing, or unknown to the training cases, gets the indicators' training means, so that it stands
    in the middle. What is constant or wholly missing in training is left out.

    Attributes:
        medians: of each number that is used.
        levels: of each category, the levels that have an indicator with the training mean of each.
        known: of each category, every training level.
    """

    medians: Mapping[str, float]
    levels: Mapping[str, Mapping[str, float]]
    known: Mapping[str, tuple[str, ...]]

    @classmethod
    def fit(cls, train: "pd.DataFrame", covariates: Sequence[str]) -> "ClinicalDesign":
        """Fit medians, levels and columns on the training cases; covariates that are absent are skipped."""
        medians, levels, known = {}, {}, {}
        for name in covariates:
            if name not in train.columns:
                continue
            if name in CATEGORICAL:
                words = as_words(train[name])
                there = words.dropna()
                known[name] = tuple(sorted(there.unique()))
                means = {level: float((there == level).mean()) for level in known[name][1:]}
                levels[name] = means if len(known[name]) > 1 else {}
            elif (values := as_numbers(train[name])).notna().any():
                if values.min() < values.max():
                    medians[name] = float(values.median())
            else:
                logger.warning("clinical covariate %s is missing for all %d training cases: left out", name, len(train))
        return cls(medians, levels, known)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [*self.medians, *(f"{name}={level}" for name, levels in self.levels.items() for level in levels)]

    def of(self, cases: "pd.DataFrame") -> Float[np.ndarray, "n g"]:
        """The columns of any cases; a clinical column that they lack counts as missing."""
        found = [np.zeros((len(cases), 0))]
        for name, median in self.medians.items():
            values = as_numbers(cases[name]).fillna(median) if name in cases.columns else np.full(len(cases), median)
            found.append(np.asarray(values, float)[:, None])
        for name, means in self.levels.items():
            words = (
                as_words(cases[name]).to_numpy(object) if name in cases.columns else np.full(len(cases), None, object)
            )
            recognised = np.isin(words.astype(str), self.known[name])
            found += [
                np.where(recognised, words == level, mean).astype(float)[:, None] for level, mean in means.items()
            ]
        return np.concatenate(found, axis=1)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"medians": dict(self.medians), "levels": dict(self.levels), "known": dict(self.known)}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "ClinicalDesign":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        medians = {str(name): float(numbers(value)) for name, value in described["medians"].items()}
        levels = {
            str(name): {str(level): float(numbers(mean)) for level, mean in means.items()}
            for name, means in described["levels"].items()
        }
        return cls(medians, levels, {name: tuple(map(str, described["known"][name])) for name in levels})


@dataclass(frozen=True)
class ClinicalRisk:
    """A Cox model of clinical columns."""

    design: ClinicalDesign
    linear: LinearRisk

    def predict(
        self, cases: "pd.DataFrame", *, curve_times: Float[np.ndarray, " t"] = CURVE_TIMES
    ) -> SurvivalPrediction:
        """Risks and curves of any cases, from their clinical columns."""
        return self.linear.predict(self.design.of(cases), curve_times=curve_times)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"design": self.design.to_json(), "linear": self.linear.to_json()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "ClinicalRisk":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        return cls(ClinicalDesign.from_json(described["design"]), LinearRisk.from_json(described["linear"]))


@dataclass(frozen=True)
class ClinicalClasses:
    """A logistic model of clinical columns."""

    design: ClinicalDesign
    linear: LinearClasses

    def predict(self, cases: "pd.DataFrame") -> ClassPrediction:
        """Probabilities of any cases, from their clinical columns."""
        return self.linear.predict(self.design.of(cases))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"design": self.design.to_json(), "linear": self.linear.to_json()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "ClinicalClasses":
        """What `to_json` returned, read back; ValueError or LookupError where it is unsound."""
        return cls(ClinicalDesign.from_json(described["design"]), LinearClasses.from_json(described["linear"]))


def fit_clinical_cox(
    train: "pd.DataFrame", time: Months, event: Events, *, covariates: Sequence[str] = CLINICAL_FOR_SURVIVAL
) -> ClinicalRisk:
    """A Cox model of age, sex, grade and subtype, as far as they are available, with a small ridge penalty (lifelines).

    Args:
        train: training cases' clinical columns.
        time: months to event or censoring.
        event: True if it happened.
        covariates: the columns to use, where present.
    """
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    design = ClinicalDesign.fit(train, covariates)
    x = design.of(train)
    if reason := unfit_for_cox(event, x.shape[1]):
        return ClinicalRisk(design, LinearRisk.failed(len(train), reason))
    table = pd.DataFrame(x, columns=design.columns).assign(_months=time, _event=event)
    try:
        model = CoxPHFitter(penalizer=CLINICAL_RIDGE).fit(table, "_months", "_event")
    except ConvergenceError as error:
        reason = f"the clinical Cox model did not converge: {error}"
        return ClinicalRisk(design, LinearRisk.failed(len(train), reason))
    coefficients, centre = model.params_.to_numpy(float), x.mean(axis=0)
    risk = (x - centre) @ coefficients
    return ClinicalRisk(design, LinearRisk.of(coefficients, centre, train_risk=risk, time=time, event=event))


def fit_clinical_logistic(
    train: "pd.DataFrame",
    labels: Int[np.ndarray, " m"],
    classes: Sequence[str],
    *,
    covariates: Sequence[str] = CLINICAL_FOR_CLASSES,
    seed: int,
) -> ClinicalClasses:
    """A logistic model of age and sex; grade and subtype are left out, since they define one another.

    Args:
        train: training cases' clinical columns.
        labels: class numbers.
        classes: names of the K classes.
        covariates: the columns to use, where present.
        seed: of the inner folds that choose the penalty.
    """
    design = ClinicalDesign.fit(train, covariates)
    x = design.of(train)
    if x.shape[1] == 0:
        return ClinicalClasses(
            design, LinearClasses.failed(len(classes), "no clinical covariate varies among the training cases")
        )
    mean, sd = x.mean(axis=0), x.std(axis=0)
    linear = fit_logistic((x - mean) / sd, labels, classes=classes, seed=seed, directions=np.diag(1 / sd), centre=mean)
    return ClinicalClasses(design, linear)


def as_numbers(column: "pd.Series") -> "pd.Series":
    """A column as floats; what is no number is missing."""
    import pandas as pd

    return pd.to_numeric(column, errors="coerce").astype(float)


def as_words(column: "pd.Series") -> "pd.Series":
    """A category's levels as text, whole numbers without a point: grade 3 is "3", whatever a table makes of its column."""
    import pandas as pd

    def word(value: Any) -> str | None:
        if pd.isna(value):
            return None
        return f"{value:g}" if isinstance(value, float | np.floating) else str(value)

    return column.map(word).astype(object)
