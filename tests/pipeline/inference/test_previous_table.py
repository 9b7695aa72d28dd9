import io
import logging
import random
import re

import pandas as pd
import pytest

from pipeline.inference.new_cohort import baseline_fingerprints
from pipeline.inference.previous_table import PreviousTable, hash_text, with_checksums, with_numbers
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
    return written(
        tmp_path / "predictions.csv", "case_id,task,value,input_fingerprint\nb,grade,0.10,x\na,grade,1e-3,y\n"
    )


def written(path, text):
    """A table as the program writes it, with checksums."""
    with_checksums(pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)).to_csv(path, index=False)
    return path


def test_previous_rows_stay_to_the_letter_and_new_ones_follow(path):
    table = PreviousTable(path, KEYS).updated(rows(c=(0.5, "z")))
    assert table["case_id"].tolist() == ["b", "a", "c"]
    assert table["value"].tolist() == ["0.10", "1e-3", "0.5"]
    assert list(table) == list(PreviousTable(path, KEYS).rows)


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
    assert "task grade: 1 new case; 1 prediction kept" in caplog.text
    assert "task grade: slides, genes or the way of prediction changed for 1 case, predicted again: b" in caplog.text


def test_on_a_first_call_every_case_is_pending(tmp_path):
    previous = PreviousTable(tmp_path / "predictions.csv", KEYS)
    assert previous.pending({"grade": {"a": "y"}}) == {"grade": ["a"]}
    assert previous.updated(rows(a=(0.25, "y")))["value"].tolist() == ["0.25"]


@pytest.mark.parametrize("lost", ["input_fingerprint", "checksum", "case_id"])
def test_a_table_that_lacks_one_of_its_columns_is_refused(path, lost):
    pd.read_csv(path).drop(columns=lost).to_csv(path, index=False)
    with pytest.raises(
        InputError, match=rf"written by an earlier version: it has no column {lost}; give another --out"
    ):
        PreviousTable(path, KEYS)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", bytes(100), b"\xff\xfe\xa0"])
def test_a_table_that_is_none_is_made_anew(path, content, caplog):
    path.write_bytes(content)
    assert PreviousTable(path, KEYS).pending({"grade": {"a": "y"}}) == {"grade": ["a"]}
    assert "predictions.csv is damaged (" in caplog.text
    assert "; all its rows are recomputed" in caplog.text


def test_a_flipped_bit_of_any_row_makes_its_case_anew_and_no_other(path, caplog):
    """400 bits; a bit may also break the table, or spoil a name of a column."""
    original, chance, expected = path.read_bytes(), random.Random(0), PreviousTable(path, KEYS).rows
    for _ in range(400):
        content = bytearray(original)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            rows = PreviousTable(path, KEYS).rows
        except InputError:  # the name of one of its own columns
            continue
        kept = expected.iloc[:0] if rows is None else rows
        pd.testing.assert_frame_equal(kept, expected[expected["case_id"].isin(kept["case_id"])].reset_index(drop=True))
        assert len(kept) < len(expected)
    assert "rows of 1 case differ from their checksums and are recomputed: " in caplog.text


def test_the_rows_of_a_case_count_together(tmp_path):
    text = "case_id,task,baseline,value,input_fingerprint\na,grade,x,1,m\na,grade,y,2,m\nb,grade,x,3,m\nb,grade,y,4,m\n"
    path = written(tmp_path / "baselines.csv", text)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # truncated: a baseline of case b is lost
    previous = PreviousTable(path, (*KEYS, "baseline"))
    assert previous.case_fingerprints() == {("grade", "a"): "m"}
    assert previous.rows["value"].tolist() == ["1", "2"]


@pytest.mark.parametrize("digits", ["7e27992479097cbd", "50060e8007123400", "1234567890123456"])
def test_hashes_are_read_as_text_by_whoever_reads_a_table(digits):
    text = hash_text(digits + "f" * 16)
    assert text == f"sha256:{digits}"
    assert pd.read_csv(io.StringIO(f"x\n{text}\n"))["x"].tolist() == [text]


def test_the_checksums_of_a_table_and_the_fingerprints_of_cases_are_such_hashes(path):
    rows = pd.DataFrame({"task": ["t"], "case_id": ["c"], "input_fingerprint": ["f"]})
    (checksum,) = with_checksums(rows)["checksum"]
    marks = baseline_fingerprints({"c": "f"}, pd.DataFrame({"age": [50]}, index=["c"]))
    for mark in (checksum, marks["c"]):
        assert re.fullmatch("sha256:[0-9a-f]{16}", mark)


def test_checksums_do_not_change_with_a_column_that_is_empty(path):
    before = PreviousTable(path, KEYS).rows
    after = with_checksums(before.assign(more=["", ""]))
    assert after["checksum"].tolist() == before["checksum"].tolist()
    assert list(after)[-1] == "checksum"


def test_a_case_that_is_incomplete_elsewhere_is_pending(path):
    pending = PreviousTable(path, KEYS).pending({"grade": {"a": "y", "b": "x"}}, incomplete={("grade", "b")})
    assert pending == {"grade": ["b"]}


def test_numbers_become_numbers_and_names_stay_text(path):
    table = with_numbers(PreviousTable(path, KEYS).updated(rows(c=(0.5, "z"))).assign(label="4"))
    assert table["value"].tolist() == [0.1, 0.001, 0.5]
    assert table["label"].tolist() == ["4", "4", "4"]


def test_numbers_are_read_to_the_last_digit_and_names_stay_text_in_the_same_columns():
    text = pd.DataFrame({"case_id": ["007"], "label": ["4"], "value": ["0.1000000000000000055"], "n": ["3"]})
    found = with_numbers(text)
    assert list(found) == list(text)
    assert found.iloc[0].to_dict() == {"case_id": "007", "label": "4", "value": 0.1, "n": 3}
