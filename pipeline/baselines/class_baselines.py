"""The baselines of classes: logistic models of clinical columns and of genes, a model of slides, and late fusion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from pipeline.baselines.clinical import ClinicalClasses, fit_clinical_logistic
from pipeline.baselines.contract import TaskBaselines
from pipeline.baselines.genomic import fit_omics_logistic
from pipeline.baselines.predictors import ClassPrediction, LinearClasses, fuse_probabilities


@dataclass(frozen=True)
class ClassBaselines(TaskBaselines):
    """Baselines of K classes.

    Attributes:
        classes: their names.
        clinical: logistic model of age and sex.
        genes: ridge logistic model of all genes; None without genes.
    """

    classes: tuple[str, ...]
    clinical: ClinicalClasses
    genes: LinearClasses | None

    @classmethod
    def fit(
        cls,
        classes: tuple[str, ...],
        train: pd.DataFrame,
        labels: Int[np.ndarray, " m"],
        genes: Float[np.ndarray, "m g"] | None,
        *,
        seed: int,
    ) -> "ClassBaselines":
        """Fitted on m training cases.

        Args:
            classes: names.
            train: clinical columns.
            labels: class numbers.
            genes: scaled; None without.
            seed: of inner folds.
        """
        return cls(
            classes=classes,
            clinical=fit_clinical_logistic(train, labels, classes, seed=seed),
            genes=None if genes is None else fit_omics_logistic(genes, labels, classes, seed=seed),
        )

    def predict(
        self, clinical: pd.DataFrame, genes: Float[np.ndarray, "n g"] | None, slides: pd.DataFrame | None
    ) -> dict[str, pd.DataFrame]:
        """Probabilities by baseline."""
        columns = [f"probability_{name}" for name in self.classes]
        found: dict[str, ClassPrediction] = {"clinical": self.clinical.predict(clinical)}
        if self.genes is not None and genes is not None:
            found["genes"] = self.genes.predict(genes)
        if slides is not None:
            found["slides"] = ClassPrediction(slides[columns].to_numpy(float))
        if {"genes", "slides"} <= found.keys():
            found["late fusion"] = fuse_probabilities(found["slides"], found["genes"])
        return {
            name: pd.DataFrame(one.probabilities, columns=columns).assign(reason=one.reason)
            for name, one in found.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the classes are the task's."""
        return {"clinical": self.clinical.to_json(), "genes": self.genes.to_json() if self.genes else None}

    @classmethod
    def from_json(cls, classes: tuple[str, ...], described: Mapping[str, Any]) -> "ClassBaselines":
        """What `to_json` returned."""
        genes = LinearClasses.from_json(described["genes"]) if described["genes"] else None
        return cls(classes, ClinicalClasses.from_json(described["clinical"]), genes)
