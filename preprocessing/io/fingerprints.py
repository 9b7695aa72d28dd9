"""Fingerprints: what was computed from what, so that nothing stale is ever reused."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

if TYPE_CHECKING:
    from jaxtyping import Shaped
    from torch import Tensor

# What file managers of macOS and Windows, and copies from them, leave in any folder.
OF_FILE_MANAGERS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
SAMPLES = 32
SAMPLE_BYTES = 16 << 10


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a fingerprint")


def fingerprint(*parts: Any) -> str:
    """32 hexadecimal digits of everything in `parts` (configs whole, strings, numbers, lists, dicts)."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def content_fingerprint(value: Any) -> str:
    """64 hexadecimal digits of all that dataclasses, tables, arrays, mappings, sequences, paths and plain values contain."""
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """The content, piece by piece, each container behind its kind and length."""
    import pandas as pd  # not for processes that only open slides

    if isinstance(value, pd.DataFrame | pd.Series):
        yield str(value.dtypes).encode()
        yield value.to_csv().encode()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).view(np.uint8).data
    elif isinstance(value, BaseModel):
        yield value.model_dump_json().encode()
    elif is_dataclass(value):
        yield from _parts({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        yield from _parts([(key, value[key]) for key in sorted(value, key=str)])
    elif isinstance(value, Set):
        yield from _parts(sorted(value, key=str))
    elif isinstance(value, list | tuple):
        yield f"sequence of {len(value)}".encode()
        for one in value:
            yield from _parts(one)
    else:
        yield _as_text(value).encode()


def _as_text(value: Any) -> str:
    """A value without parts."""
    if isinstance(value, re.Pattern):
        return f"{value.pattern} {value.flags}"  # its repr ends after 200 characters
    if isinstance(value, Path):
        return os.path.abspath(value)  # wherever the program was started
    if value is None or isinstance(value, str | int | float | slice):
        return repr(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a fingerprint")


def file_fingerprint(path: Path) -> str:
    """Fingerprint of a table or weight file: of all its bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def folder_digests(folder: Path, *, without: str) -> dict[str, str]:
    """SHA-256 of each file below a folder but those of file managers, in hexadecimal digits, by its path in it.

    Args:
        folder: which one.
        without: name of a file that does not count, wherever it lies.
    """
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name == without or OF_FILE_MANAGERS.fullmatch(path.name):
            continue
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def slide_fingerprint(path: Path, hashed: str = "sampled") -> str:
    """Fingerprint of a slide: of its length and 32 evenly spread samples of 16 KiB, both ends among them; or all its bytes.

    A slide that was moved, copied or touched keeps its fingerprint; a slide that was scanned again or cut off does not. One
    of which bytes between the samples were changed in place does only where all are hashed. Of what lies beside the file (the
    data folder of a `.mrxs`, the other files of a DICOM series) name and length count, or name and all bytes.

    Args:
        path: the file.
        hashed: "sampled" or "full".
    """
    if hashed == "full":
        return fingerprint(file_fingerprint(path), [(one.name, file_fingerprint(one)) for one in _companions(path)])
    digest = hashlib.sha256()
    length = path.stat().st_size
    digest.update(str(length).encode())
    with path.open("rb") as file:
        last = max(0, length - SAMPLE_BYTES)
        for i in range(SAMPLES):
            file.seek(last * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
            if last == 0:
                break
    for companion in _companions(path):
        digest.update(f"{companion.name}:{companion.stat().st_size}".encode())
    return digest.hexdigest()[:32]


def _companions(path: Path) -> list[Path]:
    if path.suffix.lower() == ".dcm":
        return sorted(p for p in path.parent.iterdir() if p.suffix.lower() == ".dcm" and p != path)
    if path.suffix.lower() in {".mrxs", ".vms", ".vmu"}:
        folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path.parent
        return sorted(p for p in folder.glob("*") if p.is_file() and p != path)
    return []


def weights_fingerprint(state: Mapping[str, "Shaped[Tensor, '...']"]) -> str:
    """Fingerprint of a model's weights: of names, dtypes, shapes and every byte."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
