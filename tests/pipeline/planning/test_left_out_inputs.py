"""Any clinical column may be a covariate: those that are nearly the label are left out or warned of, as genes are."""

import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.planning.left_out_inputs import covariates_left_out, features_left_out
from pipeline.tasks import TASKS
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.named_features import named_features, unknown_names

N = 90
CASES = [f"p{i:02d}" for i in range(N)]


@pytest.fixture
def labels():
    random = np.random.default_rng(0)
    grade = np.repeat([2, 3, 4], N // 3)
    time = random.uniform(1, 60, N)
    return pd.DataFrame(
        {
            "grade": pd.array(grade, dtype="Int64"),
            "survival_months": time,
            "event": pd.array(random.random(N) < 0.6, dtype="boolean"),
            "age": random.uniform(30, 60, N),
            "score": (grade == 4) + random.normal(scale=0.1, size=N),  # nearly the class
            "necrosis": np.where(
                (grade == 4) == (np.arange(N) % 30 > 0), "present", "absent"
            ),  # wrong in one of thirty
            "last_visit": time + random.normal(scale=1, size=N),
            "progress": time + random.normal(scale=10, size=N),
        },
        index=CASES,
    )


def left_out(task, labels, features=(), **flags):
    config = load_config({"slides": "slides", "genes": "genes.csv"} | flags)
    task = TASKS[task]
    known = task.prepare(labels)
    return covariates_left_out(task, config, known[task.labelled(known)], tuple(features))


def test_a_covariate_that_follows_the_classes_beyond_any_measurement_is_left_out(labels):
    found, warnings = left_out("grade", labels, covariates="age,score,necrosis")
    assert list(found) == ["score"]
    assert found["score"].startswith("AUC for one class 1.000")
    doubt, gone = warnings
    assert doubt.startswith("task grade: covariate necrosis follows the label closely (AUC for one class 0.9")
    assert gone == f"task grade: covariates left out: score ({found['score']}); --allow-defining-features keeps them"


def test_a_covariate_that_follows_the_time_of_the_dead_is_left_out(labels):
    found, warnings = left_out("survival", labels, covariates="age,last_visit,progress")
    assert list(found) == ["last_visit"]
    assert any(
        "covariate progress follows the label closely (rank correlation with the time of events 0." in w
        for w in warnings
    )


def test_gaps_hide_nothing(labels):
    gaps = labels.assign(score=labels["score"].where(np.arange(N) % 10 > 0))
    assert list(left_out("grade", gaps, covariates="age,score")[0]) == ["score"]


def test_the_user_may_keep_all_or_name_more(labels, tmp_path):
    assert left_out("grade", labels, covariates="score", allow_defining_features=True) == ({}, [])
    file = tmp_path / "defining.csv"
    file.write_text("feature,reason,task\nage,the cohorts differ in it,grade\nEGFR,,\n")
    options = {"covariates": "age", "defining_features": str(file)}
    assert left_out("grade", labels, features=["EGFR"], **options)[0] == {"age": "the cohorts differ in it"}
    assert left_out("survival", labels, features=["EGFR"], **options)[0] == {}
    file.write_text("feature,reason,task\negfr ,, grade\nHLA DRA,,\nGONE,,\n")
    names = ("EGFR", "HLA-DRA", "TP53")
    assert set(named_features(file, "grade", names)) == {"EGFR", "HLA-DRA"}
    assert set(named_features(file, "survival", names)) == {"HLA-DRA"}
    assert unknown_names(file, names) == ["GONE"]
    file.write_text("feature\nage\n")
    omics = OmicsMatrix(np.random.default_rng(1).normal(size=(N, 1)), tuple(CASES), ("EGFR",), ("rna",))
    config = load_config({"slides": "slides", "genes": "genes.csv"} | options)
    assert features_left_out(TASKS["grade"], config, labels, omics) == {}


@pytest.mark.parametrize("name", ["progressed", "Recurrence", "autopsy_done", "second line therapy", "reoperation"])
def test_a_covariate_of_what_happened_later_is_warned_of_by_its_name(labels, name):
    flags = np.random.default_rng(1).random(N) < 0.5
    found, warnings = left_out("survival", labels.assign(**{name: flags}), covariates=["age", name])
    assert found == {}
    assert warnings == [
        f"task survival: by its name, covariate {name} describes what happened after the diagnosis: leave it out of --covariates "
        "unless it was known when the sample was taken"
    ]


def test_a_feature_with_gaps_that_follows_the_label_is_left_out_too(labels):
    values = labels["score"].where(np.arange(N) % 10 > 0).to_numpy()[:, None]
    omics = OmicsMatrix(values, tuple(CASES), ("KPS",), ("rna",))
    config = load_config({"slides": "slides", "genes": "genes.csv"})
    assert list(features_left_out(TASKS["grade"], config, labels, omics)) == ["KPS"]


@pytest.mark.parametrize("keep", [[], ["KPS"], ["mask"], ["KPS", "mask"]])
def test_a_feature_that_follows_the_label_is_used_where_the_user_keeps_it(labels, keep):
    values = np.column_stack([labels["score"], labels["score"] ** 3])
    omics = OmicsMatrix(values, tuple(CASES), ("KPS", "mask"), ("rna", "rna"))
    config = load_config({"slides": "slides", "genes": "genes.csv", "omics.keep": keep})
    found = features_left_out(TASKS["grade"], config, labels, omics)
    assert list(found) == [name for name in ("KPS", "mask") if name not in keep]
    assert all(f"--set 'omics.keep=[{name}]' uses it nevertheless" in why for name, why in found.items())
