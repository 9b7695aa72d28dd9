"""A label of each kind that the tissue shows is found from slides only, and the same label shuffled over the cases is not."""

import json

import numpy as np
import pandas as pd
import pytest

from workflows.demo import write_cohort
from workflows.run_pipeline import main

N = 30
KINDS = {
    "response": "Response:classification",
    "size": "Size:regression",
    "stage": "Stage:ordinal",
    "signs": "Sign_a,Sign_b:multilabel",
    "outcome": "Months,Died:survival",
}
FOUND = {"response": 0.8, "size": 0.3, "stage": 0.75, "signs": 0.75, "outcome": 0.7}  # at least, by headline metric
NOT_FOUND = {"response": 0.75, "size": 0.15, "stage": 0.7, "signs": 0.7, "outcome": 0.65}  # at most
OPTIONS = (
    *("--workers", "0", "--device", "cpu", "--folds", "3", "--baselines", "none", "--explain", "0", "--model", "abmil"),
    *("--set", "train.members=2", "--set", "models.abmil.hidden=32", "--set", "encoder.precision=float32"),
    *("--epochs", "20", "--set", "bootstrap=20", "--tumour", "other"),
)


def planted(grade, rng):
    """Labels of each kind that follow the grade, by which the demonstration's tissue is drawn."""
    level = grade - 3 + 0.3 * rng.normal(size=len(grade))
    return pd.DataFrame(
        {
            "Response": np.where(level > np.median(level), "yes", "no"),
            "Size": (20 + 6 * level).round(2),
            "Stage": np.select([grade == 2, grade == 3], ["1", "2"], "3"),
            "Sign_a": (grade >= 3).astype(int),
            "Sign_b": (grade == 4).astype(int),
            "Months": (24 * np.exp(-level)).round(2),
            "Died": 1,
        },
        index=grade.index,
    )


@pytest.fixture(scope="module")
def headlines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    write_cohort(folder, cases=N, size_px=768)
    grade = pd.read_csv(folder / "genes.csv", index_col="case_id")["grade"]
    rng = np.random.default_rng(0)
    true = planted(grade, rng)
    shuffled = true.iloc[rng.permutation(N)].set_axis(true.index).add_prefix("Shuffled_")
    true.join(shuffled).to_csv(folder / "clinical.csv")
    tasks = []
    for name, column in KINDS.items():
        columns, _, kind = column.partition(":")
        other = ",".join(f"Shuffled_{one}" for one in columns.split(","))
        tasks += ["--task", f"{name}={column}", "--task", f"shuffled_{name}={other}:{kind}"]
    inputs = (folder / "slides", "none", "--clinical", folder / "clinical.csv", "--store", folder / "features.zarr")
    assert main([str(part) for part in (*inputs, *tasks, *OPTIONS, "--out", folder / "run")]) == 0
    reports = json.loads((folder / "run" / "metrics.json").read_text())["tasks"]
    return {name: report["model"]["pooled"][report["headline"]]["value"] for name, report in reports.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_planted_label_is_found_from_slides_only(name, headlines):
    assert headlines[name] > FOUND[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_shuffled_label_is_not_found(name, headlines):
    assert headlines[f"shuffled_{name}"] < NOT_FOUND[name]
