"""Bounded decompression of tables: gzip, xz, bzip2, and zip archives of one file."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from preprocessing.io.errors import InputError, count, some

MAX_BYTES = 4 << 30  # of a table, unpacked; genes and methylation of a thousand cases stay below it
# Tables of nothing but zeros shrink to a thousandth, real ones to a tenth: a large file that unpacks so well is no table.
MAX_RATIO, UNSUSPECTED_BYTES = 200, 256 << 20
PART_BYTES = 16 << 20
ZIP = b"PK\x03\x04"
# What office programs pack in a zip archive, by the name of a part.
_OFFICE = {
    "word/": "a Word document (.docx)",
    "ppt/": "a PowerPoint presentation (.pptx)",
    "content.xml": "an OpenDocument file (.ods)",
    "Index/Document.iwa": "a spreadsheet of Numbers",
}
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}


def unpack(path: Path, data: bytes) -> bytes:
    """Return the content of a compressed file; of any other file, and of an Excel workbook, the data as they are.

    Raises:
        InputError: a broken archive, a zip archive of several files, or more content than any table has.
    """
    try:
        for beginning, opener in _OPENERS.items():
            if data.startswith(beginning):
                with opener(io.BytesIO(data)) as file:
                    return _read(path, file, len(data))
        return _unzip(path, data) if data.startswith(ZIP) else data
    except (
        OSError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        RuntimeError,  # a password
        NotImplementedError,  # a compression of zip archives that Python does not read
    ) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _unzip(path: Path, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        if any(name.startswith("xl/") or name.endswith(".npy") for name in names):
            return data
        names = [name for name in names if not name.startswith("__MACOSX/")]
        if office := next(
            (kind for part, kind in _OFFICE.items() if any(name.startswith(part) for name in names)), None
        ):
            raise InputError(f"{path}: is {office}; save the table as .xlsx or CSV")
        if len(names) != 1:
            raise InputError(
                f"{path}: is a zip archive of {count(len(names), 'file')} ({some(names)}); unpack it and give one of them"
            )
        with archive.open(names[0]) as file:
            return _read(path, file, len(data))


def _read(path: Path, file: IO[bytes], n_packed: int) -> bytes:
    parts, size = [], 0
    while part := file.read(PART_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES or (size > UNSUSPECTED_BYTES and size > MAX_RATIO * n_packed):
            raise InputError(
                f"{path}: its {n_packed:,} bytes unpack to more than {size - 1:,}, as no table does; unpack and inspect it yourself"
            )
    return b"".join(parts)
