"""Files that somebody else wrote: regular ones only, and none is read or unpacked without an end."""

import gzip
import io
import re
import stat
import zlib
from pathlib import Path

from preprocessing.io.errors import InputError

MAX_BYTES = 4 << 30  # of a table, unpacked; the genes and methylation of a thousand cases stay below it
# Tables of nothing but zeros shrink to a thousandth, those of cases to a tenth: what is large and unpacks so well is no table.
MAX_RATIO, UNSUSPECTED_BYTES = 200, 256 << 20
PART_BYTES = 16 << 20
BEGINNINGS = {
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a spreadsheet in the old format of Excel",
    b"\x1f\x8b": "a gzip archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"PAR1": "a Parquet file",
    b"\x89HDF": "an HDF5 file",
    b"{\\rtf": "a text with layout (RTF)",
    b"version https://git-lfs": "a pointer of Git LFS in the place of the file itself",
}
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|error)", re.IGNORECASE)
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def why_no_file(path: Path) -> str | None:
    """What keeps the path from being read as a file ("does not exist", "is a pipe, not a file"); None where nothing does.

    A link counts as what it leads to. Nothing is opened: a pipe would wait for its writer, a device has no end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be entered, a zero byte
        return f"cannot be reached: {error}"
    if stat.S_ISREG(mode):
        return None
    return f"is {next((what for fits, what in KINDS if fits(mode)), 'a device')}, not a file"


def what_it_is(beginning: bytes) -> str | None:
    """What the file is by its first bytes, where they tell: an archive, a spreadsheet, a web page; None where they do not."""
    if WEB_PAGE.match(beginning):
        return "a web page or an error message (a download that failed?)"
    return next((what for start, what in BEGINNINGS.items() if beginning.startswith(start)), None)


def file_above(folder: Path) -> Path | None:
    """The file in whose place the folder would need a folder; None where there is none."""
    return next((above for above in folder.parents if above.is_file()), None)


def read_bytes(path: Path) -> bytes:
    """All bytes of a file of text, unpacked where it is gzipped.

    Raises:
        InputError: not a file, unreadable, or larger than any table.
    """
    if problem := why_no_file(path):
        raise InputError(f"{path}: cannot be read: it {problem}")
    try:
        too_large = path.stat().st_size > MAX_BYTES
        data = b"" if too_large else path.read_bytes()
        data = _unpack(path, data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if too_large:
        raise InputError(f"{path}: holds more than {MAX_BYTES >> 30} GiB; leave out what is not needed")
    return data


def _unpack(path: Path, data: bytes) -> bytes:
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while part := file.read(PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES or (size > UNSUSPECTED_BYTES and size > MAX_RATIO * len(data)):
                raise InputError(
                    f"{path}: its {len(data):,} bytes unpack to more than {size - 1:,}: no table does; "
                    "unpack it yourself, and look at it"
                )
    return b"".join(parts)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark; the lines end with a line feed.

    Signs that nobody sees, a byte order mark in the middle or a blank without a width, are left out.

    Raises:
        InputError: what `read_bytes` refuses; not text, with row and column.
    """
    data = read_bytes(path)
    if what := what_it_is(data[:512]):
        raise InputError(f"{path}: is {what}; save it as CSV (which may be gzipped), or fetch it again")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        where = _place(data[: error.start].decode("latin-1"))
        told = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        raise InputError(
            f"{path}: is not {told} text ({where}, byte {error.start} is 0x{data[error.start]:02x}); save it as text in UTF-8"
        ) from error
    if (at := text.find("\0")) >= 0:
        raise InputError(f"{path}: is not text: there is a zero byte ({_place(text[:at])}); save it as text in UTF-8")
    for sign, instead in (("\r\n", "\n"), ("\r", "\n"), ("\ufeff", ""), ("\u200b", "")):
        text = text.replace(sign, instead)
    return text


def _place(before: str) -> str:
    """The row and the column behind a piece of a table."""
    row, line = before.count("\n") + 1, before.rpartition("\n")[2]
    return f"row {row}, column {max(line.count(sep) for sep in ',;' + chr(9)) + 1}"
