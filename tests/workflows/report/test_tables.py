from types import SimpleNamespace

from pipeline.metrics import CohortTransfer, Metric
from workflows.report.tables import transfer_table


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
