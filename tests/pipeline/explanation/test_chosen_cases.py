import numpy as np
import pandas as pd
import pytest

from pipeline.config.schema import ALL_CASES
from pipeline.explanation import chosen_cases
from pipeline.explanation.chosen_cases import requested_cases
from pipeline.tasks import TASKS
from preprocessing.io.errors import InputError
from preprocessing.tables.identity import IdentityScheme, identity_scheme

GRADES = pd.DataFrame(
    {
        "case_id": list("abcdef"),
        "fold": [0, 0, 0, 1, 1, pd.NA],
        "label": ["2", "4", "2", "4", "2", None],
        "prediction": ["2", "4", "4", "2", "2", "4"],
        "probability_2": [0.9, 0.4, 0.1, 0.62, 0.7, 0.01],
        "probability_4": [0.1, 0.6, 0.9, 0.38, 0.3, 0.99],
        "risk": np.nan,
    }
)
SURVIVAL = pd.DataFrame(
    {
        "case_id": list("abcde"),
        "prediction": ["high risk"] * 3 + ["low risk"] * 2,
        "risk": [-0.5, -1.0, -2.0, -3.0, -3.5],
        "survival_months": [3.0, 90.0, 20.0, 5.0, 80.0],
        "event": [True, False, True, True, True],
    }
)


def choose_cases(predictions, which):
    name = "grade" if "label" in predictions else "survival"
    return chosen_cases.choose_cases(TASKS[name], predictions, which)


def test_all_explains_every_predicted_case_once():
    twice = pd.concat([GRADES, GRADES.head(2), GRADES.assign(case_id="unpredicted", prediction=None).head(1)])
    assert choose_cases(twice, ALL_CASES) == dict.fromkeys("abcdef", "all cases")
    assert choose_cases(SURVIVAL, ALL_CASES) == dict.fromkeys("abcde", "all cases")


def test_of_several_predictions_of_a_case_the_first_counts():
    again = GRADES.head(3).assign(fold=2, probability_2=[0.51, 0.01, 0.5], probability_4=[0.49, 0.99, 0.5])
    for which in (1, 2):
        assert choose_cases(pd.concat([GRADES, again]), which) == choose_cases(GRADES, which)
    assert choose_cases(pd.concat([again, GRADES]), 1) != choose_cases(GRADES, 1)


def test_of_classes_the_most_and_least_certain_that_are_right_and_wrong():
    assert choose_cases(GRADES, 1) == {
        "a": "most certain, right",
        "b": "least certain, right",
        "c": "most certain, wrong",
        "d": "least certain, wrong",
    }


def test_a_case_of_several_kinds_has_all_reasons():
    chosen = choose_cases(GRADES[GRADES["case_id"].isin(["a", "c"])], 2)
    assert chosen == {
        "a": "most certain, right; least certain, right",
        "c": "most certain, wrong; least certain, wrong",
    }


def test_more_of_each_kind():
    assert list(choose_cases(GRADES, 2)) == ["a", "e", "b", "c", "d"]
    assert choose_cases(GRADES, 0) == {}


def test_without_labels_certainty_alone_chooses():
    assert choose_cases(GRADES.assign(label=None), 1) == {"f": "most certain", "b": "least certain"}


def test_of_survival_the_extremes_and_the_disagreements():
    """b: second highest risk, alive after 90 months; d: second lowest risk, dead after 5."""
    assert choose_cases(SURVIVAL, 1) == {
        "a": "highest risk",
        "e": "lowest risk",
        "b": "risk too high for its outcome",
        "d": "risk too low for its outcome",
    }
    alive = SURVIVAL.assign(event=False)
    assert "risk too low for its outcome" not in choose_cases(alive, 1).values()
    assert choose_cases(SURVIVAL[["case_id", "prediction", "risk"]], 1) == {"a": "highest risk", "e": "lowest risk"}


def test_cases_by_name_are_those_with_a_prediction():
    assert choose_cases(GRADES.assign(prediction=GRADES["prediction"].where(GRADES["case_id"] != "b")), ("b", "f")) == {
        "f": "requested"
    }


def test_a_case_that_is_not_used_is_refused():
    known = IdentityScheme()
    assert requested_cases(3, ["a"], known) == 3
    assert requested_cases(("a",), ["a", "b"], known) == ("a",)
    with pytest.raises(InputError, match=r"--explain: x, y: not among the 2 cases used \(a, b\); --dry-run lists"):
        requested_cases(("a", "x", "y"), ["a", "b"], known)


def test_a_case_is_requested_by_the_id_of_a_sample_or_a_slide():
    barcodes = ("TCGA-06-0125-01A", "tcga.06.0125", "TCGA-06-0126")
    cases = ["TCGA-06-0125", "TCGA-06-0126"]
    assert requested_cases(barcodes, cases, IdentityScheme()) == tuple(cases)
    assert requested_cases(("LAB_A-1_HE",), ["A-1"], identity_scheme(r"[A-Z]-\d+")) == ("A-1",)


def test_certainty_is_the_likeliest_class_probability():
    assert TASKS["grade"].certainty(GRADES).tolist() == [0.9, 0.6, 0.9, 0.62, 0.7, 0.99]
    assert TASKS["survival"].certainty(SURVIVAL).isna().all()
