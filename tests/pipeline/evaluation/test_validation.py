"""Thresholds and validation by modality: each from the out-of-fold cases that were predicted from the same modalities."""

import math

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.validation import by_pattern, conformal, coverage, describe_validation, validated, with_sets
from pipeline.metrics import Bootstrap
from pipeline.tasks.classification import FittedClassification
from pipeline.tasks.regression import FittedRegression

GRADE = FittedClassification("grade", ("2", "3"), (5, 3))
SURE = {"slides+genes": 0.9, "slides": 0.7, "genes": 0.6}  # probability of the true class, by modalities


def rows(pattern, n, *, fold=0, truth=None, first=0):
    """Cases of one pattern, of alternating classes, each given the probability of its pattern for its class."""
    labels = np.where(np.arange(n) % 2 == 0, "2", "3")
    p3 = np.where(labels == "3", SURE[pattern], 1 - SURE[pattern]) if truth is None else np.full(n, truth)
    table = pd.DataFrame({"case_id": [f"{pattern}{first + i}" for i in range(n)], "fold": fold, "label": labels})
    return table.assign(modalities=pattern, prediction=labels, probability_2=1 - p3, probability_3=p3)


def test_thresholds_are_those_of_the_cases_with_the_same_modalities():
    found = conformal(GRADE.sets, pd.concat([rows("slides+genes", 20), rows("slides", 30), rows("genes", 5)]))
    assert {pattern: one["n"] for pattern, one in found["thresholds"].items()} == {
        "slides+genes": 20,
        "slides": 30,
        "genes": 5,
    }
    limits = {pattern: one["threshold"] for pattern, one in found["thresholds"].items()}
    assert limits.pop("genes") is None  # five cases are too few for 90 %
    assert limits == pytest.approx({"slides+genes": 0.1, "slides": 0.3})


def test_a_tested_case_is_calibrated_on_cases_of_other_folds_with_its_modalities():
    """By the cases of its own fold or with both modalities, the case from slides would have one class only, or all would."""
    others = [rows("slides+genes", 20, fold=1), rows("slides", 20, fold=1, truth=0.35, first=100)]  # limit 0.65
    own = [rows("slides", 20, fold=0, first=200)]  # limit 0.3
    tested = pd.concat([rows("slides", 1, fold=0), rows("slides+genes", 1, fold=0)], ignore_index=True)
    tested[["probability_2", "probability_3"]] = [0.6, 0.4]
    out_of_fold = pd.concat([*others, *own], ignore_index=True)
    sets = with_sets(GRADE.sets, tested, out_of_fold)["set_90"]
    assert sets.tolist() == ["2;3", "2"]


@pytest.mark.parametrize(("others", "own", "expected"), [(0.35, None, "2;3"), (None, 0.35, "2")])
def test_cases_of_its_own_fold_do_not_calibrate_a_tested_case(others, own, expected):
    """Of 20 cases, the limit is 0.65 where all have 0.35 for the second class, and 0.3 where each has 0.7 for its own."""
    out_of_fold = pd.concat([rows("slides", 20, fold=1, truth=others), rows("slides", 20, truth=own, first=100)])
    tested = rows("slides", 1, first=200).assign(probability_2=0.6, probability_3=0.4)
    assert with_sets(GRADE.sets, tested, out_of_fold)["set_90"].tolist() == [expected]


def test_a_case_of_no_fold_is_calibrated_on_all_cases_and_one_that_is_not_predicted_has_no_set():
    out_of_fold = pd.concat([rows("genes", 20, fold=0, truth=0.2), rows("genes", 20, fold=1, first=50)])
    table = rows("genes", 2).assign(fold=pd.array([None, None], dtype="Int64"))
    table[["probability_2", "probability_3"]] = [0.7, 0.3]
    table.loc[1, "prediction"] = None
    sets = with_sets(GRADE.sets, table, out_of_fold)["set_90"]
    assert sets[0] == "2;3"
    assert pd.isna(sets[1])


def test_out_of_fold_rows_are_those_tested_and_those_from_one_modality_each_once():
    tested = pd.concat([rows("slides+genes", 2), rows("genes", 1)], ignore_index=True)
    single = pd.concat(
        [
            rows("slides", 2).assign(case_id=["slides+genes0", "slides+genes1"], modality="slides"),
            rows("genes", 2).assign(case_id=["slides+genes0", "slides+genes1"], modality="genes"),
        ]
    ).drop(columns="label")
    found = by_pattern(tested, single)
    assert found.groupby("modalities").size().to_dict() == {"genes": 3, "slides": 2, "slides+genes": 2}
    assert found["label"].notna().all()
    pd.testing.assert_frame_equal(by_pattern(tested, pd.DataFrame()), tested)


def test_cases_of_a_model_that_reads_one_modality_count_once():
    """From genes only such a model predicts what it predicted anyway; from slides only it predicts nothing."""
    tested = rows("genes", 4)
    single = pd.concat(
        [rows("genes", 4).assign(modality="genes"), rows("genes", 4).assign(modality="slides", modalities="")]
    )
    found = by_pattern(tested, single.drop(columns="label"))
    assert found["case_id"].tolist() == tested["case_id"].tolist()


def test_validation_is_the_headline_of_each_pattern():
    turned = rows("slides", 10)
    turned[["probability_2", "probability_3"]] = turned[["probability_3", "probability_2"]].to_numpy()
    found = validated(GRADE, pd.concat([rows("slides+genes", 8), turned]), bootstrap=Bootstrap(10))
    assert {name: (one["metric"], one["n"], one["value"]) for name, one in found.items()} == {
        "slides+genes": ("macro_auc", 8, 1.0),
        "slides": ("macro_auc", 10, 0.0),
    }
    assert describe_validation(found, "slides").startswith("macro AUC 0.000 (")
    assert describe_validation(found, "slides+genes") == (
        "macro AUC 1.000, too few to judge (16 comparable pairs, 4 cases of the rarest class) in 8 cases out of fold"
    )
    assert describe_validation(found, "genes").startswith("not validated: ")


def test_coverage_counts_each_case_by_its_own_label():
    table = rows("genes", 4).assign(set_90=["2", "2", "2;3", "3"])  # labels 2, 3, 2, 3
    found = coverage(GRADE.sets, table, bootstrap=Bootstrap(10))
    assert (found.n, found.coverage.value, found.mean_size.value) == (4, 3 / 4, 5 / 4)
    assert math.isclose(found.promised, 0.9)


def test_intervals_without_limits_have_no_mean_width():
    fitted = FittedRegression("purity", 0.0, 1.0)
    table = pd.DataFrame({"label": [1.0, 2.0, 3.0], "set_90": ["0 to 2", "any", "0 to 2"]})
    found = coverage(fitted.sets, table, bootstrap=Bootstrap(10))
    assert (found.coverage.value, found.mean_size.value) == (2 / 3, None)
    assert found.mean_size.reason == "1 of 3 sets have no limits: too few cases to set them"
