"""Cases of one cohort, predicted by models of others: each row has the metric of its own cases."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.cohort_transfer import cohort_transfer, transfer_table
from pipeline.evaluation.model_evaluation import Evaluation
from pipeline.metrics import Bootstrap
from pipeline.planning.splits import Fold
from pipeline.tasks.classification import FittedClassification

P3 = [0.1, 0.9, 0.2, 0.8, 0.9, 0.1, 0.4, 0.6]  # right in cohort a, the wrong way round, then right in cohort b
LABELS = ["2", "3"] * 4
CASES = [*(f"a{i}" for i in range(4)), *(f"b{i}" for i in range(4))]


def predictions(p3):
    table = pd.DataFrame({"case_id": CASES, "fold": [0] * 4 + [1] * 2 + [2] * 2})
    return table.assign(probability_2=1 - np.array(p3), probability_3=p3)


@pytest.fixture
def rows():
    cases = predictions(P3).assign(label=LABELS, cohort=["a"] * 4 + ["b"] * 4)
    task = FittedClassification("grade", ("2", "3"), (4, 4))
    evaluation = Evaluation(task, cases, by_fold=True, bootstrap=Bootstrap(20))
    folds = [
        Fold(0, tuple(CASES[4:]), (), tuple(CASES[:4])),
        Fold(1, tuple(CASES[:4]), (), tuple(CASES[4:6])),
        Fold(2, (*CASES[:4], *CASES[4:6]), (), tuple(CASES[6:])),
    ]
    turned = predictions(1 - np.array(P3)).assign(baseline="clinical", reason=None).iloc[::-1]
    turned = pd.concat([turned.assign(baseline="genes"), turned])
    cohort_of = {case: case[0] for case in CASES}
    return cohort_transfer(evaluation, folds, turned, cohort_of, scheme="cohort-pairs", model_name="umeml")


def test_there_is_a_row_for_each_tested_cohort_and_the_cohorts_it_was_learned_from(rows):
    found = {(one.train, one.test): one for one in rows}
    assert list(found) == [(("a",), "b"), (("a", "b"), "b"), (("b",), "a")]
    assert [one.n for one in rows] == [2, 2, 4]
    assert {tuple(one.headline) for one in rows} == {("umeml", "genes", "clinical")}  # in the order of the table
    assert {one.scheme for one in rows} == {"cohort-pairs"}
    values = {train: {name: m.value for name, m in one.headline.items()} for (train, _), one in found.items()}
    assert values == {
        ("a",): {"umeml": 0, "genes": 1, "clinical": 1},
        ("a", "b"): {"umeml": 1, "genes": 0, "clinical": 0},
        ("b",): {"umeml": 1, "genes": 0, "clinical": 0},
    }


def test_pairs_of_cases_are_compared_within_a_fold():
    """Models of two folds rank their own cases right, on scales of their own."""
    shifted = [0.1, 0.3, 0.2, 0.4, 0.7, 0.8, 0.6, 0.9]
    cases = predictions(shifted).assign(fold=[0] * 4 + [1] * 4, label=LABELS, cohort="b")
    task = FittedClassification("grade", ("2", "3"), (4, 4))
    folds = [Fold(0, ("a1",), (), tuple(CASES[:4])), Fold(1, ("a1",), (), tuple(CASES[4:]))]
    (row,) = cohort_transfer(
        Evaluation(task, cases, by_fold=True, bootstrap=Bootstrap(20)),
        folds,
        pd.DataFrame(columns=["case_id", "fold", "baseline"]),
        {"a1": "a"},
        scheme="cohort",
        model_name="umeml",
    )
    assert (row.n, row.headline["umeml"].value) == (8, 1)


def test_the_table_has_a_row_for_each_of_them_and_predictor(rows):
    report = SimpleNamespace(transfer=rows, headline="macro_auc")
    reports: Any = {"grade": report, "os": SimpleNamespace(transfer=())}
    table = transfer_table(reports)
    assert list(table) == ["task", "split_by", "train", "test", "n", "predictor", "metric", "value", "low", "high"]
    assert len(table) == 9
    assert table.iloc[3].to_dict() == {
        **{"task": "grade", "split_by": "cohort-pairs", "train": "a+b", "test": "b", "n": 2, "predictor": "umeml"},
        **{"metric": "macro_auc", "value": 1, "low": rows[1].headline["umeml"].low},
        "high": rows[1].headline["umeml"].high,
    }
