"""Settings of training chosen by nested cross-validation on real genes: TCGA GBM-LGG, survival, five folds by case, over seeds.

    python tests/benchmarks/bench_choice.py DATA [--seeds 3] [--covariates age,is_female,grade,subtype]

DATA is a folder with cases.csv and genes.csv.gz. Within the training cases of each outer fold, every candidate is judged by
three inner folds; the best is trained on all training cases and predicts the outer fold. So the row "chosen" is an honest
estimate of the whole procedure, choice included; the other rows show what each candidate reaches on the same outer folds,
and are not what the choice was made on. Prints one Markdown table of c-indices, pairs within outer folds.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from models.catalogue import MODELS
from models.loss_config import LossConfig
from pipeline.config.train import TrainConfig
from pipeline.metrics import c_index
from pipeline.planning.splits import Fold, make_folds
from pipeline.tasks import TASKS, FittedTask
from pipeline.training import learning
from pipeline.training.dataset import Bags, Dataset, dataset_for, with_covariates
from pipeline.training.fit import predict_logits
from pipeline.training.learning import TrainingSet, learn
from pipeline.training.linear_logits import LinearLogits, fit_linear_logits
from preprocessing.omics.config import OmicsConfig
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

CANDIDATES = {
    "default": TrainConfig(),
    "ten members": TrainConfig(members=10),
    "half of the loss Cox's": TrainConfig(loss=LossConfig(cox=0.5)),
    "six epochs": TrainConfig(epochs=6),
    "twenty epochs": TrainConfig(epochs=20),
    "network only": TrainConfig(linear=False),
}
TASK = TASKS["survival"]
INNER_FOLDS = 3


@dataclass(frozen=True)
class Cohort:
    """Genes and labels of the cases.

    Attributes:
        genes: with the covariates, unscaled.
        labels: indexed by case id.
        covariates: columns of the labels.
        seed: of folds and training.
    """

    genes: OmicsMatrix
    labels: pd.DataFrame
    covariates: tuple[str, ...]
    seed: int

    @classmethod
    def read(cls, data: Path, covariates: tuple[str, ...], seed: int) -> "Cohort":
        """The cases with genes and follow-up."""
        genes = pd.read_csv(data / "genes.csv.gz", index_col=0)
        labels = pd.read_csv(data / "cases.csv", dtype={"case_id": str, "grade": "Int64"}).set_index("case_id")
        labels = labels.reindex(genes.index).assign(event=lambda table: table["event"].astype(bool))
        labels["grade"] = labels["grade"].astype(object)
        labels = labels[TASK.labelled(labels)]
        matrix = OmicsMatrix.from_frame(genes.loc[labels.index])
        return cls(with_covariates(matrix, labels, covariates), labels, covariates, seed)

    def folds(self, cases: tuple[str, ...], count: int) -> list[Fold]:
        """Folds of some of the cases."""
        return make_folds(TASK.strata(self.labels.loc[list(cases)]), n_folds=count, seed=self.seed)

    def predict(self, fold: Fold, config: TrainConfig) -> pd.Series:
        """The risks of the test cases, standardised, from a model of the training cases."""
        scaler = OmicsScaler.fit(self.genes.take(list(fold.train)), None, OmicsConfig())
        data = dataset_for(scaler, self.genes, Bags("none", {}), patch_dim=1)
        training = TrainingSet(fold, data, self.labels, TASK, (), covariates=self.covariates)
        learned = learn(training, "umeml", MODELS["umeml"].Config(), config=config, seed=self.seed, device="cpu")
        logits = predict_logits(learned.model, data, list(fold.test), device="cpu")
        return pd.Series(learned.task.decode(logits)["risk"].to_numpy(float), index=list(fold.test))

    def concordance(self, risks: list[pd.Series]) -> float:
        """The c-index of the risks of each fold's cases, pairs within folds."""
        joined, folds = pd.concat(risks), np.repeat(np.arange(len(risks)), [len(one) for one in risks])
        known = self.labels.loc[joined.index]
        months, event = known["survival_months"].to_numpy(float), known["event"].to_numpy(bool)
        value = c_index(months, event, joined.to_numpy(), folds=folds).value
        assert value is not None
        return value

    def choose(self, train: tuple[str, ...]) -> str:
        """The candidate with the best c-index over inner folds of these cases."""
        inner = self.folds(train, INNER_FOLDS)
        found = {
            name: self.concordance([self.predict(fold, config) for fold in inner])
            for name, config in CANDIDATES.items()
        }
        return max(found, key=lambda name: found[name])


def remember_linear_logits() -> None:
    """Fit the linear logits of the same training cases once: no candidate changes them, and they take most of the time."""
    fitted: dict[object, LinearLogits | None] = {}

    def remembered(
        task: FittedTask, data: Dataset, cases: Sequence[str], labels: pd.DataFrame, *, seed: int
    ) -> LinearLogits | None:
        key = (task, tuple(cases), seed)
        if key not in fitted:
            fitted[key] = fit_linear_logits(task, data, cases, labels, seed=seed)
        return fitted[key]

    learning.fit_linear_logits = remembered


def run(cohort: Cohort) -> tuple[dict[str, float], Counter[str]]:
    """The c-index of the chosen and of each candidate, and how often each was chosen."""
    risks: dict[str, list[pd.Series]] = {name: [] for name in ("chosen", *CANDIDATES)}
    chosen: Counter[str] = Counter()
    for fold in cohort.folds(tuple(cohort.labels.index), 5):
        for name, config in CANDIDATES.items():
            risks[name].append(cohort.predict(fold, config))
        best = cohort.choose(fold.train)
        chosen[best] += 1
        risks["chosen"].append(risks[best][-1])
    return {name: cohort.concordance(found) for name, found in risks.items()}, chosen


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--covariates", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    covariates = tuple(options.covariates.split(",")) if options.covariates else ()
    values, chosen = [], Counter[str]()
    for seed in range(options.seeds):
        remember_linear_logits()
        found, names = run(Cohort.read(options.data, covariates, seed))
        values.append(found)
        chosen += names
        print(seed, {name: round(value, 4) for name, value in found.items()}, dict(names), flush=True)
    print("| | c-index, mean ± sd over seeds (each) | chosen in folds |\n|---|---|---|")
    for name, each in pd.DataFrame(values).items():
        deviation = each.std(ddof=1) if len(each) > 1 else 0.0
        count = "" if name == "chosen" else str(chosen[str(name)])
        print(f"| {name} | {each.mean():.3f} ± {deviation:.3f} ({', '.join(f'{one:.3f}' for one in each)}) | {count} |")


if __name__ == "__main__":
    main()
