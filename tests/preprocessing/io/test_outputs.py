import json

import pytest

from preprocessing.io.errors import InputError
from preprocessing.io.outputs import DamagedFileError, read_json, read_table, read_text_table


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "\0\0", "[" * 100_000])
def test_what_is_no_json_object_is_refused_with_file_and_remedy(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged \(.+\); repeat the command of the run"):
        read_json(path)


def test_a_file_that_is_missing_is_refused(tmp_path):
    for read in (read_json, read_table, read_text_table):
        with pytest.raises(InputError, match=r"gone is damaged \(.*No such file.*\); do this"):
            read(tmp_path / "gone", remedy="do this")


def test_json_that_is_larger_than_any_that_is_written_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"a": "b" * 100}))
    monkeypatch.setattr("preprocessing.io.outputs.MAX_JSON_BYTES", 100)
    with pytest.raises(DamagedFileError, match=rf"run\.json is damaged \({path.stat().st_size} bytes\)"):
        read_json(path)


def test_an_object_is_read(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"a": 0.1}))
    assert read_json(tmp_path / "run.json") == {"a": 0.1}


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"case_id,fold\na,1\nb,1,2,3\n", b"\xff\xfe\xff", b"case\na\n"])
def test_what_is_no_table_or_lacks_a_column_is_refused(tmp_path, content):
    path = tmp_path / "predictions.csv"
    path.write_bytes(content)
    for read in (read_table, read_text_table):
        with pytest.raises(DamagedFileError, match=r"predictions\.csv is damaged"):
            read(path, "case_id", "fold")


def test_tables_are_read_to_the_last_digit_or_as_text(tmp_path):
    path, number = tmp_path / "a.csv", 0.1 + 0.2
    path.write_text(f"case_id,risk\n007,{number!r}\nNA,\n")
    assert read_table(path, "risk", dtype={"case_id": str})["risk"][0] == number
    assert read_text_table(path, "case_id")["case_id"].tolist() == ["007", "NA"]
