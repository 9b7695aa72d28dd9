"""File types by their first bytes, with the way to convert those that are no table."""

import re
from typing import NamedTuple


class FileType(NamedTuple):
    """What a file is, and what to do where a table is wanted."""

    name: str
    remedy: str


_SAVE = "save it as CSV (which may be compressed), or fetch it again"
_OPEN = "unpack it and give the table in it"
_ASSAY = "; of a SummarizedExperiment write assay(x) and colData(x), of an ExpressionSet exprs(x) and pData(x)"
_WORKSPACE = FileType(
    "an R workspace (.RData)",
    """convert it in a shell: Rscript -e 'x <- get(load("FILE")); write.csv(as.data.frame(x), "FILE.csv")'""" + _ASSAY,
)
_OBJECT = FileType(
    "an R object (.rds)",
    """convert it in a shell: Rscript -e 'write.csv(as.data.frame(readRDS("FILE")), "FILE.csv")'""" + _ASSAY,
)
_FEATHER = FileType("a Feather file", 'convert it in Python: pandas.read_feather("FILE").to_csv("FILE.csv")')
_PICKLE = FileType(
    "a Python pickle, which can run any code when it is read",
    'convert it where you trust it: pandas.read_pickle("FILE").to_csv("FILE.csv")',
)
_PROCESSED = "process it to one value per gene or site, or fetch the processed table of the study"
_ARRAY = FileType("raw intensities of an Affymetrix array (CEL)", _PROCESSED)
_VARIANTS = "make a table of it with one row per case and one column per gene: 1 where the gene is mutated, else 0"
_JSON = FileType(
    "JSON", "fetch the table as TSV or CSV instead (the GDC offers both), or convert it with pandas.json_normalize"
)
_XML = FileType(
    "XML", "fetch the table as TSV or CSV instead (of the GDC's clinical XML, the biotab file or clinical.tsv)"
)
_BEGINNINGS = {
    b"PK\x03\x04": FileType("a spreadsheet or a zip archive", _SAVE),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": FileType(
        "a spreadsheet in the old format of Excel (.xls)", "save it as .xlsx or CSV"
    ),
    b"\x1f\x8b": FileType("a gzip archive", _SAVE),
    b"\xfd7zXZ\x00": FileType("an xz archive", _SAVE),
    b"BZh": FileType("a bzip2 archive", _SAVE),
    b"\x28\xb5\x2f\xfd": FileType("a Zstandard archive", "unpack it in a shell: unzstd FILE"),
    b"7z\xbc\xaf\x27\x1c": FileType("a 7z archive", _OPEN),
    b"Rar!": FileType("a rar archive", _OPEN),
    b"%PDF": FileType("a PDF", _SAVE),
    b"\x89PNG": FileType("a picture (PNG)", _SAVE),
    b"\xff\xd8\xff": FileType("a picture (JPEG)", _SAVE),
    b"PAR1": FileType("a Parquet file", _SAVE),
    b"ARROW1": _FEATHER,
    b"FEA1": _FEATHER,
    b"\x89HDF": FileType("an HDF5 file", "give AnnData as .h5ad; write any other table as CSV"),
    b"{\\rtf": FileType("a text with layout (RTF)", _SAVE),
    b"version https://git-lfs": FileType(
        "a pointer of Git LFS instead of the file itself", "fetch the file: git lfs pull"
    ),
    **dict.fromkeys((b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n"), _WORKSPACE),
    **dict.fromkeys((b"X\n\x00\x00\x00", b"A\n2\n", b"A\n3\n"), _OBJECT),
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _PICKLE),
    b"\x93NUMPY": FileType("a NumPy array without names", "write a CSV with case ids and gene names"),
    b"MATLAB 5.0": FileType("a MATLAB file", "write the table as CSV: writetable(T, 'FILE.csv')"),
    b"%%MatrixMarket": FileType(
        "a sparse matrix without names (Matrix Market)",
        "read it with its barcodes and genes (scanpy.read_10x_mtx) and write AnnData or CSV, one row per case",
    ),
    b"##fileformat=VCF": FileType("a VCF file of variants", _VARIANTS),
    b"$FL2": FileType("an SPSS file", 'convert it in Python: pandas.read_spss("FILE").to_csv("FILE.csv")'),
    b"<stata_dta": FileType("a Stata file", 'convert it in Python: pandas.read_stata("FILE").to_csv("FILE.csv")'),
    b"[CEL]": _ARRAY,
    b"@\x00\x00\x00": _ARRAY,
    b"\x3b\x01": _ARRAY,
    b"IDAT": FileType("raw intensities of an Illumina array (IDAT)", _PROCESSED),
    b"^DATABASE": FileType(
        "a SOFT file of a whole GEO series", "fetch the series matrix instead (…_series_matrix.txt.gz)"
    ),
    b"SQLite format 3": FileType("an SQLite database", "write the table as CSV"),
}
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|error)", re.IGNORECASE)
_IS_XML = re.compile(rb"\s*<\?xml", re.IGNORECASE)
_IS_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*(\{\s*\"|\[\s*[\[{])")
_WEB_ERROR = FileType("a web page or an error message (a download that failed?)", _SAVE)
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257


def file_type(beginning: bytes) -> FileType | None:
    """Return the type of a file that is no plain text, by its first 512 bytes; None where nothing is recognised."""
    if _WEB_PAGE.match(beginning):
        return _WEB_ERROR
    if _IS_XML.match(beginning):
        return _WEB_ERROR if b"<Error>" in beginning else _XML
    if _IS_JSON.match(beginning):
        return _JSON
    if beginning[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        return FileType("a tar archive", "unpack it in a shell: tar -xf FILE, and give the table in it")
    return next((what for start, what in _BEGINNINGS.items() if beginning.startswith(start)), None)
