"""The baselines of a model: fitted beside it on the same training cases, kept in its folder, applied to the same cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
from torch import nn

from pipeline.baselines.contract import TaskBaselines
from pipeline.tasks import FittedTask
from pipeline.training.dataset import Dataset
from pipeline.training.fit import predict_logits


class SlideModel(Protocol):
    """A trained model of slides only, with its fitted task."""

    @property
    def model(self) -> nn.Module:
        """The network, on the CPU."""

    @property
    def task(self) -> FittedTask:
        """The task of the network, fitted on its training cases."""


@dataclass(frozen=True)
class Baselines:
    """What a model has to beat.

    Attributes:
        simple: the task's predictors from clinical columns and genes.
        slides: MIL on slides only; None without slides, and for a model that is that itself.
    """

    simple: TaskBaselines
    slides: SlideModel | None

    def predict(self, labels: pd.DataFrame, data: Dataset, cases: Sequence[str], *, device: str) -> pd.DataFrame:
        """A row for each case and baseline: `case_id, baseline, reason`, and the task's numbers.

        Args:
            labels: clinical columns of the cases, indexed by case id.
            data: their patch features, and genes as the model takes them.
            cases: ids.
            device: "cpu" or "cuda".
        """
        slides = None
        if self.slides:
            slides = self.slides.task.decode(predict_logits(self.slides.model, data, cases, device=device))
        genes = data.genes(cases) if data.omics else None
        found = self.simple.predict(labels.reindex(list(cases)), genes, slides)
        frames = []
        for name, table in found.items():
            numbers = [column for column in table if column != "reason"]
            head = pd.DataFrame({"case_id": list(cases), "baseline": name, "reason": table["reason"]})
            frames.append(pd.concat([head, table[numbers]], axis=1))
        return pd.concat(frames, ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the MIL model has a folder of its own."""
        return {"simple": self.simple.to_json(), "slides": self.slides is not None}

    @classmethod
    def from_json(
        cls, task: FittedTask, described: Mapping[str, Any] | None, slides: SlideModel | None
    ) -> "Baselines | None":
        """What `to_json` returned, with the model's task and the MIL model."""
        return None if described is None else cls(task.restore_baselines(described["simple"]), slides)
