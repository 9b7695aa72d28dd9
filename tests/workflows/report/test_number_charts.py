"""Charts of predicted numbers: which axis is which, the sign of an error, and bins by the prediction."""

import numpy as np
import pandas as pd
import pytest

from pipeline.tasks.regression import VALUE
from workflows.report.number_charts import calibration, errors, scatter

TRUTH = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])
PREDICTED = TRUTH[::-1] + 20
TESTED = pd.DataFrame({"case_id": [f"p{i}" for i in range(10)], "label": TRUTH.astype(str), VALUE: PREDICTED})


def test_the_prediction_is_on_the_x_axis_and_the_truth_on_the_y_axis():
    chart = scatter("s", TESTED, "µm")
    (points,) = chart.figure["data"]
    assert (points["x"], points["y"], points["text"]) == (PREDICTED.tolist(), TRUTH.tolist(), list(TESTED["case_id"]))
    titles = [chart.figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    assert titles == ["predicted (µm)", "true (µm)"]


def test_a_prediction_above_the_truth_is_a_positive_error():
    chart = errors("e", TESTED, "")
    assert chart.figure["data"][0]["x"] == (PREDICTED - TRUTH).tolist()
    assert chart.figure["layout"]["xaxis"]["title"]["text"] == "predicted − true"
    assert chart.text == f"Mean error 20, standard deviation {np.std(PREDICTED - TRUTH, ddof=1):.4g}."


def test_calibration_is_of_bins_of_cases_that_are_predicted_alike_with_the_error_of_their_mean():
    (points,) = calibration("c", TESTED, "").figure["data"]
    assert points["x"] == [23, 28]  # the five lowest predictions, and the five highest
    assert points["y"] == [8, 3]
    assert points["error_y"]["array"] == pytest.approx([1.96 * np.sqrt(2.5 / 5)] * 2, abs=1e-5)
    few = calibration("c", TESTED.head(9), "")
    assert (few.figure, few.text) == (None, "Needs 10 cases with label and prediction; there are 9.")


def test_cases_without_a_label_or_a_prediction_are_in_no_chart():
    some = TESTED.assign(label=["", *TESTED["label"][1:]]).assign(**{VALUE: [*PREDICTED[:-1], np.nan]})
    assert len(scatter("s", some, "").figure["data"][0]["x"]) == 8
    assert errors("e", TESTED.drop(columns="label"), "").figure is None
