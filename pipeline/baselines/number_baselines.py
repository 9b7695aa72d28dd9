"""The baselines of a number: ridge models of clinical columns and of genes, a model of slides, and late fusion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.baselines.contract import TaskBaselines
from pipeline.baselines.numbers import ClinicalNumber, LinearNumber, fit_clinical_ridge, fit_omics_ridge

VALUE = "value"  # column of the predicted number


@dataclass(frozen=True)
class NumberBaselines(TaskBaselines):
    """Baselines of a number.

    Attributes:
        clinical: ridge model of age, sex, grade and subtype.
        genes: ridge model of all genes; None without genes.
    """

    clinical: ClinicalNumber
    genes: LinearNumber | None

    @classmethod
    def fit(
        cls, train: pd.DataFrame, label: Float[np.ndarray, " m"], genes: Float[np.ndarray, "m g"] | None, *, seed: int
    ) -> "NumberBaselines":
        """Fitted on m training cases.

        Args:
            train: clinical columns.
            label: numbers.
            genes: scaled; None without.
            seed: of inner folds.
        """
        return cls(
            clinical=fit_clinical_ridge(train, label, seed=seed),
            genes=None if genes is None else fit_omics_ridge(genes, label, seed=seed),
        )

    def predict(
        self, clinical: pd.DataFrame, genes: Float[np.ndarray, "n g"] | None, slides: pd.DataFrame | None
    ) -> dict[str, pd.DataFrame]:
        """The number by baseline; late fusion is the mean of slides and genes."""
        found = {"clinical": _table(self.clinical.predict(clinical), self.clinical.linear.reason)}
        if self.genes is not None and genes is not None:
            found["genes"] = _table(self.genes.predict(genes), self.genes.reason)
        if slides is not None:
            found["slides"] = _table(slides[VALUE].to_numpy(float), None)
        if {"genes", "slides"} <= found.keys():
            mean = (found["slides"][VALUE] + found["genes"][VALUE]) / 2
            found["late fusion"] = _table(mean.to_numpy(), self.genes.reason if self.genes else None)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"clinical": self.clinical.to_json(), "genes": self.genes.to_json() if self.genes else None}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "NumberBaselines":
        """What `to_json` returned."""
        genes = LinearNumber.from_json(described["genes"]) if described["genes"] else None
        return cls(ClinicalNumber.from_json(described["clinical"]), genes)


def _table(values: Float[np.ndarray, " n"], reason: str | None) -> pd.DataFrame:
    return pd.DataFrame({"reason": reason, VALUE: values})
