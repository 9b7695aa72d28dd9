import bz2
import gzip
import io
import lzma
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from preprocessing.io import unpacking
from preprocessing.io.errors import InputError
from preprocessing.io.files import decode, read_bytes, read_text, similar_name, user_path, why_no_file


def test_only_the_sign_of_a_home_folder_is_replaced(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = [str(user_path(text)) for text in ("~/a", "~", "a/~/b", "~no such user/a", "/a")]
    assert found == ["/home/me/a", "/home/me", "a/~/b", "~no such user/a", "/a"]


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
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1 << 30)
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole: it takes no room on the disk
    with pytest.raises(InputError, match="larger than 1 GiB"):
        read_bytes(path)


def test_what_unpacks_beyond_belief_is_refused_and_what_is_small_is_not(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)))  # to a thousandth
    assert len(read_bytes(path)) == 1 << 20
    monkeypatch.setattr(unpacking, "UNSUSPECTED_BYTES", 1 << 19)
    with pytest.raises(InputError, match="unpack to more than"):
        read_bytes(path)


TABLE = b"case_id,EGFR\np1,1\n"


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, TABLE)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [gzip.compress(TABLE), lzma.compress(TABLE), bz2.compress(TABLE), zipped("a.csv"), zipped("a.csv", "__MACOSX/a")],
    ids=["gzip", "xz", "bzip2", "zip", "zip of a Mac"],
)
def test_compressed_tables_are_unpacked(tmp_path, data):
    path = tmp_path / "a"
    path.write_bytes(data)
    assert read_bytes(path) == TABLE


def test_an_archive_of_several_files_is_refused_with_their_names(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped("one.csv", "two.csv"))
    with pytest.raises(
        InputError, match=r"zip archive of 2 files \(one.csv, two.csv\); unpack it and give one of them"
    ):
        read_bytes(path)


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("genes.csv"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            gzip.compress(b"X\n\x00\x00\x00\x03rest"),
            r"is an R object \(.rds\); convert it in a shell: Rscript -e .*readRDS",
        ),
        (gzip.compress(b"RDX3\nX\n"), r"is an R workspace \(.RData\); .*Rscript -e 'x <- get\(load\(\".*a.bin"),
        (tarred(), "is a tar archive; unpack it in a shell: tar -xf .*a.bin"),
        (gzip.compress(tarred()), "is a tar archive"),
        (pickle.dumps({"a": 1}), "is a Python pickle, which can run any code when it is read; .*pandas.read_pickle"),
        (b"ARROW1\0\0", "is a Feather file"),
    ],
    ids=["rds", "RData", "tar", "tar.gz", "pickle", "feather"],
)
def test_what_is_no_table_is_named_with_the_way_to_convert_it(tmp_path, data, message):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_text(path)


def test_a_name_beside_that_is_similar_is_suggested(tmp_path):
    (tmp_path / "genes.csv").touch()
    assert similar_name(tmp_path / "gene.csv") == f"; did you mean {tmp_path / 'genes.csv'}?"
    assert similar_name(tmp_path / "clinical.tsv") == ""
    assert similar_name(tmp_path / "genes.csv") == ""
    assert similar_name(tmp_path / "nowhere" / "genes.csv") == ""
    with pytest.raises(InputError, match=r"cannot be read: it does not exist; did you mean .*genes\.csv\?"):
        read_text(tmp_path / "gene.csv")


@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize(("odd", "what"), [(b"\xff", "byte [0-9]+ is 0xff"), (b"\x00", "there is a zero byte")])
@pytest.mark.parametrize(("row", "column"), [(1, 1), (1, 3), (3, 2)])
def test_what_is_no_text_is_named_by_row_and_column(sep, odd, what, row, column):
    cells = [[b"abc" for _ in range(3)] for _ in range(4)]
    cells[row - 1][column - 1] = b"a" + odd + b"c"
    data = b"\n".join(sep.encode().join(one) for one in cells)
    with pytest.raises(InputError, match=f"row {row}, column {column}") as refused:
        decode(Path("genes.csv"), data)
    assert re.search(what, str(refused.value))
