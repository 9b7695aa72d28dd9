import pytest

from preprocessing.io.file_types import file_type


@pytest.mark.parametrize(
    ("beginning", "name", "remedy"),
    [
        (b"PK\x03\x04", "a spreadsheet or a zip archive", "save"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            "a spreadsheet in the old format of Excel (.xls)",
            "save it as .xlsx or CSV",
        ),
        (b"\x1f\x8b\x08", "a gzip archive", "save"),
        (b"\xfd7zXZ\x00", "an xz archive", "save"),
        (b"BZh9", "a bzip2 archive", "save"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unzstd FILE"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack"),
        (b"Rar!\x1a", "a rar archive", "unpack"),
        (b"%PDF-1.7", "a PDF", "save"),
        (b"\x89PNG\r\n", "a picture (PNG)", "save"),
        (b"\xff\xd8\xff\xe0", "a picture (JPEG)", "save"),
        (b"PAR1", "a Parquet file", "save"),
        (b"ARROW1", "a Feather file", "pandas.read_feather"),
        (b"FEA1", "a Feather file", "pandas.read_feather"),
        (b"\x89HDF\r\n", "an HDF5 file", "give AnnData as .h5ad"),
        (b"{\\rtf1", "a text with layout (RTF)", "save"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "a pointer of Git LFS instead of the file itself",
            "git lfs pull",
        ),
        (b"RDX3\n", "an R workspace (.RData)", "load("),
        (b"X\n\x00\x00\x00", "an R object (.rds)", "readRDS"),
        (b"\x80\x04\x95", "a Python pickle, which can run any code when it is read", "pandas.read_pickle"),
        (b"\x93NUMPY", "a NumPy array without names", "write a CSV with case ids"),
        (b"MATLAB 5.0 MAT-file", "a MATLAB file", "writetable"),
        (b"%%MatrixMarket matrix", "a sparse matrix without names (Matrix Market)", "scanpy.read_10x_mtx"),
        (b"##fileformat=VCFv4.2", "a VCF file of variants", "1 where the gene is mutated"),
        (b"$FL2", "an SPSS file", "pandas.read_spss"),
        (b"<stata_dta>", "a Stata file", "pandas.read_stata"),
        (b"[CEL]", "raw intensities of an Affymetrix array (CEL)", "process it to one value per gene"),
        (b"IDAT\x03", "raw intensities of an Illumina array (IDAT)", "process it to one value per gene"),
        (b"^DATABASE = Geo", "a SOFT file of a whole GEO series", "fetch the series matrix instead"),
        (b"SQLite format 3\x00", "an SQLite database", "write the table as CSV"),
        (b" \n<!DOCTYPE html>", "a web page or an error message (a download that failed?)", "save"),
        (b"<?xml version='1.0'?><Error>", "a web page or an error message (a download that failed?)", "save"),
        (b"<?xml version='1.0'?><a>", "XML", "fetch the table as TSV or CSV instead"),
        (b'\xef\xbb\xbf{ "a"', "JSON", "fetch the table as TSV or CSV instead"),
        (b"[[1", "JSON", "fetch the table as TSV or CSV instead"),
        (bytes(257) + b"ustar", "a tar archive", "tar -xf FILE"),
    ],
)
def test_a_file_is_named_by_its_beginning_with_what_to_do(beginning, name, remedy):
    found = file_type(beginning)
    assert found is not None
    what, how = found
    assert what == name
    assert remedy in how


@pytest.mark.parametrize("text", [b"", b"case_id,grade\n", b"[note]", b"{x", b"<a>", b"PAR", bytes(256) + b"ustar"])
def test_plain_text_is_of_no_such_type(text):
    assert file_type(text) is None
