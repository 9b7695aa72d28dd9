"""What the parts of a model are worth where slides carry none, half or all of the signal: simulated cohorts, five folds by case.

    python tests/benchmarks/bench_modalities.py [--cases 150] [--seeds 3]

Genes carry one latent value of a case (twenty of 200 genes, with noise), slides another (a third of the tiles is shifted by
it); the label depends on the one, on both alike, or on the other. The model as it is, which stacks a network, linear
logits and a network of slides only, stands beside its parts: the network alone, the same without genes or slides, and attention
MIL. Values are AUCs within folds. Prints one Markdown table; a fused model must never be worse than the better modality
beyond what seeds do.
"""

import argparse
from collections import OrderedDict
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from models.catalogue import MODELS
from pipeline.config.train import TrainConfig
from pipeline.planning.splits import make_folds
from pipeline.tasks import TASKS
from pipeline.training.dataset import Bags, Dataset
from pipeline.training.fit import predict_logits
from pipeline.training.learning import TrainingSet, learn

GENES, CARRIERS, WIDTH = 200, 20, 64
CARRIED = {"genes": (1.0, 0.0), "genes and slides": (1.0, 1.0), "slides": (0.0, 1.0)}
ALONE = TrainConfig(linear=False, slides_model=False)
PREDICTORS: dict[str, tuple[str, TrainConfig, bool, bool]] = {  # model, training, whether it has slides, and genes
    "model": ("umeml", TrainConfig(), True, True),
    "its network": ("umeml", ALONE, True, True),
    "genes only": ("umeml", TrainConfig(), False, True),
    "slides only (abmil)": ("abmil", ALONE, True, False),
}
TASK = TASKS["subtype"]


class MemoryBags(Bags):
    """Bags that were never in a store."""

    def fill(self, bags: dict[str, Any]) -> None:
        """Keep these."""
        self._kept = OrderedDict(bags)


def draw(carried: str, cases: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Labels, genes and bags of a cohort."""
    rng = np.random.default_rng(seed)
    of_genes, of_slides = rng.normal(size=(2, cases))
    genes = rng.normal(size=(cases, GENES))
    genes[:, :CARRIERS] += 0.7 * of_genes[:, None]
    direction = rng.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    names, bags = [f"C{i:03}" for i in range(cases)], {}
    for name, value in zip(names, of_slides, strict=True):
        tiles = 10 + int(rng.lognormal(np.log(120), 0.5))
        features = rng.normal(size=(tiles, WIDTH)) + 0.45 * rng.normal(size=WIDTH)
        features[rng.random(tiles) < 0.3] += 2 * value * direction
        cells = np.column_stack([np.zeros(tiles), np.arange(tiles) % 20, np.arange(tiles) // 20])
        bags[name] = (features.astype(np.float16), cells.astype(np.int32))
    weights = np.array(CARRIED[carried]) / np.linalg.norm(CARRIED[carried])
    score = 1.2 * (weights[0] * of_genes + weights[1] * of_slides) + 0.6 * rng.logistic(size=cases)
    return pd.DataFrame({"subtype": np.where(score > 0, "yes", "no")}, index=names), genes.astype(np.float32), bags


def data_of(genes: np.ndarray, bags: dict[str, Any], *, slides: bool, omics: bool) -> Dataset:
    """The cohort with some of its modalities."""
    nothing = (np.zeros((0, 1), np.float16), np.zeros((0, 3), np.int32))
    kept = MemoryBags("memory", {})
    kept.fill(bags if slides else dict.fromkeys(bags, nothing))
    rows = {name: i for i, name in enumerate(bags)} if omics else {}
    return Dataset(kept, WIDTH if slides else 1, rows, [genes] if omics else ())


def area(predictor: str, cohort: tuple[pd.DataFrame, np.ndarray, dict[str, Any]], seed: int) -> float:
    """Mean AUC over the folds."""
    model, config, slides, omics = PREDICTORS[predictor]
    labels, genes, bags = cohort
    data, areas = data_of(genes, bags, slides=slides, omics=omics), []
    for fold in make_folds(TASK.strata(labels), n_folds=5, seed=seed):
        training = TrainingSet(fold, data, labels, TASK, ("no", "yes"))
        learned = learn(training, model, MODELS[model].Config(), config=config, seed=seed, device="cpu")
        predicted = learned.task.decode(predict_logits(learned.model, data, fold.test, device="cpu"))
        areas.append(roc_auc_score(labels.loc[list(fold.test), "subtype"] == "yes", predicted["probability_yes"]))
    return float(np.mean(areas))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="AUCs of a model and its parts, by which modality carries the signal.")
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"| signal in | {' | '.join(PREDICTORS)} |")
    print("|---" * (1 + len(PREDICTORS)) + "|")
    for carried in CARRIED:
        cohorts = [draw(carried, arguments.cases, seed) for seed in range(arguments.seeds)]
        cells = []
        for name in PREDICTORS:
            areas = [area(name, cohort, seed) for seed, cohort in enumerate(cohorts)]
            cells.append(f"{np.mean(areas):.3f} ({', '.join(f'{one:.3f}' for one in areas)})")
        print(f"| {carried} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
