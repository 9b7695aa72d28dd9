"""What the defaults reach on real genes: TCGA GBM-LGG, five folds by case, over seeds, beside every baseline.

    python tests/benchmarks/bench_cohort.py DATA [--seeds 3] [--jobs 2] [--set KEY=VALUE …]

DATA is a folder with cases.csv, genes.csv.gz, cnv_mut.csv and image_risks.csv. Each row is the command itself, run once per
seed (of folds, initial weights and inner folds alike); nothing is chosen on the folds that are reported: the weight of the
network, curves and thresholds are learned within each fold's training cases. Values are means ± standard deviations over
seeds of the pooled out-of-fold metric. Prints one Markdown table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
CLINICAL = "age,is_female,grade,subtype"
ROWS = {  # name: task, whether copy number and mutations are read, covariates
    "survival: RNA": ("survival", False, ""),
    "survival: RNA, copy number, mutations": ("survival", True, ""),
    "survival: these, age, sex": ("survival", True, "age,is_female"),
    "survival: these, age, sex, grade, subtype": ("survival", True, CLINICAL),
    "survival: RNA, published image risk": ("survival", False, "patchgcn"),
    "survival: RNA, all clinical, published image risk": ("survival", False, f"{CLINICAL},patchgcn"),
    "grade: RNA": ("grade", False, ""),
    "subtype: RNA": ("subtype", False, ""),
}
HORIZONS = ("12", "24", "36", "60")


def prepare(data: Path, folder: Path) -> None:
    """Write the tables of the command: image risks as covariates, copy number and mutations in tables of their own."""
    cases = pd.read_csv(data / "cases.csv", dtype={"case_id": str}).set_index("case_id")
    cases.join(pd.read_csv(data / "image_risks.csv", dtype={"case_id": str}).set_index("case_id")).to_csv(
        folder / "clinical.csv"
    )
    table = pd.read_csv(data / "cnv_mut.csv", index_col="case_id")
    is_mutation = table.columns.str.endswith("_mut")
    table.loc[:, ~is_mutation].to_csv(folder / "cnv.csv")
    table.loc[:, is_mutation].to_csv(folder / "mutation.csv")


def run(data: Path, folder: Path, row: str, seed: int, sets: Sequence[str]) -> Mapping[str, Any]:
    """The report of one row's task."""
    task, further, covariates = ROWS[row]
    out = folder / f"{list(ROWS).index(row)}-{seed}"
    command = [sys.executable, "-m", "workflows.run_pipeline", "none", str(data / "genes.csv.gz")]
    command += ["--clinical", str(folder / "clinical.csv"), "--task", task, "--seed", str(seed), "--explain", "0"]
    command += ["--workers", "1", "--out", str(out), "--store", str(out) + ".zarr"]
    if further:
        command += [part for kind in ("cnv", "mutation") for part in ("--omics", f"{folder / kind}.csv:{kind}")]
    if covariates:
        command += ["--covariates", covariates]
    command += [part for one in sets for part in ("--set", one)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report: Mapping[str, Any] = json.loads((out / "metrics.json").read_text())["tasks"][task]
    return report


def mean_and_sd(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


def value(predictor: Mapping[str, Any], name: str) -> float:
    """A pooled metric."""
    return float(predictor["pooled"][name]["value"])


def describe(row: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table."""
    headline = reports[0]["headline"]
    baselines = [name for name in reports[0]["baselines"] if not reports[0]["baselines"][name]["reason"]]
    cells = [mean_and_sd([value(report["model"], headline) for report in reports])]
    cells.append(
        ", ".join(
            f"{name} {mean_and_sd([value(one['baselines'][name], headline) for one in reports])}" for name in baselines
        )
    )
    weights = [one["genes"]["network"] for report in reports for one in report["notes"]["stack"].values()]
    cells.append(f"{min(weights):.2f}–{max(weights):.2f}" if weights else "–")
    if headline == "c_index":
        errors = [
            f"{np.mean([one['model']['pooled']['calibration'][month]['mean_difference']['value'] for one in reports]):+.3f}"
            for month in HORIZONS
        ]
        cells.append(f"alive at {', '.join(HORIZONS)} months, predicted − observed: {', '.join(errors)}")
    else:
        names = ("accuracy", "calibration_error")
        details = [
            f"{name.replace('_', ' ')} {mean_and_sd([value(one['model'], name) for one in reports])}" for name in names
        ]
        details += [f"ridge accuracy {mean_and_sd([value(one['baselines']['genes'], 'accuracy') for one in reports])}"]
        details += [f"90 % sets cover {mean_and_sd([one['prediction_sets']['coverage']['value'] for one in reports])}"]
        cells.append(", ".join(details))
    return f"| {row} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    data = options.data.resolve()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        prepare(data, Path(name))
        jobs = {
            row: [pool.submit(run, data, Path(name), row, seed, options.set) for seed in range(options.seeds)]
            for row in ROWS
        }
        print(f"| {options.seeds} seeds | model | baselines | weight of the network | |\n|---|---|---|---|---|")
        for row, found in jobs.items():
            print(describe(row, [one.result() for one in found]), flush=True)


if __name__ == "__main__":
    main()
