"""What an evaluation of a new cohort is given: planted values that a mix-up of cases, tasks or modalities would change."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.baselines.clinical import CLINICAL_FOR_SURVIVAL
from pipeline.baselines.survival_baselines import CURVE_COLUMNS
from pipeline.inference.new_cohort import baseline_fingerprints, evaluate, prediction_rows, with_labels
from pipeline.inference.prediction import predict_baselines
from pipeline.metrics import Bootstrap
from pipeline.run.finished import TRAINING_CASE
from pipeline.tasks import TASKS
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.survival import FittedSurvival

GRADE = FittedClassification("grade", ("2", "3"), (5, 3))
BOOTSTRAP = Bootstrap(10, 0)


def test_labels_are_those_known_now_and_of_cases_that_no_table_names_those_they_had():
    table = pd.DataFrame({"case_id": ["a", "b"], "task": "grade", "label": ["2", "3"]})
    labelled = with_labels(
        table, pd.DataFrame({"grade": pd.array([4], dtype="Int64")}, index=["a"]), {"grade": TASKS["grade"]}
    )
    assert labelled["label"].tolist() == ["4", "3"]


def test_a_label_that_is_withdrawn_goes_and_labels_of_other_tasks_stay():
    table = pd.DataFrame({"case_id": ["a", "a"], "task": ["grade", "subtype"], "label": ["2", "IDHwt"]})
    known = pd.DataFrame({"grade": pd.array([None], dtype="Int64")}, index=["a"])
    assert with_labels(table, known, {"grade": TASKS["grade"]})["label"].tolist() == ["", "IDHwt"]


def predictor(fitted=GRADE, name="grade", trained_on=()):
    return SimpleNamespace(
        task=name,
        definition=TASKS[name],
        fitted=fitted,
        model_name="umeml",
        trained_on=lambda cases: [case for case in cases if case in trained_on],
    )


def predictions(labels, p3, *, modalities="slides+genes", task="grade"):
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(len(labels))], "task": task, "label": labels})
    p3 = np.array(p3)
    return table.assign(
        status="predicted", modalities=modalities, prediction="2", probability_2=1 - p3, probability_3=p3, set_90="2;3"
    )


def test_without_sets_in_the_table_or_in_the_model_there_is_no_coverage():
    table = predictions(["2", "3"], [0.2, 0.7])
    evaluated = partial(evaluate, baselines=NO_BASELINES, bootstrap=Bootstrap(10))
    assert evaluated(predictor(), table).prediction_sets.n == 2
    assert evaluated(predictor(), table.drop(columns="set_90")).prediction_sets is None


NO_BASELINES = pd.DataFrame({"case_id": [], "task": [], "baseline": [], "reason": []})


def test_cases_of_the_training_cohort_are_not_evaluated():
    """With c0 and c1 one of four pairs is in order; without them the one pair that is left is."""
    rows = predictions(["3", "2", "3", "2"], [0.1, 0.9, 0.8, 0.2])
    assert evaluate(predictor(), rows, NO_BASELINES, bootstrap=BOOTSTRAP).model.pooled.macro_auc.value == 0.25
    report = evaluate(predictor(trained_on=("c0", "c1")), rows, NO_BASELINES, bootstrap=BOOTSTRAP)
    assert (report.n, report.model.pooled.macro_auc.value, report.new_cohort) == (2, 1.0, True)
    assert evaluate(predictor(trained_on=tuple(rows["case_id"])), rows, NO_BASELINES, bootstrap=BOOTSTRAP) is None


def test_cases_of_each_modality_are_evaluated_by_themselves():
    rows = predictions(["2", "3"] * 4, [0.1, 0.9] * 2 + [0.9, 0.1] * 2, modalities=["slides"] * 4 + ["genes"] * 4)
    report = evaluate(predictor(), rows, NO_BASELINES, bootstrap=BOOTSTRAP)
    assert {name: (one.pooled.n, one.pooled.macro_auc.value) for name, one in report.modalities.items()} == {
        "slides": (4, 1.0),
        "genes": (4, 0.0),
    }


def test_a_task_has_its_own_rows_and_baselines():
    """Rows of the other task, of the same cases, are the other way round."""
    right, wrong = [0.1, 0.9, 0.2, 0.8], [0.9, 0.1, 0.8, 0.2]
    rows = pd.concat([predictions(["2", "3"] * 2, right), predictions(["2", "3"] * 2, wrong, task="subtype")])
    baselines = rows.drop(columns=["label", "status", "set_90"]).assign(baseline="clinical", reason=None)
    report = evaluate(predictor(), rows, baselines, bootstrap=BOOTSTRAP)
    assert report.model.pooled.macro_auc.value == report.baselines["clinical"].pooled.macro_auc.value == 1
    assert report.differences["clinical"].value == 0


def test_risk_groups_of_a_new_cohort_are_cut_at_the_median_of_the_training_cases():
    rows = pd.DataFrame({"case_id": list("abcd"), "task": "survival", "label": ["1", "2", "3", "4"]})
    rows = rows.assign(status="predicted", modalities="genes", prediction="low risk", event="True")
    rows = rows.assign(survival_months=[1.0, 2.0, 3.0, 4.0], risk=[-0.5, -1.0, -1.5, -2.0])
    rows = rows.assign(**dict.fromkeys(CURVE_COLUMNS, 0.5))
    fitted = FittedSurvival((12.0,), 60.0, median_risk=-1.75)
    report = evaluate(predictor(fitted, "survival"), rows, NO_BASELINES, bootstrap=BOOTSTRAP)
    assert (report.model.pooled.risk_groups.n_high, report.model.pooled.risk_groups.n_low) == (3, 1)
    assert report.model.pooled.c_index.value == 1


def test_a_row_says_whether_its_case_was_trained_on_and_has_its_own_fingerprint_and_shift():
    table = predictions(["2", "3"], [0.1, 0.9]).assign(reason="", cross_validation="x").drop(columns=["task", "label"])
    shift = pd.DataFrame({"case_id": ["c1", "c0"], "distribution_shift": ["borderline", "in-distribution"]})
    shift["distribution_shift_reason"] = ["why", ""]
    audit = pd.DataFrame({"case_id": ["c0", "c1", "lost"], "status": ["used", "used", "left out"]}).assign(
        reason="no slide"
    )
    rows = prediction_rows(
        predictor(trained_on=("c1",)), table, {"c0": "f0", "c1": "f1"}, audit, SimpleNamespace(cases=shift)
    ).set_index("case_id")
    assert rows["reason"].to_dict() == {"c0": "", "c1": TRAINING_CASE, "lost": "no slide"}
    assert rows["input_fingerprint"].to_dict() == {"c0": "f0", "c1": "f1", "lost": ""}
    assert rows["distribution_shift"].dropna().to_dict() == {"c0": "in-distribution", "c1": "borderline"}
    assert rows["status"].to_dict() == {"c0": "predicted", "c1": "predicted", "lost": "left out"}
    assert set(rows["task"]) == {"grade"}


@pytest.mark.parametrize("column", CLINICAL_FOR_SURVIVAL)
def test_baselines_are_predicted_again_where_a_clinical_value_changes(column):
    labels = pd.DataFrame({name: [2.0, 4.0] for name in CLINICAL_FOR_SURVIVAL}, ["a", "b"])
    before = baseline_fingerprints({"a": "x", "b": "x"}, labels)
    assert before["a"] != before["b"]
    after = baseline_fingerprints({"a": "x", "b": "x"}, labels.assign(**{column: [3.0, 4.0]}))
    assert (after["a"] != before["a"], after["b"] == before["b"]) == (True, True)
    assert baseline_fingerprints({"a": "y"}, labels)["a"] != before["a"]


def test_baselines_of_several_members_are_averaged_case_by_case():
    def member(shift):
        def predict(labels, data, cases, *, device):
            values = [labels.loc[case, "age"] + shift + data for case in cases]
            return pd.DataFrame({"case_id": list(cases), "baseline": "clinical", "reason": None, "risk": values})

        return SimpleNamespace(baselines=SimpleNamespace(slides=None, predict=predict))

    labels = pd.DataFrame({"age": [10.0, 20.0]}, ["a", "b"])
    several = SimpleNamespace(members=[member(0), member(4)])
    inputs = [SimpleNamespace(data=100), SimpleNamespace(data=200)]
    found = predict_baselines(several, inputs, labels, ["b", "a"], device="cpu").set_index("case_id")
    assert found["risk"].to_dict() == {"a": (10 + 100 + 10 + 4 + 200) / 2, "b": (20 + 100 + 20 + 4 + 200) / 2}
    assert found["reason"].isna().all()
    assert predict_baselines(several, inputs, labels, [], device="cpu").empty


@pytest.mark.parametrize("status", ["not predicted", "left out"])
def test_cases_without_a_prediction_are_not_evaluated(status):
    rows = predictions(["3", "2", "3", "2"], [0.1, 0.9, 0.8, 0.2])
    rows.loc[:1, "status"] = status
    assert evaluate(predictor(), rows, NO_BASELINES, bootstrap=BOOTSTRAP).model.pooled.macro_auc.value == 1
