from types import SimpleNamespace

import pandas as pd

from pipeline.metrics import CohortTransfer, Metric
from pipeline.tasks import TASKS
from workflows.report.prediction_table import prediction_table
from workflows.report.tables import slide_table, transfer_table


def test_a_row_of_the_transfer_between_cohorts_has_each_under_its_header():
    headline = {"umeml": Metric(0.7, 0.6, 0.8), "clinical": Metric(0.6, 0.5, 0.7)}
    transfer = CohortTransfer(scheme="cohort", train=("LGG", "GBM"), test="CGGA", n=30, headline=headline)
    table = transfer_table("key", "grade", SimpleNamespace(transfer=(transfer,), headline="macro_auc"))
    (row,) = table.rows
    found = dict(zip(table.columns[:4], (cell.text for cell in row), strict=False))
    assert found == {"folds by": "cohort", "trained on": "LGG + GBM", "tested on": "CGGA", "#cases": "30"}
    assert [(cell.text, cell.small, cell.path) for cell in row[4:]] == [
        ("0.700", "0.600–0.800", "grade/transfer/0/headline/umeml"),
        ("0.600", "0.500–0.700", "grade/transfer/0/headline/clinical"),
    ]


def test_slides_that_need_attention_come_first(tmp_path):
    status = ["done", "failed", "reused", "excluded"]
    slides = pd.DataFrame(
        {"slide_id": list("abcd"), "case_id": "p", "status": status, "reason": ["", "torn", "", "copy"]}
    )
    slides = slides.assign(n_tiles=3, seconds=1.0, mpp=0.5)
    table = slide_table(SimpleNamespace(slides=slides, record={}, folder=tmp_path))
    assert [(row[1].text, row[3].mark, row[-1].text) for row in table.rows] == [
        ("b", "bad", "torn"),
        ("d", "open", "copy"),
        ("a", "", ""),
        ("c", "", ""),
    ]


def test_only_a_prediction_of_a_case_with_a_label_is_right_or_wrong():
    predicted = pd.DataFrame({"case_id": list("abc"), "label": ["2", "3", ""], "prediction": ["2", "2", "3"]})
    run = SimpleNamespace(definitions={"grade": TASKS["grade"]})
    table = prediction_table("key", run, "grade", predicted.assign(probability_2=0.5, probability_3=0.5))
    at = table.columns.index("prediction")
    assert [(row[at].text, row[at].small, row[at].mark) for row in table.rows] == [
        ("2", "", ""),
        ("2", "incorrect", "bad"),
        ("3", "", ""),
    ]
