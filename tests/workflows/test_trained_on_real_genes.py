"""A third of TCGA's GBM-LGG cases held back from a run on genes alone. About two minutes on two free cores."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from workflows.run_pipeline import main

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "gbmlgg"
LABELS = ["grade", "subtype", "survival_months", "event", "age", "is_female"]
TASKS = {"grade": "macro_auc", "subtype": "macro_auc", "survival": "c_index"}
QUICK = ("--folds", "3", "--set", "train.members=1", "--set", "bootstrap=200", "--baselines", "none")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """`metrics.json` of the training run on two thirds, and of the third that it did not see."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    folder = tmp_path_factory.mktemp("real")
    genes = pd.read_csv(REAL / "genes.csv.gz").set_index("case_id")
    table = genes.join(pd.read_csv(REAL / "cases.csv").set_index("case_id")[LABELS])
    order = np.random.default_rng(0).permutation(len(table))
    cut = 2 * len(table) // 3
    table.iloc[np.sort(order[:cut])].to_csv(folder / "train.csv")
    table.iloc[np.sort(order[cut:])].to_csv(folder / "new.csv")
    place = ["--workers", "0", "--device", "cpu"]
    trained, new = folder / "run", folder / "new"
    assert main(["none", str(folder / "train.csv"), "--out", str(trained), *place, *QUICK]) == 0
    models = ["--trained", str(trained / "models"), "--set", "bootstrap=200"]
    assert main(["none", str(folder / "new.csv"), "--out", str(new), *place, *models]) == 0
    return [json.loads((one / "metrics.json").read_text())["tasks"] for one in (trained, new)]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), TASKS.items())
def test_held_back_cases_are_predicted_as_well_as_in_cross_validation(reports, task, metric):
    inside, outside = (report[task]["model"]["pooled"][metric] for report in reports)
    assert outside["low"] <= inside["high"]
    assert inside["low"] <= outside["high"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["grade", "subtype"])
def test_sets_cover_held_back_cases_as_promised(reports, task):
    sets = reports[1][task]["prediction_sets"]
    covered = round(sets["coverage"]["value"] * sets["n"])
    assert covered >= binom.ppf(0.001, sets["n"], 0.9)
    assert sets["mean_size"]["value"] < 3
