import logging

import pandas as pd
import pytest

from pipeline.inference.new_cohort import Kept, with_labels
from preprocessing.io.errors import InputError

KEYS = ("task", "case_id")


def rows(**by_case):
    return pd.DataFrame(
        [{"case_id": case, "task": "grade", "value": value, "inputs": mark} for case, (value, mark) in by_case.items()]
    )


@pytest.fixture
def path(tmp_path):
    (tmp_path / "predictions.csv").write_text("case_id,task,value,inputs\nb,grade,0.10,x\na,grade,1e-3,y\n")
    return tmp_path / "predictions.csv"


def test_rows_that_are_there_stay_to_the_letter_and_new_ones_come_behind(path):
    table = Kept(path, KEYS).renewed(rows(c=(0.5, "z")))
    assert table["case_id"].tolist() == ["b", "a", "c"]
    assert table["value"].tolist() == ["0.10", "1e-3", "0.5"]


def test_a_renewed_row_takes_its_old_place_and_new_columns_are_empty_in_old_rows(path):
    table = Kept(path, KEYS).renewed(rows(b=(0.7, "w")).assign(more="yes"))
    assert table["value"].tolist() == ["0.7", "1e-3"]
    assert table["more"].tolist() == ["yes", ""]


def test_only_what_is_new_or_made_from_something_else_is_asked_for(path, caplog):
    with caplog.at_level(logging.INFO):
        asked = Kept(path, KEYS).not_there({"grade": {"a": "y", "b": "other", "c": "z"}, "subtype": {"a": "q"}})
    assert asked == {"grade": ["b", "c"], "subtype": ["a"]}
    assert "task grade: 1 cases are new, 1 stay as they were" in caplog.text
    assert "task grade: 1 predictions are renewed, their slides or genes changed: b" in caplog.text


def test_a_first_call_asks_for_everything(tmp_path):
    kept = Kept(tmp_path / "predictions.csv", KEYS)
    assert kept.not_there({"grade": {"a": "y"}}) == {"grade": ["a"]}
    assert kept.renewed(rows(a=(0.25, "y")))["value"].tolist() == ["0.25"]


def test_a_table_that_someone_changed_is_refused(path):
    path.write_text("case_id,task\na,grade\n")
    with pytest.raises(
        InputError, match=r"predictions.csv was changed: columns task, case_id, inputs are not all there"
    ):
        Kept(path, KEYS)


def test_labels_are_those_known_now_and_of_cases_that_no_table_names_those_they_had():
    table = pd.DataFrame({"case_id": ["a", "b"], "task": "grade", "label": ["2", "3"]})
    told = with_labels(table, pd.DataFrame({"grade": pd.array([4], dtype="Int64")}, index=["a"]))
    assert told["label"].tolist() == ["4", "3"]
