"""Joint training from the command line to a trained model."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.workflows.tasks.small_runs import SMALL, quick, random_genes, run_pipeline

N = 40
CASES = [f"case-{i:02d}" for i in range(N)]
QUICK = quick(epochs=2, explain=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    genes = random_genes(CASES)
    signal = genes["TP53"] + genes["EGFR"]
    table = genes.assign(Response=np.where(signal > 0, "yes", "no"), Purity=(50 + 10 * signal).round(2))
    table.loc[CASES[:8], "Purity"] = None
    table.to_csv(folder / "genes.csv")
    return folder


def run(folder, *options):
    tasks = () if "--trained" in options else ("--task", "response=Response", "--task", "purity=Purity", *QUICK, *SMALL)
    return run_pipeline("none", folder / "genes.csv", *tasks, *options)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert run(folder, "--joint", "--out", out) == 0
    return out


def test_each_task_is_reported_as_if_alone_and_compared_with_its_single_task_training(finished):
    reports = json.loads((finished / "metrics.json").read_text())["tasks"]
    assert {name: report["n"] for name, report in reports.items()} == {"response": N, "purity": N - 8}
    for report in reports.values():
        assert set(report["comparators"]) == {"single-task"}
        headline = report["headline"]
        pair = (report["model"], report["comparators"]["single-task"])
        joint, single = (one["pooled"][headline]["value"] for one in pair)
        assert report["differences"]["single-task"]["value"] == pytest.approx(joint - single)
        assert {"genes"} <= set(report["baselines"])


def test_a_joint_model_predicts_with_the_head_of_its_task(finished, folder, tmp_path):
    described = json.loads((finished / "models" / "response" / "model.json").read_text())
    assert described["joint"] == {"n_outputs": 3, "n_heads": 2}
    out = tmp_path / "new"
    assert run(folder, "--trained", finished / "models", "--out", out, "--workers", "0", "--device", "cpu") == 0
    predicted = pd.read_csv(out / "predictions.csv")
    assert predicted["prediction"].notna().all()
    assert len(predicted) == 2 * N


def test_without_baselines_the_single_task_is_not_trained(folder, tmp_path):
    assert run(folder, "--joint", "--baselines", "none", "--out", tmp_path / "run") == 0
    reports = json.loads((tmp_path / "run" / "metrics.json").read_text())["tasks"]
    assert all(report["comparators"] == {} for report in reports.values())


def test_a_single_task_has_nothing_to_be_trained_with(folder, tmp_path, capsys):
    options = ("--joint", "--dry-run", "--out", tmp_path / "run", *QUICK)
    assert run_pipeline("none", folder / "genes.csv", "--task", "response=Response", *options) == 2
    assert "--joint: response is the only task" in " ".join(capsys.readouterr().err.split())
