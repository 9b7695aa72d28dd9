import pandas as pd

from pipeline.inference.new_cohort import with_labels
from pipeline.tasks import TASKS


def test_labels_are_those_known_now_and_of_cases_that_no_table_names_those_they_had():
    table = pd.DataFrame({"case_id": ["a", "b"], "task": "grade", "label": ["2", "3"]})
    labelled = with_labels(
        table, pd.DataFrame({"grade": pd.array([4], dtype="Int64")}, index=["a"]), {"grade": TASKS["grade"]}
    )
    assert labelled["label"].tolist() == ["4", "3"]
