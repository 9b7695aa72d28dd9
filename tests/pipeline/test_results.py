import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from pipeline.metrics import to_json
from pipeline.plan import TaskPlan
from pipeline.results import collect_predictions, evaluate
from pipeline.splits import Fold

LABELLED = tuple(f"c{i}" for i in range(8))
GRADE = pd.Series(["2", "3", "2", "3", "2", "3", "2", "3"], LABELLED)
# The second fold's model says "3" more readily: within folds 7 of 8 pairs are in order, across them 12 of 16.
P3 = {"c0": 0.1, "c1": 0.8, "c2": 0.6, "c3": 0.7, "c4": 0.72, "c5": 0.78, "c6": 0.85, "c7": 0.95}
RIVAL = {case: 0.5 for case in LABELLED}


def frame(cases, probability, fold):
    p = np.array([probability[case] for case in cases])
    told = {"case_id": cases, "task": "grade", "fold": fold, "prediction": np.where(p > 0.5, "3", "2")}
    return pd.DataFrame(told | {"probability_2": 1 - p, "probability_3": p})


@pytest.fixture
def finished(tmp_path):
    """Two folds of four cases, and a final model that predicted the one case without a label."""
    folds = (Fold(0, LABELLED[4:], (), LABELLED[:4]), Fold(1, LABELLED[:4], (), LABELLED[4:]))
    plan = TaskPlan("grade", LABELLED, ("u0",), ("2", "3"), folds, {}, (), ())
    jobs = []
    for fold in (*folds, plan.final):
        job = SimpleNamespace(fold=fold, out=tmp_path / str(fold.number), is_final=fold.number == -1)
        (job.out / "model").mkdir(parents=True)
        (job.out / "model" / "model.json").write_text(json.dumps({"fitted": {"column": "grade"}}))
        known = P3 | {"u0": 0.99}
        frame(list(fold.test), known, fold.number).to_csv(job.out / "predictions.csv", index=False)
        if not job.is_final:
            rival = frame(list(fold.test), RIVAL, fold.number).drop(columns=["task", "prediction"])
            rival.assign(baseline="clinical", reason=None).to_csv(job.out / "baselines.csv", index=False)
        jobs.append(job)
    labels = pd.DataFrame({"grade": GRADE}).reindex([*LABELLED, "u0", "lost"])
    status = {case: "used" for case in [*LABELLED, "u0"]} | {"lost": "left out"}
    return plan, jobs, labels, pd.DataFrame({"case_id": list(status), "status": list(status.values())})


def test_every_case_that_came_in_is_a_row(finished):
    told = collect_predictions(*finished).set_index("case_id")
    assert sorted(told.index) == sorted([*LABELLED, "lost", "u0"])
    assert set(told.loc[list(LABELLED), "status"]) == {"tested"}
    assert told.loc["u0", "status"] == "unlabelled"
    assert told.loc["lost", "status"] == "left out"
    assert told["task"].unique().tolist() == ["grade"]
    assert told.loc[list(LABELLED), "label"].tolist() == GRADE.tolist()
    assert told.loc[list(LABELLED), "fold"].tolist() == [0] * 4 + [1] * 4
    assert told.loc[["u0", "lost"], ["fold", "label"]].isna().all(axis=None)
    assert told.loc["u0", "probability_3"] == 0.99
    assert told.loc[["lost"], ["prediction", "probability_2"]].isna().all(axis=None)


def test_a_case_that_no_fold_tests_is_told_so(finished):
    plan, jobs, labels, cases = finished
    told = collect_predictions(plan, [jobs[0], jobs[2]], labels, cases).set_index("case_id")
    assert set(told.loc[list(LABELLED[4:]), "status"]) == {"untested"}
    assert told.index.is_unique


def test_metrics_agree_with_scikit_learn_and_ignore_cases_without_a_label(finished):
    told = collect_predictions(*finished)
    report = evaluate(finished[0], finished[1], told, n_boot=50, seed=0)
    known, p = (GRADE == "3").to_numpy(), np.array([P3[case] for case in LABELLED])
    pooled = report["model"]["pooled"]
    assert report["n"] == 8
    assert pooled["macro_auc"].value == pytest.approx(7 / 8)
    assert pooled["macro_auc_across_folds"].value == pytest.approx(roc_auc_score(known, p)) == 12 / 16
    assert pooled["accuracy"].value == pytest.approx(accuracy_score(known, p > 0.5))
    assert report["model"]["folds"][1]["macro_auc"].value == pytest.approx(roc_auc_score(known[4:], p[4:]))
    json.dumps(to_json(report), allow_nan=False)


def test_the_lead_is_the_difference_of_the_headline(finished):
    """Within folds, as the headline: the difference in the table must be that of the two numbers beside it."""
    report = evaluate(finished[0], finished[1], collect_predictions(*finished), n_boot=200, seed=0)
    own, rival = report["model"]["pooled"], report["baselines"]["clinical"]["pooled"]
    assert report["headline"] == "macro_auc"
    assert rival["macro_auc"].value == 0.5
    assert report["lead"]["clinical"].value == pytest.approx(own["macro_auc"].value - 0.5) == 3 / 8
    assert report["lead"]["clinical"].low <= report["lead"]["clinical"].value <= report["lead"]["clinical"].high
