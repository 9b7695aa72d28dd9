"""The baselines of survival: Cox models of clinical columns and of genes, a model of slides, and late fusion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from pipeline.baselines.clinical import ClinicalRisk, fit_clinical_cox
from pipeline.baselines.contract import TaskBaselines
from pipeline.baselines.genomic import fit_omics_cox
from pipeline.baselines.predictors import LinearRisk, SurvivalPrediction, fuse_risks, numbers

CURVE_MONTHS = (6, 12, 18, 24, 30, 36, 48, 60, 84, 120)  # where survival curves are tabulated
CURVE_COLUMNS = [f"survival_{month}m" for month in CURVE_MONTHS]
CURVE_TIMES = np.array(CURVE_MONTHS, float)


@dataclass(frozen=True)
class SurvivalBaselines(TaskBaselines):
    """Baselines of survival; a higher risk is a worse outcome.

    Attributes:
        clinical: Cox model of age, sex, grade and subtype.
        genes: ridge Cox model of all genes; None without genes.
        slides_train_risk: risks of the m training cases by the model of slides only; None without slides.
    """

    clinical: ClinicalRisk
    genes: LinearRisk | None
    slides_train_risk: Float[np.ndarray, " m"] | None

    @classmethod
    def fit(
        cls,
        train: pd.DataFrame,
        months: Float[np.ndarray, " m"],
        event: Bool[np.ndarray, " m"],
        genes: Float[np.ndarray, "m g"] | None,
        slides: pd.DataFrame | None,
        *,
        seed: int,
    ) -> "SurvivalBaselines":
        """Fitted on m training cases.

        Args:
            train: clinical columns.
            months: to death or censoring.
            event: True for a death.
            genes: scaled; None without.
            slides: predictions of the same cases by a model of slides only; None without.
            seed: of inner folds.
        """
        return cls(
            clinical=fit_clinical_cox(train, months, event),
            genes=None if genes is None else fit_omics_cox(genes, months, event, seed=seed),
            slides_train_risk=None if slides is None else slides["risk"].to_numpy(float),
        )

    def predict(
        self, clinical: pd.DataFrame, genes: Float[np.ndarray, "n g"] | None, slides: pd.DataFrame | None
    ) -> dict[str, pd.DataFrame]:
        """Risk, survival curve and the median risk of the training cases, by baseline."""
        found: dict[str, SurvivalPrediction] = {"clinical": self.clinical.predict(clinical, curve_times=CURVE_TIMES)}
        if self.genes is not None and genes is not None:
            found["genes"] = self.genes.predict(genes, curve_times=CURVE_TIMES)
        if slides is not None and self.slides_train_risk is not None:
            risk, curves = slides["risk"].to_numpy(float), slides.reindex(columns=CURVE_COLUMNS).to_numpy(float)
            found["slides"] = SurvivalPrediction(risk, curves, CURVE_TIMES, self.slides_train_risk)
        if {"genes", "slides"} <= found.keys():
            found["late fusion"] = fuse_risks(found["slides"], found["genes"])
        return {name: _table(one) for name, one in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        risk = self.slides_train_risk
        return {
            "clinical": self.clinical.to_json(),
            "genes": self.genes.to_json() if self.genes else None,
            "slides_train_risk": None if risk is None else risk.tolist(),
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "SurvivalBaselines":
        """What `to_json` returned."""
        risk = described["slides_train_risk"]
        return cls(
            clinical=ClinicalRisk.from_json(described["clinical"]),
            genes=LinearRisk.from_json(described["genes"]) if described["genes"] else None,
            slides_train_risk=None if risk is None else numbers(risk),
        )


def _table(prediction: SurvivalPrediction) -> pd.DataFrame:
    table = pd.DataFrame({"reason": prediction.reason, "risk": prediction.risk})
    return table.assign(
        train_risk_median=np.median(prediction.train_risk),
        **{name: prediction.curves[:, i] for i, name in enumerate(CURVE_COLUMNS)},
    )
