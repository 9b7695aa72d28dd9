import gzip

import pytest

from preprocessing.io import files
from preprocessing.io.errors import InputError
from preprocessing.io.files import read_bytes, read_text, why_no_file


def test_a_file_and_a_link_to_one_are_files(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    assert why_no_file(tmp_path / "a.csv") is None
    assert why_no_file(tmp_path / "b.csv") is None
    assert why_no_file(tmp_path / "a.csv" / "c") == "does not exist"
    assert why_no_file(tmp_path) == "is a folder, not a file"


def test_text_in_utf_16_and_with_any_line_ends_is_read(tmp_path):
    path = tmp_path / "a.csv"
    for data in (
        "é\r\nb\rc\n".encode("utf-16"),
        b"\xef\xbb\xbf" + "é\nb\nc\n".encode(),
        gzip.compress("é\nb\r\nc\n".encode()),
    ):
        path.write_bytes(data)
        assert read_text(path) == "é\nb\nc\n"


def test_what_is_larger_than_any_table_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 30)
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole: it takes no room on the disk
    with pytest.raises(InputError, match="holds more than 1 GiB"):
        read_bytes(path)


def test_what_unpacks_beyond_belief_is_refused_and_what_is_small_is_not(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)))  # to a thousandth
    assert len(read_bytes(path)) == 1 << 20
    monkeypatch.setattr(files, "UNSUSPECTED_BYTES", 1 << 19)
    with pytest.raises(InputError, match="unpack to more than"):
        read_bytes(path)
