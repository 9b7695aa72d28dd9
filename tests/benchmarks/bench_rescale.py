"""How far survival risk and classes survive another assay, as it is and with `--rescale`: TCGA glioma, z-scores of RNA-seq.

    python tests/benchmarks/bench_rescale.py [DATA] [--repeats 5]

DATA is the folder with `genes.csv.gz` and `cases.csv`, by default ../shared/data/gbmlgg. Models are fitted to 300 cases of the
table; the other cases are predicted from the same values as another assay would give them. The assays are made, since no case
has two: a location and a gain for each gene, a background that flattens low values, and noise. Ridge Cox and logistic
regression are the linear models of this package, which its networks build on.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from pipeline.baselines.genomic import fit_omics_cox
from pipeline.metrics import c_index
from pipeline.ood.gene_classes import GeneClasses
from pipeline.ood.profiles import read_genes
from preprocessing.io.errors import InputError
from preprocessing.omics.harmonisation.rescale import Target, rescale, targets_of
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.scaler import OmicsScaler

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "gbmlgg"
N_TRAIN = 300
METHODS = ("none", "cohort", "rank", "matched")


def log_values(z: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """log2 values of each gene: its location and gain, and noise of 0.2."""
    genes = z.shape[1]
    gain, location = random.uniform(0.3, 1.2, genes), random.uniform(2, 11, genes)
    return location + gain * np.clip(z, -4, 6) + random.normal(scale=0.2, size=z.shape)


def array(z: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """log2 intensities over a background of 32."""
    return np.log2(np.exp2(log_values(z, random)) + 2**5)


def log_tpm(z: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """log2(TPM + 1) with a gene of four hardly expressed."""
    values = log_values(z, random)
    values[:, ::4] -= 8
    return np.log2(np.exp2(values) + 1)


def tpm(z: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """TPM without a logarithm."""
    return np.exp2(log_tpm(z, random)) - 1


ASSAYS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "array, log2": array,
    "log2(TPM + 1)": log_tpm,
    "TPM": tpm,
}


def load(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The genes and labels of the cases that have survival and a subtype."""
    genes = pd.read_csv(folder / "genes.csv.gz", index_col=0)
    labels = pd.read_csv(folder / "cases.csv", index_col=0).loc[genes.index, ["subtype", "survival_months", "event"]]
    known = labels.notna().all(axis=1)
    return genes[known], labels[known]


def matched_targets(scaler: OmicsScaler, classes: GeneClasses | None, subtypes: pd.Series) -> dict[str, Target]:
    """The distribution of each gene in training cases of the same subtypes."""
    if classes is None:
        raise ValueError("fewer than two subtypes among the training cases")
    mean, sd = classes.mixture(subtypes.value_counts(normalize=True).to_dict())
    moments = zip(scaler.features, scaler.centre + scaler.scale * mean, scaler.scale * sd, strict=True)
    return {name: Target(float(centre), float(scale), logged=False) for name, centre, scale in moments}


def measure(genes: pd.DataFrame, labels: pd.DataFrame, seed: int) -> list[dict[str, object]]:
    """One row per cohort, assay and method; without values where the scale is refused."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(genes))
    train, test = order[:N_TRAIN], order[N_TRAIN:]
    features = tuple(map(str, genes.columns))

    def matrix(values: np.ndarray, rows: np.ndarray) -> OmicsMatrix:
        return OmicsMatrix(values[rows], tuple(genes.index[rows]), features, ("rna",) * len(features))

    z = genes.to_numpy()
    scaler = OmicsScaler.fit(matrix(z, train), None)
    scaled = scaler.scaled(matrix(z, train))
    months, event = labels["survival_months"].to_numpy(float), labels["event"].to_numpy() == 1
    cox = fit_omics_cox(scaled, months[train], event[train], seed=0)
    classes = LogisticRegression(C=0.01, max_iter=500).fit(scaled, labels["subtype"].iloc[train])
    of_class = GeneClasses.fit(read_genes(scaler, matrix(z, train)), labels["subtype"].iloc[train].to_dict())
    cohorts = {"as in training": test, "glioblastomas only": test[(labels["subtype"] == "IDHwt").to_numpy()[test]]}
    rows: list[dict[str, object]] = []
    for cohort, chosen in cohorts.items():
        reference = cox.predict(scaler.scaled(matrix(z, chosen))).risk
        given = {"training scale": ("none", matrix(z, chosen))}
        matched = matched_targets(scaler, of_class, labels["subtype"].iloc[chosen])
        for name, assay in ASSAYS.items():
            foreign = matrix(assay(z, np.random.default_rng(seed)), chosen)
            target = {m: targets_of([scaler]) if m != "matched" else matched for m in METHODS}
            given |= {f"{name}; {m}": (m, rescale(foreign, target[m], m)) for m in METHODS}
        for name, (_, omics) in given.items():
            try:
                values = scaler.scaled(omics)
            except InputError:  # counts for a model of z-scores are refused
                rows.append({"cohort": cohort, "assay; --rescale": name})
                continue
            risk = cox.predict(values).risk
            row: dict[str, object] = {"cohort": cohort, "assay; --rescale": name}
            row["c-index"] = c_index(months[chosen], event[chosen], risk).value
            row["Spearman"] = float(spearmanr(risk, reference)[0]) if np.ptp(risk) > 0 else np.nan
            truth, probabilities = labels["subtype"].iloc[chosen], classes.predict_proba(values)
            row["AUC"] = roc_auc_score(truth, probabilities, multi_class="ovr") if truth.nunique() > 2 else np.nan
            row["right class"] = float((classes.classes_[probabilities.argmax(axis=1)] == truth.to_numpy()).mean())
            rows.append(row)
    return rows


def main() -> None:
    """Print the mean over the repeats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    genes, labels = load(given.data)
    rows = [row for seed in range(given.repeats) for row in measure(genes, labels, seed)]
    table = pd.DataFrame(rows).groupby(["cohort", "assay; --rescale"], sort=False)
    print(f"{given.repeats} times {N_TRAIN} cases for training, {len(genes) - N_TRAIN} for testing")
    print(table.mean().round(3).to_string())
    print("standard deviation of the c-index over repeats:", round(float(table["c-index"].std().mean()), 3))


if __name__ == "__main__":
    main()
