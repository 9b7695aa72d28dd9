"""Survival: a hazard for each of a few time bins; the risk is minus the area under their survival curve."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from models.loss_config import LossConfig
from pipeline.baselines.clinical_scores import clinical_scores, side_by_side
from pipeline.baselines.genomic import SLOPE_PENALTY, GeneScores, omics_risk, ridge_cox
from pipeline.baselines.predictors import LinearRisk, NotConvergedError
from pipeline.baselines.survival_baselines import CURVE_COLUMNS, CURVE_TIMES, SurvivalBaselines
from pipeline.metrics import (
    Bootstrap,
    FollowUp,
    PredictorReport,
    Statistic,
    SurvivalMetrics,
    SurvivalPredictions,
    c_index,
    survival_by_fold,
    survival_metrics,
)
from pipeline.tasks.base import OUTCOME, FittedTask, Task
from pipeline.tasks.spec import TaskSpec
from preprocessing.io.errors import InputError, count, some
from preprocessing.labels.columns import LabelTable, is_binary, read_flag, text_of
from preprocessing.labels.survival import follow_up, read_endpoint
from preprocessing.tables.reading import read_number

if TYPE_CHECKING:  # a plan needs no torch, which takes seconds to import
    from torch import Tensor

log = logging.getLogger(__name__)
N_BINS = 4
HIGH, LOW = "high risk", "low risk"
TIME_BIN, EVENT, MONTHS = range(3)  # columns of the targets


@dataclass(frozen=True)
class FittedSurvival(FittedTask):
    """Time bins.

    Attributes:
        edges_months: the inner edges; a time equal to an edge belongs to the later bin.
        last_month: the longest time of a training case, where curves end.
        median_risk: of the training cases; a higher risk is the high-risk group. NaN until calibrated.
        calibration: survival curves by risk; None where no case was predicted without having been trained on: then curves
            are those of the hazards of the bins.
        alpha: what the loss takes off the weight of censored cases; of no account once the model is trained.
        cox: share of Cox's partial likelihood in the loss; likewise.
    """

    edges_months: tuple[float, ...]
    last_month: float
    median_risk: float = float("nan")
    calibration: LinearRisk | None = None
    alpha: float = 0.5
    cox: float = 0.0

    headline: ClassVar[str] = "c_index"
    chance: ClassVar[float | None] = 0.5

    @property
    def n_outputs(self) -> int:
        """Number of time bins."""
        return len(self.edges_months) + 1

    def encode(self, labels: pd.DataFrame) -> Float[np.ndarray, "n 3"]:
        """Time bin (0 to K − 1), 1 where the case died (else 0), and months to death or censoring."""
        months = labels["survival_months"].to_numpy(float)
        bins = np.searchsorted(self.edges_months, months, side="right")
        return np.column_stack([bins, labels["event"].to_numpy(bool), months]).astype(float)

    def loss(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B 3"]) -> Float[Tensor, ""]:
        """Negative log-likelihood of the hazards, and a share of Cox's partial one."""
        from models.losses import cox_loss, survival_nll

        event = targets[:, EVENT].bool()
        loss = survival_nll(logits, targets[:, TIME_BIN].long(), event, self.alpha).mean()
        if self.cox:
            loss = (1 - self.cox) * loss + self.cox * cox_loss(logits, targets[:, MONTHS], event)
        return loss

    def trained_with(self, loss: LossConfig) -> FittedSurvival:
        """With that weight of censored cases, and that share of Cox's likelihood."""
        return replace(self, alpha=loss.alpha, cox=loss.cox)

    def score(self, logits: Float[Tensor, "B K"], targets: Float[Tensor, "B 3"]) -> float:
        """The c-index of the risks within the batch; NaN where no two of its cases can be compared."""
        from models.losses import risk

        risks, known = risk(logits.detach()).cpu().numpy(), targets.cpu().numpy()
        value = c_index(known[:, MONTHS].astype(float), known[:, EVENT].astype(bool), risks.astype(float)).point
        return float("nan") if value is None else value

    def evidence(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The risk."""
        from models.losses import risk

        return risk(logits)

    def output(self, logits: Float[Tensor, "B K"], of: Float[Tensor, " K"]) -> Float[Tensor, " B"]:
        """The risk."""
        from models.losses import risk

        return risk(logits)

    def curve(self, logits: Float[np.ndarray, "n K"], months: Float[np.ndarray, " T"]) -> Float[np.ndarray, "n T"]:
        """Survival probability at the given months, by the risk; NaN beyond the longest time of a training case.

        Four bins with level hazards between quartiles of the times of death say too little of late years, and a network is
        surer of its training cases than of others. Curves are therefore those of a Cox model of the risk alone, with
        Breslow's baseline hazard, fitted to predictions of cases that the network was not trained on (van Houwelingen
        2000, "Validation, calibration, revision and combination of prognostic survival models").
        """
        if self.calibration is not None:
            return self.calibration.predict(self._risk(logits)[:, None], curve_times=months).curves
        return self._curve_of_bins(logits, months)

    def _curve_of_bins(
        self, logits: Float[np.ndarray, "n K"], months: Float[np.ndarray, " T"]
    ) -> Float[np.ndarray, "n T"]:
        """The hazard is constant within a bin."""
        log_survival = self._log_survival(logits)
        knots = np.array([0.0, *self.edges_months, max(self.last_month, *self.edges_months)])
        values = np.pad(log_survival, ((0, 0), (1, 0)))
        by_time = [np.interp(months, knots, row, right=np.nan) for row in values]
        return np.exp(np.array(by_time).reshape(len(logits), len(months)))

    def decode(self, logits: Float[np.ndarray, "n K"]) -> pd.DataFrame:
        """Risk group, risk (minus the sum of the survival curve over the bins, −K to 0) and the curve at a few months."""
        risk = self._risk(logits)
        curve = self.curve(logits, CURVE_TIMES)
        columns = {name: curve[:, i] for i, name in enumerate(CURVE_COLUMNS)}
        return pd.DataFrame({"prediction": self._groups(risk), "risk": risk, **columns})

    def _risk(self, logits: Float[np.ndarray, "n K"]) -> Float[np.ndarray, " n"]:
        return -np.exp(self._log_survival(logits)).sum(1)

    def _groups(self, risk: Float[np.ndarray, " n"]) -> np.ndarray:
        return np.where(risk > self.median_risk, HIGH, LOW)

    @staticmethod
    def _log_survival(logits: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
        return -np.logaddexp(0, logits.astype(float)).cumsum(1)  # log(1 − sigmoid(x)) = −log(1 + exp(x))

    def calibrated(self, logits: Float[np.ndarray, "n K"], labels: pd.DataFrame | None) -> FittedSurvival:
        """With the median risk of the training cases, and curves by risk where the cases were not trained on."""
        risk = self._risk(logits)
        fitted = replace(self, median_risk=float(np.median(risk)))
        if labels is None:
            return fitted
        months, event = outcome(labels)
        try:
            slope = ridge_cox(risk[:, None], months, event, penalty=SLOPE_PENALTY)[0].clip(0)
        except NotConvergedError as failure:
            log.warning("survival: curves are not calibrated on left-out cases: %s", failure)
            return fitted
        curves = LinearRisk.of(np.ones(1), np.zeros(1), train_risk=risk, time=months, event=event, slope=float(slope))
        return replace(fitted, calibration=curves)

    def gene_scores(self, genes: Float[np.ndarray, "n g"], labels: pd.DataFrame, *, seed: int) -> GeneScores | None:
        """The log hazard of a ridge Cox model, and scores of age, grade and subtype where `labels` has them.

        The log hazard ranks cases better than separate linear logits of each bin would.
        """
        time, event = labels["survival_months"].to_numpy(float), labels["event"].to_numpy(bool)
        try:
            risk = omics_risk(genes, time, event, seed=seed)
        except NotConvergedError as failure:
            log.warning("survival: the model has no linear logits of the genes: %s", failure)
            return None
        return side_by_side([risk, *clinical_scores(genes, labels, seed=seed)])

    def to_json(self) -> dict[str, Any]:
        """Edges, end, median risk, and the calibration where there is one."""
        return {
            "edges_months": self.edges_months,
            "last_month": self.last_month,
            "median_risk": self.median_risk,
            "calibration": self.calibration.to_json() if self.calibration else None,
        }

    def with_ensemble_sd(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """With `ensemble_sd`, the standard deviation of the members' risks, and the range of their curves.

        Each column of the curve gets two beside it, `…_ensemble_min` and `…_ensemble_max`: the lowest and the highest value
        among the members (and the ensemble), which are no confidence interval.
        """
        several = len(members) > 1
        table = super().with_ensemble_sd(predictions, members)
        for name in CURVE_COLUMNS:
            curves = np.stack([one[name].to_numpy(float) for one in (predictions, *members)])
            table[f"{name}_ensemble_min"] = curves.min(axis=0) if several else np.nan
            table[f"{name}_ensemble_max"] = curves.max(axis=0) if several else np.nan
        return table

    def disagreement(self, predictions: pd.DataFrame, members: Sequence[pd.DataFrame]) -> Float[np.ndarray, " n"]:
        """Standard deviation of the members' risks."""
        return np.stack([one["risk"].to_numpy(float) for one in members]).std(axis=0, ddof=1)

    def joined(self, others: Sequence[FittedTask]) -> FittedSurvival:
        """With the mean of the models' median risks: an approximation of the median of their mean risk."""
        medians = [one.median_risk for one in (self, *others) if isinstance(one, FittedSurvival)]
        return replace(self, median_risk=float(np.mean(medians)))

    def mean_prediction(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """The mean risks and curves, and risk groups by them."""
        numbers = ["risk", *CURVE_COLUMNS]
        mean = pd.DataFrame(
            np.mean([part.reindex(columns=numbers).to_numpy(float) for part in parts], axis=0), columns=numbers
        )
        mean.insert(0, "prediction", self._groups(mean["risk"].to_numpy()))
        return mean

    def agrees_with(self, other: FittedTask) -> bool:
        """Whether the other predicts survival: time bins may differ."""
        return isinstance(other, FittedSurvival)

    def training_columns(self) -> dict[str, Any]:
        """The median risk of the training cases, where risk groups are cut."""
        return {"train_risk_median": self.median_risk}

    def evaluate(
        self,
        cases: pd.DataFrame,
        predictions: pd.DataFrame,
        *,
        folds: Int[np.ndarray, " n"] | None,
        bootstrap: Bootstrap,
    ) -> PredictorReport[Any]:
        """See `survival_by_fold`; without folds the censoring distribution is that of the cases themselves."""
        known = FollowUp(*outcome(cases))
        predicted = SurvivalPredictions(
            predictions["risk"].to_numpy(float),
            curves=predictions.reindex(columns=CURVE_COLUMNS).to_numpy(float),
            curve_times=CURVE_TIMES,
            train_risk_median=predictions["train_risk_median"].to_numpy(float),
        )
        if folds is not None:
            return survival_by_fold(known, predicted, folds, bootstrap)
        pooled = survival_metrics(known, predicted, train=known, bootstrap=bootstrap)
        return PredictorReport(pooled=pooled, folds=())

    def headline_statistic(
        self, cases: pd.DataFrame, predictions: pd.DataFrame, *, folds: Int[np.ndarray, " n"] | None
    ) -> Statistic:
        """The c-index."""
        return c_index(*outcome(cases), predictions["risk"].to_numpy(float), folds=folds)

    def on_common_scale(self, predictions: pd.DataFrame, folds: Int[np.ndarray, " n"] | None) -> pd.DataFrame:
        """Risks as ranks, within folds: those of two models have no scale in common."""
        of_fold = np.zeros(len(predictions)) if folds is None else folds
        return predictions.assign(risk=predictions["risk"].astype(float).groupby(of_fold).rank())

    def fit_baselines(
        self,
        train: pd.DataFrame,
        genes: Float[np.ndarray, "m g"] | None,
        slides: pd.DataFrame | None,
        *,
        seed: int,
    ) -> SurvivalBaselines:
        """Cox models of clinical columns and of genes."""
        return SurvivalBaselines.fit(train, *outcome(train), genes, slides, seed=seed)

    def restore_baselines(self, described: Mapping[str, Any]) -> SurvivalBaselines:
        """From a model folder."""
        return SurvivalBaselines.from_json(described)


def outcome(cases: pd.DataFrame) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Months to death or censoring, and True for a death, of cases whose outcome is known; text is read as `True`, `1`."""
    event = cases["event"].astype(str).str.lower().isin(("true", "1", "1.0"))
    return cases["survival_months"].to_numpy(float), event.to_numpy(bool)


class Survival(Task):
    """Time to death in months, right-censored."""

    kind = "survival"
    metrics_type = SurvivalMetrics
    truth_columns = OUTCOME
    # Curves end with the follow-up of the training cases.
    partial_columns = tuple(f"{name}{end}" for name in CURVE_COLUMNS for end in ("", "_ensemble_min", "_ensemble_max"))
    summary_metrics = ("c_index", "uno_c_index")
    atlas_column = "risk"
    output_name = evidence_name = evidence_definition = "the risk"
    evidence_effect = "raises the risk"

    def __init__(self, name: str, spec: TaskSpec) -> None:
        super().__init__(name, spec)
        self.label_columns = OUTCOME if spec.column == OUTCOME else (f"{name}_months", f"{name}_event")

    @classmethod
    def recognise(cls, columns: pd.DataFrame) -> str | None:
        """A column of times, none negative, and one of events."""
        if columns.shape[1] != 2:
            return None
        times, events = (columns[name].dropna().map(text_of) for name in columns)
        numbers = times.map(read_number)
        is_time = numbers.notna().all() and numbers.ge(0).all() and not is_binary(times)
        return "a time and an event" if is_time and events.map(read_flag).notna().all() else None

    def read(self, table: LabelTable) -> pd.DataFrame:
        """Months to the event or the last follow-up, and whether it happened, from a column of each."""
        if len(self.spec.column) != 2:
            raise InputError(
                f"task {self.name}: survival needs two columns, a time and an event, and has {some(self.spec.column)}; give "
                f"--task {self.name}=TIME,EVENT:survival"
            )
        time, event = self.spec.column
        named = "" if self.spec.column == OUTCOME else self.name
        months, happened = read_endpoint(table, time, event, unit=self.spec.unit, task=named)
        return pd.DataFrame(dict(zip(self.label_columns, (months, happened), strict=True)))

    def prepare(self, labels: pd.DataFrame) -> pd.DataFrame:
        """The table with the task's outcome in the columns `survival_months` and `event`."""
        if not set(self.label_columns) <= set(labels):
            return labels
        return labels.assign(**{name: labels[column] for name, column in zip(OUTCOME, self.label_columns, strict=True)})

    def check(self, labels: pd.DataFrame, *, folds: int) -> list[str]:
        """Raise InputError without deaths or without differing times; warn where deaths are fewer than twice the folds."""
        self.require_cases(len(labels), folds)
        deaths = int(labels["event"].sum())
        if deaths < folds:
            raise InputError(
                f"task {self.name}: {deaths} deaths among {count(len(labels), 'case')} for {folds} folds: every fold "
                "needs one; use fewer "
                f"folds (--folds), check that the event column is not inverted, or leave {self.name} out by naming the other tasks"
            )
        if labels["survival_months"].nunique() < 2:
            raise InputError(
                f"task {self.name}: every case has the same time, {labels['survival_months'].iloc[0]:g} months"
            )
        return [f"task {self.name}: only {deaths} deaths for {folds} folds"] if deaths < 2 * folds else []

    def check_fold(self, train: pd.DataFrame, test: pd.DataFrame, *, number: int) -> list[str]:
        """Raise InputError without a death among the training cases; warn without one among the test cases."""
        if not train["event"].any():
            raise InputError(
                f"task {self.name}: fold {number} has no death among its {len(train)} training cases; use other "
                "splits, or fewer folds"
            )
        if not test["event"].any():
            return [
                f"task {self.name}: fold {number} has no death among its {len(test)} test cases, and thus no metrics"
            ]
        return []

    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """Dead or alive, early or late."""
        late = labels["survival_months"] > labels.groupby("event")["survival_months"].transform("median")
        return labels["event"].astype(bool).map({True: "died", False: "censored"}) + late.map(
            {True: " late", False: " early"}
        )

    def fit(self, labels: pd.DataFrame, vocabulary: tuple[str, ...]) -> FittedSurvival:
        """Bins at the quartiles of the training cases' times of death."""
        times = labels["survival_months"].astype(float)
        died = times[labels["event"].astype(bool)]
        edges = np.unique(np.quantile(died, np.arange(1, N_BINS) / N_BINS))
        return FittedSurvival(tuple(float(edge) for edge in edges), float(times.max()))

    def restore(self, fitted: Mapping[str, Any]) -> FittedSurvival:
        """From a model folder."""
        edges, last = tuple(map(float, fitted["edges_months"])), float(fitted["last_month"])
        median = float(fitted["median_risk"])
        if not np.isfinite(median):
            raise ValueError(f"a median risk of {median}")
        if list(edges) != sorted(set(edges)) or not all(0 < month < float("inf") for month in (*edges, last)):
            raise ValueError(f"time bins with edges {edges}, up to {last} months")
        calibration = LinearRisk.from_json(fitted["calibration"]) if fitted["calibration"] else None
        if calibration and len(calibration.coefficients) != 1:
            raise ValueError(f"a calibration of {count(len(calibration.coefficients), 'column')}")
        return FittedSurvival(edges, last, median, calibration)

    def describe(self, labels: pd.DataFrame) -> pd.Series:
        """Months; a plus sign behind them for a case that was alive then."""
        plus = labels["event"].astype(bool).map({True: "", False: "+"})
        return labels["survival_months"].astype(float).round(2).astype(str) + plus

    def on_cases(self, labels: pd.DataFrame, labelled: Collection[str], *, endpoint: str) -> list[str]:
        """Events and follow-up of the labelled cases."""
        months, event = outcome(labels.loc[sorted(labelled)])
        median = follow_up(pd.Series(months), pd.Series(event))
        reached = f"median follow-up {median:.1f} months" if pd.notna(median) else "median follow-up not reached"
        title = endpoint if self.label_columns == OUTCOME else self.name
        return [
            f"{title}: {count(int(event.sum()), 'event')} among {len(months)} cases, {reached} (reverse Kaplan-Meier), "
            f"longest time {months.max():.1f} months"
        ]

    def worth_explaining(self, predictions: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
        """The highest and the lowest risk; where outcomes are known, risks that are too high or too low for them."""
        by_risk = predictions["risk"].sort_values(ascending=False, kind="stable").index
        yield "highest risk", list(by_risk)
        yield "lowest risk", list(by_risk[::-1])
        if not set(OUTCOME) <= set(predictions):
            return
        known = predictions.dropna(subset=list(OUTCOME))
        # A case that is right ranks among the risks as its time does from the end: the longest time, the lowest risk.
        too_high = known["risk"].rank(pct=True) + known["survival_months"].astype(float).rank(pct=True)
        too_high -= too_high.mean()
        lived_long = too_high[too_high > 0].sort_values(ascending=False, kind="stable")
        yield "risk too high for its outcome", list(lived_long.index)
        died = pd.Series(outcome(known)[1], known.index)
        died_early = too_high[(too_high < 0) & died].sort_values(kind="stable")
        yield "risk too low for its outcome", list(died_early.index)
