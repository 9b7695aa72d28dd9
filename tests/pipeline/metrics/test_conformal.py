import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from pipeline.evaluation.validation import conformal, coverage, describe_validation, with_sets
from pipeline.metrics import Bootstrap
from pipeline.metrics.conformal import contains, prediction_sets, threshold
from pipeline.tasks.classification import FittedClassification

CLASSES = ("a", "b", "c")
SETS = FittedClassification("x", CLASSES, (1, 1, 1)).sets


def draw(n, seed, sharpness=2.0):
    """Cases whose probabilities are informative, and calibrated or not by their sharpness; the class of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    logits = sharpness * (np.eye(3)[labels] + rng.normal(size=(n, 3)))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    frame = pd.DataFrame(probabilities, columns=[f"probability_{name}" for name in CLASSES])
    frame["label"] = np.array(CLASSES)[labels]
    frame["prediction"] = np.array(CLASSES)[probabilities.argmax(1)]
    return frame.assign(case_id=[f"c{i}" for i in range(n)], modalities="genes", fold=np.arange(n) % 5)


def test_the_threshold_is_the_ninth_of_nine_and_of_ten_the_tenth_scores_by_hand():
    scores = np.array([0.5, 0.1, 0.9, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8])
    assert threshold(scores) == 0.9  # ⌈10 · 0.9⌉ = 9
    assert threshold(np.append(scores, 0.95)) == 0.95  # ⌈11 · 0.9⌉ = 10
    assert threshold(np.arange(1, 101) / 100) == 0.91  # ⌈101 · 0.9⌉ = 91


def test_with_few_cases_a_set_holds_every_class():
    assert math.isinf(threshold(np.full(8, 0.1)))
    assert prediction_sets(np.array([[0.7, 0.3, 0.0]]), np.array([math.inf]), CLASSES) == ["a;b;c"]


def test_a_set_is_never_empty_and_names_the_likeliest_first():
    sets = prediction_sets(np.array([[0.3, 0.4, 0.3], [0.1, 0.3, 0.6]]), np.array([0.1, 0.7]), CLASSES)
    assert sets == ["b", "c;b"]
    assert contains("c;b", "b")
    assert not contains("IDHmut-non-codel", "IDHmut-codel")


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0])
def test_coverage_on_exchangeable_cases_is_as_promised_within_binomial_error(sharpness):
    n, m = 400, 2000
    thresholds = conformal(SETS, draw(n, 1, sharpness))["thresholds"]["genes"]
    new = draw(m, 2, sharpness)
    limits = np.full(m, thresholds["threshold"])
    sets = prediction_sets(new[[f"probability_{name}" for name in CLASSES]].to_numpy(), limits, CLASSES)
    covered = sum(contains(one, label) for one, label in zip(sets, new["label"], strict=True))
    # The coverage of a calibration set of 400 varies itself: its standard deviation is √(0.9 · 0.1 / 402) = 0.015.
    low = binom.ppf(0.001, m, 0.9 - 3 * 0.015)
    high = binom.ppf(0.999, m, 0.9 + 3 * 0.015)
    assert low <= covered
    assert covered <= high or (np.array([one.count(";") for one in sets]) == 0).mean() > 0.9


def test_a_tested_cases_set_does_not_depend_on_its_own_folds_labels():
    frame = draw(100, 3).assign(status="tested")
    own = with_sets(SETS, frame, frame)
    other = frame.copy()
    first = other["fold"] == 0
    other.loc[first, "label"] = "a"
    again = with_sets(SETS, other, other)
    assert again.loc[first, "set_90"].tolist() == own.loc[first, "set_90"].tolist()
    assert again.loc[~first, "set_90"].tolist() != own.loc[~first, "set_90"].tolist()


def test_a_pattern_that_was_never_tested_gets_every_class_and_is_reported_to_be_not_validated():
    frame = draw(100, 3).assign(status="tested")
    new = pd.DataFrame(frame.iloc[:1].assign(modalities="slides", fold=pd.NA, status="unlabelled", case_id="new"))
    predictions = with_sets(SETS, pd.concat([frame, new], ignore_index=True), frame)
    assert set(predictions["set_90"].iloc[-1].split(";")) == set(CLASSES)
    assert describe_validation({}, "slides") == "not validated: no case of the training run was predicted from slides"


def test_coverage_is_counted_by_hand():
    rows = pd.DataFrame({"set_90": ["a;b", "a", "c", "b;c;a"], "label": ["b", "b", "c", "a"]})
    report = coverage(SETS, rows, bootstrap=Bootstrap(20))
    assert report.coverage.value == 0.75
    assert report.mean_size.value == 7 / 4


def test_a_cases_set_is_calibrated_on_cases_predicted_from_the_same_modalities():
    """The true class has 0.55 from slides, where the next has 0.41, and 0.4 from genes: by slides' own limit one is enough."""
    labels = np.array(CLASSES)[np.arange(60) % 3]
    truth = np.eye(3)[np.arange(60) % 3]
    first, second = np.roll(truth, 1, axis=1), np.roll(truth, 2, axis=1)
    slides, genes = 0.55 * truth + 0.41 * first + 0.04 * second, 0.4 * truth + 0.5 * first + 0.1 * second
    parts = [
        pd.DataFrame(values, columns=[f"probability_{name}" for name in CLASSES]).assign(
            label=labels,
            prediction=np.array(CLASSES)[values.argmax(1)],
            case_id=[f"{name}{i}" for i in range(60)],
            modalities=name,
            fold=np.arange(60) % 5,
        )
        for name, values in (("slides", slides), ("genes", genes))
    ]
    frame = pd.concat(parts, ignore_index=True)
    sets = (
        with_sets(SETS, frame, frame)
        .groupby("modalities")["set_90"]
        .apply(lambda column: set(column.str.count(";") + 1))
    )
    assert sets.to_dict() == {"slides": {1}, "genes": {2}}
    thresholds = {name: one["threshold"] for name, one in conformal(SETS, frame)["thresholds"].items()}
    assert thresholds == {"slides": pytest.approx(0.45), "genes": pytest.approx(0.6)}
