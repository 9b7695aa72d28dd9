"""`--explain all`: every case of every task is explained, by the model that did not see it."""

import json
import shutil
import time

import pandas as pd
import pytest


@pytest.mark.slow  # a minute
def test_every_tested_case_of_every_task_is_explained(finished, cohort, walk, tmp_path):
    """In a copy of a finished run, of which all but the explanations is kept: 12 cases of three tasks."""
    out = shutil.copytree(finished, tmp_path / "run")
    start = time.perf_counter()
    assert walk(cohort.slides, cohort.genes, "--gene-sets", cohort.sets, "--explain", "all", "--out", out) == 0
    seconds = time.perf_counter() - start
    predictions = pd.read_csv(out / "predictions.csv")
    n_cases = 0
    for task, rows in predictions.groupby("task"):
        explained = json.loads((out / "explain" / f"{task}.json").read_text())["cases"]
        assert {case["case_id"] for case in explained} == set(rows["case_id"])
        assert {case["selection"] for case in explained} == {"all cases"}
        assert [case["fold"] for case in explained] == [
            rows.set_index("case_id").loc[case["case_id"], "fold"] for case in explained
        ]
        for case in explained:
            assert case["legends"]["attention"]["centre"] > 0
            assert case["slides"], case["case_id"]
        n_cases += len(explained)
    assert n_cases == 3 * len(cohort.table())
    print(f"{seconds / n_cases:.2f} s for each of {n_cases} explanations, with the rest of the run")
