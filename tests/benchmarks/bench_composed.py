"""What slides add to genes where their tissue tells nothing, something, or all there is: grade and survival, five folds by case.

    python tests/benchmarks/bench_composed.py COHORT [--seeds 3] [--set KEY=VALUE …]

COHORT is a folder with slides/ and genes.csv (genes and labels of the cases), in which tissue and genes both depend on the
label, as in real cohorts or slides composed of real tissue by a case's grade. The signal is taken away by exchanging rows:

- none: genes and labels, together, belong to the slides of another case;
- some: as they are;
- all: the genes belong to another case, the labels to the slides.

Each row is the command itself, with slides and genes and once more with genes only, on the same folds. A model of both must not
be worse than the better of the two beyond what seeds do. Values are pooled out-of-fold metrics, mean ± standard deviation over
seeds. Prints one Markdown table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_cohort import mean_and_sd, value

ROOT = Path(__file__).resolve().parents[2]
SIGNAL = ("none", "some", "all")
TASKS = ("grade", "survival")
LABELS = ("grade", "survival_months", "event")


def tables(cohort: Path, signal: str, folder: Path, *, seed: int) -> tuple[Path, Path]:
    """Write genes and labels of the cases, of which some belong to other cases; their paths."""
    table = pd.read_csv(cohort / "genes.csv", index_col="case_id")
    labels = table[list(LABELS)]
    genes = table.select_dtypes("number").drop(columns=[*LABELS, "age", "is_female"], errors="ignore")
    order = np.random.default_rng(seed).permutation(len(table))
    if signal != "some":
        genes = genes.iloc[order].set_axis(genes.index)
    if signal == "none":
        labels = labels.iloc[order].set_axis(labels.index)
    paths = folder / f"genes-{signal}-{seed}.csv", folder / f"labels-{signal}-{seed}.csv"
    genes.to_csv(paths[0])
    labels.to_csv(paths[1])
    return paths


def run(slides: str, genes: Path, labels: Path, out: Path, *, seed: int, sets: Sequence[str]) -> Mapping[str, Any]:
    """The reports of the tasks; features are shared by all runs."""
    command = [sys.executable, "-m", "workflows.run_pipeline", slides, str(genes), "--clinical", str(labels)]
    command += [part for task in TASKS for part in ("--task", task)]
    command += ["--seed", str(seed), "--explain", "0", "--store", str(out.parent / "features.zarr"), "--out", str(out)]
    command += [part for one in sets for part in ("--set", one)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    reports: Mapping[str, Any] = json.loads((out / "metrics.json").read_text())["tasks"]
    return reports


def describe(signal: str, task: str, both: Sequence[Mapping[str, Any]], genes: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table."""
    headline = both[0][task]["headline"]
    predictors = [
        [value(one[task]["model"], headline) for one in both],
        [value(one[task]["model"], headline) for one in genes],
        *(
            [value(one[task]["baselines"][name], headline) for one in both]
            for name in ("slides", "genes", "late fusion")
        ),
    ]
    weights = [
        f"{name} {mean_and_sd([w for one in both for w in _weights(one[task], name)])}"
        for name in _parts(both[0][task])
    ]
    return f"| {signal} | {task} | {' | '.join(mean_and_sd(each) for each in predictors)} | {', '.join(weights)} |"


def _parts(report: Mapping[str, Any]) -> list[str]:
    return list(next(iter(report["notes"]["stack"].values()))["slides+genes"])


def _weights(report: Mapping[str, Any], name: str) -> list[float]:
    return [fold["slides+genes"][name] for fold in report["notes"]["stack"].values()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    cohort = options.cohort.resolve()
    print(
        "| tissue tells | task | model | genes only | slides (attention MIL) | ridge on genes | late fusion | weights |"
    )
    print("|---" * 8 + "|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for signal in SIGNAL:
            both, genes_only = [], []
            for seed in range(options.seeds):
                genes, labels = tables(cohort, signal, folder, seed=seed)
                out = folder / f"{signal}-{seed}"
                both.append(run(str(cohort / "slides"), genes, labels, out, seed=seed, sets=options.set))
                genes_only.append(run("none", genes, labels, folder / f"{out.name}-genes", seed=seed, sets=options.set))
            for task in TASKS:
                print(describe(signal, task, both, genes_only), flush=True)


if __name__ == "__main__":
    main()
