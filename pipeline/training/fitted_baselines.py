"""The baselines of a model: fitted beside it on the same training cases, kept in its folder, asked about the same cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from pipeline.baselines.clinical import ClinicalClasses, ClinicalRisk
from pipeline.baselines.predictors import (
    ClassPrediction,
    LinearClasses,
    LinearRisk,
    SurvivalPrediction,
    fuse_probabilities,
    fuse_risks,
    numbers,
)
from pipeline.tasks.base import FittedTask
from pipeline.tasks.survival import CURVE_MONTHS
from pipeline.training.dataset import Dataset
from pipeline.training.fit import predict_logits

MONTHS = np.array(CURVE_MONTHS, float)


class SlideModel(Protocol):
    """A trained model of slides alone, with its fitted task."""

    @property
    def model(self) -> nn.Module:
        """The network, on the CPU."""

    @property
    def task(self) -> FittedTask:
        """What its outputs mean."""


@dataclass(frozen=True)
class Baselines:
    """What a model has to beat.

    Attributes:
        classes: of the task; none for survival.
        clinical: of clinical columns.
        genes: ridge on all genes, as the model's scaler gives them; None without genes.
        slides: MIL on slides alone; None without slides, and for a model that is that itself.
        slides_train_risk: of survival, the risks that it gives its own training cases.
    """

    classes: tuple[str, ...]
    clinical: ClinicalRisk | ClinicalClasses
    genes: LinearRisk | LinearClasses | None
    slides: SlideModel | None
    slides_train_risk: Float[np.ndarray, " m"] | None = None

    def predict(self, labels: pd.DataFrame, data: Dataset, cases: Sequence[str], *, device: str) -> pd.DataFrame:
        """A row for each case and baseline: `case_id, baseline, reason`, and probabilities, or risk and curve.

        Args:
            labels: clinical columns of the cases, indexed by case id.
            data: their patch features, and genes as the model takes them.
            cases: ids.
            device: "cpu" or "cuda".
        """
        own = labels.reindex(list(cases))
        told = self._classes(own, data, cases, device) if self.classes else self._risks(own, data, cases, device)
        frames = [pd.DataFrame({"case_id": list(cases), "baseline": name} | columns) for name, columns in told.items()]
        return pd.concat(frames, ignore_index=True)

    def _risks(self, own: pd.DataFrame, data: Dataset, cases: Sequence[str], device: str) -> dict[str, dict[str, Any]]:
        told: dict[str, SurvivalPrediction] = {}
        if isinstance(self.clinical, ClinicalRisk):
            told["clinical"] = self.clinical.predict(own, curve_times=MONTHS)
        if isinstance(self.genes, LinearRisk):
            told["genes"] = self.genes.predict(data.genes(cases), curve_times=MONTHS)
        if self.slides and self.slides_train_risk is not None:
            decoded = self.slides.task.decode(predict_logits(self.slides.model, data, cases, device=device))
            curves = decoded[[f"survival_{month}m" for month in CURVE_MONTHS]].to_numpy()
            told["slides"] = SurvivalPrediction(decoded["risk"].to_numpy(), curves, MONTHS, self.slides_train_risk)
        if {"genes", "slides"} <= told.keys():
            told["late fusion"] = fuse_risks(told["slides"], told["genes"])
        return {
            name: {"reason": said.reason, "risk": said.risk, "train_risk_median": np.median(said.train_risk)}
            | {f"survival_{month}m": said.curves[:, i] for i, month in enumerate(CURVE_MONTHS)}
            for name, said in told.items()
        }

    def _classes(
        self, own: pd.DataFrame, data: Dataset, cases: Sequence[str], device: str
    ) -> dict[str, dict[str, Any]]:
        told: dict[str, ClassPrediction] = {}
        if isinstance(self.clinical, ClinicalClasses):
            told["clinical"] = self.clinical.predict(own)
        if isinstance(self.genes, LinearClasses):
            told["genes"] = self.genes.predict(data.genes(cases))
        if self.slides:
            decoded = self.slides.task.decode(predict_logits(self.slides.model, data, cases, device=device))
            told["slides"] = ClassPrediction(decoded[[f"probability_{name}" for name in self.classes]].to_numpy())
        if {"genes", "slides"} <= told.keys():
            told["late fusion"] = fuse_probabilities(told["slides"], told["genes"])
        return {
            name: {"reason": said.reason}
            | {f"probability_{label}": said.probabilities[:, k] for k, label in enumerate(self.classes)}
            for name, said in told.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the MIL model has a folder of its own."""
        risk = self.slides_train_risk
        return {
            "clinical": self.clinical.to_json(),
            "genes": self.genes.to_json() if self.genes else None,
            "slides": {"train_risk": None if risk is None else risk.tolist()} if self.slides else None,
        }

    @classmethod
    def from_json(
        cls, classes: tuple[str, ...], told: Mapping[str, Any] | None, slides: SlideModel | None
    ) -> "Baselines | None":
        """What `to_json` gave, with the task's classes and the MIL model."""
        if told is None:
            return None
        clinical = ClinicalClasses.from_json if classes else ClinicalRisk.from_json
        genes = LinearClasses.from_json if classes else LinearRisk.from_json
        risk = told["slides"]["train_risk"] if slides else None
        return cls(
            classes,
            clinical(told["clinical"]),
            genes(told["genes"]) if told["genes"] else None,
            slides,
            None if risk is None else numbers(risk),
        )
