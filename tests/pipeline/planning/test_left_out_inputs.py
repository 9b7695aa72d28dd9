"""Any clinical column may be a covariate: those that are nearly the label are left out or warned of, as genes are."""

import numpy as np
import pandas as pd
import pytest

from pipeline.config.loading import load_config
from pipeline.planning.left_out_inputs import covariates_left_out, features_left_out, refuse_copies
from pipeline.tasks import TASKS, TaskSpec, make_task
from preprocessing.io.errors import InputError
from preprocessing.labels.columns import LabelTable
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


@pytest.fixture
def several():
    """A task of two labels, each missing in some cases, and its labels of those cases that have any."""
    random = np.random.default_rng(2)
    answers = pd.DataFrame(random.integers(0, 2, (N, 2)), CASES, ["TP53", "ATRX"]).astype(object)
    answers.loc[CASES[:5], "TP53"], answers.loc[CASES[3:9], "ATRX"] = None, None
    task = make_task("mutations", TaskSpec(column=("TP53", "ATRX"), kind="multilabel"))
    labels = task.read(LabelTable(answers, "clinical.csv"))
    return task, labels[task.labelled(labels)], answers


@pytest.mark.parametrize("label", ["TP53", "ATRX"])
def test_what_follows_any_of_several_labels_is_left_out(several, label):
    task, labels, answers = several
    random = np.random.default_rng(3)
    follower = np.where(answers[label].isna(), 0.5, answers[label].astype(float)) + random.normal(scale=0.05, size=N)
    config = load_config({"slides": "slides", "genes": "genes.csv", "covariates": ["age", "score"]})
    values = np.column_stack([follower, random.normal(size=N)])
    omics = OmicsMatrix(values, tuple(CASES), ("mask", "EGFR"), ("rna", "rna")).take(labels.index)
    assert list(features_left_out(task, config, labels, omics)) == ["mask"]
    table = labels.assign(age=random.uniform(30, 60, N)[: len(labels)], score=pd.Series(follower, CASES)[labels.index])
    found, (warning,) = covariates_left_out(task, config, table, ())
    assert list(found) == ["score"]
    assert warning.startswith("task mutations: covariates left out: score (AUC for one class 1.000")


@pytest.mark.parametrize("label", ["TP53", "ATRX"])
def test_a_label_that_is_also_a_gene_or_a_covariate_is_refused_whichever_of_several_it_is(several, label):
    task, labels, answers = several
    copy = answers.astype(float).fillna(0.0)
    omics = OmicsMatrix(copy[[label]].to_numpy(), tuple(CASES), (label,), ("mutation",)).take(labels.index)
    config = load_config({"slides": "slides", "genes": "genes.csv", "covariates": ["code"]})
    with pytest.raises(InputError, match=f"task mutations: its column {label} is also among the genes"):
        refuse_copies(task, config, labels, omics)
    other = OmicsMatrix(np.zeros((N, 1)), tuple(CASES), ("EGFR",), ("rna",)).take(labels.index)
    refuse_copies(task, config, labels.assign(code=np.arange(len(labels)) % 3), other)
    with pytest.raises(InputError, match="covariate code has one value for each value of the label"):
        refuse_copies(task, config, labels.assign(code=answers[label].map({0: "n", 1: "p"})), other)
