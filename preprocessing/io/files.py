"""Files that somebody else wrote: regular ones only, and none is read or unpacked without an end."""

import difflib
import os
import stat
from pathlib import Path

from preprocessing.io import unpacking
from preprocessing.io.errors import InputError
from preprocessing.io.file_types import file_type

_BEGINNING = 512  # bytes, by which the encoding is judged
_MOSTLY_ZERO = 0.9  # share of zeros among the upper bytes of UTF-16 in Latin letters
_SIMILAR = 0.75  # ratio of common letters from which a name may be a typing error
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def user_path(text: str | Path) -> Path:
    """Return a path that the user wrote, with the home folder for `~`, which a shell leaves in `--out=~/run` and in quotes."""
    return Path(os.path.expanduser(text))  # `~name` stays where there is no such user


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


def similar_name(path: Path) -> str:
    """Return `; did you mean NAME?` where a file or folder beside a path that does not exist has a similar name; else ""."""
    try:
        names = [] if path.exists() else [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=_SIMILAR)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def file_above(folder: Path) -> Path | None:
    """The file in whose place the folder would need a folder; None where there is none."""
    return next((above for above in folder.parents if above.is_file()), None)


def why_not_writable(folder: Path) -> str | None:
    """What keeps files from being written into a folder, or it from being made: "cannot be made (Permission denied)"; else None."""
    above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if os.access(above, os.W_OK):
        return None
    why = "Read-only file system" if os.statvfs(above).f_flag & os.ST_RDONLY else "Permission denied"
    return f"cannot be {'written' if above == folder else 'made'} ({why})"


def read_bytes(path: Path) -> bytes:
    """Return the content of a table, unpacked if it is gzip, xz, bzip2 or a zip archive of one file.

    Raises:
        InputError: not a file, unreadable, or larger than any table.
    """
    if problem := why_no_file(path):
        raise InputError(f"{path}: cannot be read: it {problem}{similar_name(path)}")
    try:
        too_large = path.stat().st_size > unpacking.MAX_BYTES
        data = b"" if too_large else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if too_large:
        raise InputError(f"{path}: larger than {unpacking.MAX_BYTES >> 30} GiB; leave out what is not needed")
    return unpacking.unpack(path, data)


def read_text(path: Path, *, as_table: bool = True) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with or without a byte order mark; lines end with a line feed.

    Invisible characters (a byte order mark in the middle, a zero-width blank) are removed.

    Args:
        path: the file.
        as_table: whether text that is no table, such as JSON, is refused with what converts it.

    Raises:
        InputError: what `read_bytes` refuses; not text, with row and column.
    """
    return decode(path, read_bytes(path), as_table=as_table)


def decode(path: Path, data: bytes, *, as_table: bool = True) -> str:
    """Return the text of a file's content; see `read_text`."""
    if as_table and (found := file_type(data[:512])):
        raise InputError(f"{path}: is {found.name}; {found.remedy.replace('FILE', str(path))}")
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        where = _place(data[: error.start].decode("latin-1"))
        name = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        raise InputError(
            f"{path}: is not {name} text ({where}, byte {error.start} is 0x{data[error.start]:02x}); save it as text in UTF-8"
        ) from error
    if (at := text.find("\0")) >= 0:
        raise InputError(f"{path}: is not text: there is a zero byte ({_place(text[:at])}); save it as text in UTF-8")
    for sign, instead in (("\r\n", "\n"), ("\r", "\n"), ("\ufeff", ""), ("\u200b", "")):
        text = text.replace(sign, instead)
    return text


def _encoding(data: bytes) -> str:
    """UTF-16 by its byte order mark, or where every other byte of the beginning is zero and no byte between is; else UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    even, odd = data[:_BEGINNING:2], data[1:_BEGINNING:2]
    for encoding, signs, zeros in (("utf-16-le", even, odd), ("utf-16-be", odd, even)):
        if len(zeros) > 1 and 0 not in signs and zeros.count(0) > _MOSTLY_ZERO * len(zeros):
            return encoding
    return "utf-8-sig"


def _place(before: str) -> str:
    """The row and the column behind a piece of a table."""
    row, line = before.count("\n") + 1, before.rpartition("\n")[2]
    return f"row {row}, column {max(line.count(sep) for sep in ',;' + chr(9)) + 1}"
