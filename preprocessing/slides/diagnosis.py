"""Why a file cannot be read as a slide: what it is instead, and what to do."""

from pathlib import Path
from typing import Literal

from preprocessing.io.file_types import file_type
from preprocessing.io.files import why_no_file


def unsafe_reason(path: Path) -> str | None:
    """Return why OpenSlide would wait for ever: a pipe or device, as the slide or among its companion files; else None."""
    if problem := why_no_file(path):
        return f"{path} {problem}"
    companions = {".mrxs": path.with_suffix(""), ".dcm": path.parent, ".vms": path.parent, ".vmu": path.parent}
    folder = companions.get(path.suffix.lower())
    if folder is None or not folder.is_dir():
        return None
    odd = sorted(other for other in folder.iterdir() if not other.is_dir() and why_no_file(other))
    return f"{odd[0]}, which is read along with {path.name}, {why_no_file(odd[0])}" if odd else None


def unsupported_reason(path: Path) -> str:
    """Return what a file that OpenSlide does not recognise is, judged by its first bytes, and the remedy, or ""."""
    try:
        with path.open("rb") as file:
            beginning, length = file.read(512), path.stat().st_size
    except OSError as error:
        return f": it cannot be read: {error}"
    if not beginning:
        return ": it is empty; copy it again"
    if found := file_type(beginning):
        return f": it is {found.name}; download it again, or unpack it"
    if not any(beginning):
        return ": it begins with zeros only, as an interrupted copy does; copy it again"
    if beginning.isascii() and b"\0" not in beginning:
        return ": it is text, perhaps the error message of a failed download; download it again"
    if beginning[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    order: Literal["little", "big"] = "big" if beginning.startswith(b"MM") else "little"
    directory = beginning[4:8] if b"*" in beginning[:4] else beginning[8:16]  # a BigTIFF has it further on
    if int.from_bytes(directory, order) >= length:
        return f": it ends after {length:,} bytes, before its directory; copy it again"
    return ": it begins as a TIFF, but was copied incompletely (then copy it again), or is not tiled"
