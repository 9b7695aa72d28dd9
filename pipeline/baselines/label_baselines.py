"""The baselines of several labels: logistic models of clinical columns and of genes for each, a model of slides, late fusion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.baselines.clinical import ClinicalClasses, fit_clinical_logistic
from pipeline.baselines.contract import TaskBaselines
from pipeline.baselines.genomic import fit_omics_logistic
from pipeline.baselines.predictors import LinearClasses
from preprocessing.io.errors import count


@dataclass(frozen=True)
class LabelBaselines(TaskBaselines):
    """Baselines of L labels, each fitted on the training cases where it is known.

    Attributes:
        names: of the labels.
        clinical: logistic model of age and sex, for each label.
        genes: ridge logistic model of all genes, for each label; None without genes.
    """

    names: tuple[str, ...]
    clinical: tuple[ClinicalClasses, ...]
    genes: tuple[LinearClasses, ...] | None

    @classmethod
    def fit(
        cls,
        names: tuple[str, ...],
        train: pd.DataFrame,
        targets: Float[np.ndarray, "m L"],
        genes: Float[np.ndarray, "m g"] | None,
        *,
        seed: int,
    ) -> "LabelBaselines":
        """Fitted on m training cases.

        Args:
            names: of the labels.
            train: clinical columns.
            targets: 1, 0, or −1 where a label is unknown.
            genes: scaled; None without.
            seed: of inner folds.
        """
        known = [(column >= 0, column[column >= 0].astype(np.int64)) for column in targets.T]
        states = [("no " + name, name) for name in names]
        fitted = list(zip(known, states, strict=True))
        clinical = tuple(fit_clinical_logistic(train[rows], y, state, seed=seed) for (rows, y), state in fitted)
        if genes is None:
            return cls(names, clinical, None)
        return cls(
            names,
            clinical,
            tuple(fit_omics_logistic(genes[rows], y, state, seed=seed) for (rows, y), state in fitted),
        )

    def predict(
        self, clinical: pd.DataFrame, genes: Float[np.ndarray, "n g"] | None, slides: pd.DataFrame | None
    ) -> dict[str, pd.DataFrame]:
        """Probabilities of the labels by baseline; late fusion is the mean of slides and genes."""
        columns = [f"probability_{name}" for name in self.names]
        found = {"clinical": self._table([one.predict(clinical) for one in self.clinical], columns)}
        if self.genes is not None and genes is not None:
            found["genes"] = self._table([one.predict(genes) for one in self.genes], columns)
        if slides is not None:
            found["slides"] = slides[columns].reset_index(drop=True).assign(reason=None)
        if {"genes", "slides"} <= found.keys():
            mean = (found["slides"][columns] + found["genes"][columns]) / 2
            found["late fusion"] = mean.assign(reason=found["genes"]["reason"])
        return found

    @staticmethod
    def _table(predictions: list[Any], columns: list[str]) -> pd.DataFrame:
        reasons = [one.reason for one in predictions if one.reason]
        values = np.column_stack([one.probabilities[:, 1] for one in predictions])
        return pd.DataFrame(values, columns=columns).assign(reason="; ".join(dict.fromkeys(reasons)) or None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the labels are the task's."""
        return {
            "clinical": [one.to_json() for one in self.clinical],
            "genes": None if self.genes is None else [one.to_json() for one in self.genes],
        }

    @classmethod
    def from_json(cls, names: tuple[str, ...], described: Mapping[str, Any]) -> "LabelBaselines":
        """What `to_json` returned; ValueError where it is unsound."""
        clinical = tuple(map(ClinicalClasses.from_json, described["clinical"]))
        genes = tuple(map(LinearClasses.from_json, described["genes"])) if described["genes"] else None
        if len(clinical) != len(names) or (genes is not None and len(genes) != len(names)):
            raise ValueError(f"baselines of {count(len(clinical), 'label')} for {len(names)}")
        return cls(names, clinical, genes)
