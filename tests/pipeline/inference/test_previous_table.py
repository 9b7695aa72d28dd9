import logging

import pandas as pd
import pytest

from pipeline.inference.previous_table import PreviousTable, with_numbers
from preprocessing.io.errors import InputError

KEYS = ("task", "case_id")


def rows(**by_case):
    return pd.DataFrame(
        [
            {"case_id": case, "task": "grade", "value": value, "input_fingerprint": mark}
            for case, (value, mark) in by_case.items()
        ]
    )


@pytest.fixture
def path(tmp_path):
    (tmp_path / "predictions.csv").write_text(
        "case_id,task,value,input_fingerprint\nb,grade,0.10,x\na,grade,1e-3,y\n",
    )
    return tmp_path / "predictions.csv"


def test_previous_rows_stay_to_the_letter_and_new_ones_follow(path):
    table = PreviousTable(path, KEYS).updated(rows(c=(0.5, "z")))
    assert table["case_id"].tolist() == ["b", "a", "c"]
    assert table["value"].tolist() == ["0.10", "1e-3", "0.5"]


def test_a_renewed_row_is_replaced_in_place_and_new_columns_are_empty_in_old_rows(path):
    table = PreviousTable(path, KEYS).updated(rows(b=(0.7, "w")).assign(more="yes"))
    assert table["value"].tolist() == ["0.7", "1e-3"]
    assert table["more"].tolist() == ["yes", ""]


def test_only_new_and_changed_cases_are_pending(path, caplog):
    with caplog.at_level(logging.INFO):
        pending = PreviousTable(path, KEYS).pending(
            {"grade": {"a": "y", "b": "other", "c": "z"}, "subtype": {"a": "q"}}
        )
    assert pending == {"grade": ["b", "c"], "subtype": ["a"]}
    assert "task grade: 1 new cases; 1 predictions kept" in caplog.text
    assert "task grade: slides or genes of 1 cases changed; they are predicted again: b" in caplog.text


def test_on_a_first_call_every_case_is_pending(tmp_path):
    previous = PreviousTable(tmp_path / "predictions.csv", KEYS)
    assert previous.pending({"grade": {"a": "y"}}) == {"grade": ["a"]}
    assert previous.updated(rows(a=(0.25, "y")))["value"].tolist() == ["0.25"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "case_id,task\na,grade\n",
            r"predictions.csv was edited: it has no column input_fingerprint; give another --out",
        ),
        (
            "case_id,task,inputs\na,grade,x\n",
            r"predictions.csv was written by an earlier version .*; give another --out",
        ),
    ],
)
def test_a_table_without_fingerprints_is_refused(path, text, message):
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        PreviousTable(path, KEYS)


def test_numbers_become_numbers_and_names_stay_text(path):
    table = with_numbers(PreviousTable(path, KEYS).updated(rows(c=(0.5, "z"))).assign(label="4"))
    assert table["value"].tolist() == [0.1, 0.001, 0.5]
    assert table["label"].tolist() == ["4", "4", "4"]
