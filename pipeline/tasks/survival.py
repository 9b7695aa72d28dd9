"""Survival: a hazard for each of a few time bins; the risk is what their curve says."""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from models.losses import risk, survival_nll
from pipeline.baselines.genomic import NotConvergedError, OmicsRisk, omics_risk
from pipeline.metrics import c_index
from pipeline.tasks.base import FittedTask, Task
from preprocessing.io.errors import InputError

log = logging.getLogger(__name__)
CURVE_MONTHS = (6, 12, 18, 24, 30, 36, 48, 60, 84, 120)  # where the survival curve is told
N_BINS = 4


@dataclass(frozen=True)
class FittedSurvival(FittedTask):
    """Time bins.

    Attributes:
        edges_months: the inner edges; a time equal to an edge belongs to the later bin.
        last_month: the longest time of a training case, where the curve ends.
        median_risk: of the training cases; a higher risk is the high-risk group. NaN until calibrated.
    """

    edges_months: tuple[float, ...]
    last_month: float
    median_risk: float = float("nan")

    @property
    def n_outputs(self) -> int:
        """One a bin."""
        return len(self.edges_months) + 1

    def encode(self, labels: pd.DataFrame) -> Int[np.ndarray, "n 3"]:
        """Time bin, 1 where the case died, and the time in thousandths of a month, on which `score` orders cases."""
        months = labels["survival_months"].to_numpy(float)
        bins = np.searchsorted(self.edges_months, months, side="right")
        columns = [bins, labels["event"].to_numpy(bool), np.round(1000 * months)]
        return np.column_stack(columns).astype(np.int64)

    def loss(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B 3"]) -> Float[Tensor, ""]:
        """Negative log-likelihood of the hazards."""
        return survival_nll(logits, targets[:, 0], targets[:, 1].bool()).mean()

    def score(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B 3"]) -> float:
        """The c-index of the risks within the batch; NaN where no two of its cases can be compared."""
        told, known = risk(logits.detach()).cpu().numpy(), targets.cpu().numpy()
        value = c_index(known[:, 2].astype(float), known[:, 1].astype(bool), told.astype(float)).point
        return float("nan") if value is None else value

    def evidence(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The risk."""
        return risk(logits)

    def output(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The risk."""
        return risk(logits)

    def curve(self, logits: Float[np.ndarray, "n K"], months: Float[np.ndarray, " T"]) -> Float[np.ndarray, "n T"]:
        """Probability to be alive at the given months: the hazard is constant within a bin, the curve level at the end."""
        log_survival = self._log_survival(logits)
        knots = np.array([0.0, *self.edges_months, max(self.last_month, *self.edges_months)])
        values = np.pad(log_survival, ((0, 0), (1, 0)))
        return np.exp(np.stack([np.interp(months, knots, row) for row in values]).reshape(len(logits), len(months)))

    def decode(self, logits: Float[np.ndarray, "n K"]) -> pd.DataFrame:
        """Risk group, risk (minus the sum of the survival curve over the bins) and the curve at a few months."""
        risk = -np.exp(self._log_survival(logits)).sum(1)
        curve = self.curve(logits, np.array(CURVE_MONTHS, float))
        group = np.where(risk > self.median_risk, "high risk", "low risk")
        columns = {f"survival_{month}m": curve[:, i] for i, month in enumerate(CURVE_MONTHS)}
        return pd.DataFrame({"prediction": group, "risk": risk, **columns})

    @staticmethod
    def _log_survival(logits: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
        return -np.logaddexp(0, logits.astype(float)).cumsum(1)  # log(1 − sigmoid(x)) = −log(1 + exp(x))

    def calibrated(self, logits: Float[np.ndarray, "n K"]) -> "FittedSurvival":
        """With the median risk of the training cases."""
        return replace(self, median_risk=float(np.median(self.decode(logits)["risk"])))

    def gene_risk(self, genes: Float[np.ndarray, "n g"], labels: pd.DataFrame, *, seed: int) -> OmicsRisk | None:
        """That of a ridge Cox model: it ranks cases better than logits of each bin, which are linear apart, would."""
        time, event = labels["survival_months"].to_numpy(float), labels["event"].to_numpy(bool)
        try:
            return omics_risk(genes, time, event, seed=seed)
        except NotConvergedError as failure:
            log.warning("survival: the model is put on no linear risk: %s", failure)
            return None

    def to_json(self) -> dict[str, Any]:
        """Edges, end and median risk."""
        return asdict(self)


class Survival(Task):
    """Time to death in months, right-censored."""

    name = "survival"
    label_columns = ("survival_months", "event")

    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Raise InputError without deaths or without differing times; warn where deaths are fewer than twice the folds."""
        self.require_cases(len(labels), folds)
        deaths = int(labels["event"].sum())
        if deaths < folds:
            raise InputError(
                f"task survival: {deaths} deaths among {len(labels)} cases for {folds} folds: every fold needs one; use fewer "
                "folds (--folds), check that the event column is not inverted, or leave survival out by naming the other tasks"
            )
        if labels["survival_months"].nunique() < 2:
            raise InputError(
                f"task survival: every case has the same time, {labels['survival_months'].iloc[0]:g} months"
            )
        return [f"task survival: only {deaths} deaths for {folds} folds"] if deaths < 2 * folds else []

    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Raise InputError without a death among the training cases; warn without one among the test cases."""
        if not train["event"].any():
            raise InputError(
                f"task survival: fold {number} has no death among its {len(train)} training cases; use other splits, or fewer folds"
            )
        if not test["event"].any():
            return [f"task survival: fold {number} has no death among its {len(test)} test cases: no metric of its own"]
        return []

    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """Dead or alive, early or late."""
        late = labels["survival_months"] > labels.groupby("event")["survival_months"].transform("median")
        return labels["event"].astype(bool).map({True: "died", False: "censored"}) + late.map(
            {True: " late", False: " early"}
        )

    def vocabulary(self, labels: pd.DataFrame) -> tuple[str, ...]:
        """Survival has no classes."""
        return ()

    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedSurvival:
        """Bins at the quartiles of the training cases' times of death."""
        times = labels["survival_months"].astype(float)
        died = times[labels["event"].astype(bool)]
        edges = np.unique(np.quantile(died, np.arange(1, N_BINS) / N_BINS))
        return FittedSurvival(tuple(float(edge) for edge in edges), float(times.max()))

    def restore(self, fitted: dict[str, Any]) -> FittedSurvival:
        """From a model folder."""
        edges, last = tuple(map(float, fitted["edges_months"])), float(fitted["last_month"])
        median = float(fitted["median_risk"])
        if not np.isfinite(median):
            raise ValueError(f"a median risk of {median}")
        if list(edges) != sorted(set(edges)) or not all(0 < month < float("inf") for month in (*edges, last)):
            raise ValueError(f"time bins with edges {edges}, up to {last} months")
        return FittedSurvival(edges, last, median)

    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """Months; a plus sign behind them for a case that was alive then."""
        plus = labels["event"].astype(bool).map({True: "", False: "+"})
        return labels["survival_months"].astype(float).round(2).astype(str) + plus
