"""Arrays of the store's groups: written by Zarr, read without trusting what they declare, since a store may come from anyone.

Zarr's own reader allocates what the metadata declare, and its codecs what a chunk declares. Here an array is read only if it
is laid out as `write_array` does it (rows in chunks, little endian, packed by Zstandard or followed by their CRC-32C), a chunk
is unpacked only into the room that a chunk has, and a large array must be backed by files that are not tiny in comparison.
"""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import google_crc32c
import numcodecs
import numpy as np
import zarr
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Shaped
from zarr.codecs import Crc32cCodec, ZstdCodec

from preprocessing.io.errors import SlideError

CHUNK_BYTES = 4 << 20  # at most, unless a row is longer; before compression
SAMPLE_BYTES = 64 << 10  # of an array, by which its packing is decided
WORTH_PACKING = 0.1  # unpacked, an array takes so much more room, or more, where it is packed
PACKED_LEVEL = 3  # of Zstandard
PACKED, PLAIN = ["bytes", "zstd"], ["bytes", "crc32c"]  # codecs of an array
CRC_BYTES = 4  # behind a chunk that is not packed
MAX_CHUNK_BYTES = 256 << 20  # earlier versions wrote 512 rows, whatever their width
MAX_SHRINK = 100  # of an array beyond that, which can only be features: they shrink by a tenth, not to a hundredth
MAX_METADATA_BYTES = 1 << 20
READS_AT_ONCE = (
    8  # an object store or a disk across a network answers each request late; and unpacking uses several cores
)
DIMENSIONS = {  # names of the axes by name of the array, by which xarray reads it
    "features": ("tile", "feature"),
    "coords": ("tile", "xy"),
    "cells": ("tile", "column_row"),
    "mask": ("y", "x"),
}
DTYPES = ("bool", "int32", "float16", "float32")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
FOREIGN = "it was not written by this program"


class DamagedError(SlideError):
    """What is read from the store is not what was written."""


@dataclass(frozen=True)
class Layout:
    """What an array's metadata declare.

    Attributes:
        shape: (rows, …).
        dtype: one of `DTYPES`.
        chunk_rows: rows of a chunk, which spans all other axes.
        is_packed: whether chunks are Zstandard frames; else they are bytes followed by their checksum.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    is_packed: bool

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.shape[0] / self.chunk_rows)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of every chunk; the last one is padded."""
        return self.chunk_rows, *self.shape[1:]

    @property
    def chunk_bytes(self) -> int:
        """Length of every chunk, unpacked."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Length of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_array(place: str, array: Shaped[np.ndarray, "rows ..."]) -> int:
    """Write an array; each chunk carries a checksum of its content.

    Args:
        place: folder or URL; the last part is the name of the array.
        array: of one of `DTYPES`; one or two axes.

    Returns:
        The number of files.
    """
    row_bytes = max(1, math.prod(array.shape[1:]) * array.itemsize)
    n_chunks = math.ceil(len(array) / max(1, CHUNK_BYTES // row_bytes))
    rows = max(1, math.ceil(len(array) / max(1, n_chunks)))  # all chunks of one length: the last one is hardly padded
    written = zarr.create_array(
        place,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(rows, *array.shape[1:]),
        compressors=ZstdCodec(level=PACKED_LEVEL, checksum=True) if _is_worth_packing(array) else Crc32cCodec(),
        dimension_names=DIMENSIONS.get(place.rsplit("/", 1)[-1]),
        config={"write_empty_chunks": True},
        overwrite=True,
        zarr_format=3,
    )
    written[...] = array
    return written.nchunks + 1


def _is_worth_packing(array: Shaped[np.ndarray, "rows ..."]) -> bool:
    """Whether Zstandard saves enough room, measured on the array's first rows.

    Features of a ReLU are half zeros and shrink to half or less; those of a transformer by less than a tenth, for which
    unpacking takes several times as long as reading the bytes as they are.
    """
    rows = max(1, SAMPLE_BYTES // max(1, array[:1].nbytes))
    sample = np.ascontiguousarray(array[:rows]).tobytes()
    return bool(sample) and len(numcodecs.Zstd(level=PACKED_LEVEL).encode(sample)) * (1 + WORTH_PACKING) < len(sample)


def checksum(array: Shaped[np.ndarray, "*shape"]) -> str:
    """CRC-32C of an array's dtype, shape and bytes, in hexadecimal digits."""
    return f"{google_crc32c.extend(_crc_of_head(array), _bytes_of(np.ascontiguousarray(array))):08x}"


def _crc_of_head(array: Shaped[np.ndarray, "*shape"]) -> int:
    return int(google_crc32c.value(f"{array.dtype} {array.shape}".encode()))


def _bytes_of(array: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, " n"]:
    return array.reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class ArrayFiles:
    """The files of an array.

    Attributes:
        files: the file system.
        folder: of the array.
    """

    files: fsspec.AbstractFileSystem
    folder: str

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError where there is none."""
        return bytes(self.files.cat_file(f"{self.folder}/{name}"))

    def read_into(self, name: str, buffers: list[Shaped[np.ndarray, " n"]]) -> bool:
        """Fill the buffers, of bytes, with the content of a file; whether it has just their length."""
        if isinstance(self.files, LocalFileSystem):
            with open(f"{self.folder}/{name}", "rb") as file:
                return all(file.readinto(buffer.data) == len(buffer) for buffer in buffers) and not file.read(1)
        content = np.frombuffer(self.read(name), np.uint8)
        if len(content) != sum(map(len, buffers)):
            return False
        start = 0
        for buffer in buffers:
            buffer[...] = content[start : start + len(buffer)]
            start += len(buffer)
        return True


def read_array(
    found: ArrayFiles, where: str, *, files: int, size_bytes: int
) -> tuple[Shaped[np.ndarray, "rows ..."], str]:
    """Read an array of a group whose files have been counted.

    Args:
        found: the array's files.
        where: the array, for messages.
        files: how many files the arrays of the group have.
        size_bytes: of these.

    Returns:
        The array as it lies in the files, shape (rows,) or (rows, columns), of one of `DTYPES`; and its `checksum`, which the
        caller compares with the one that it was written with.

    Raises:
        DamagedError: a file is missing or broken, or it is no such array as this program writes.
    """
    try:
        layout = _layout(found.read("zarr.json"))
    except FileNotFoundError:
        raise DamagedError(f"{where} has lost its zarr.json") from None
    except (ValueError, TypeError, LookupError, RecursionError, ArithmeticError) as error:
        raise DamagedError(f"{where} cannot be understood ({error or type(error).__name__}): {FOREIGN}") from None
    if (
        layout.chunk_bytes > MAX_CHUNK_BYTES
        or layout.n_chunks > files
        or layout.size_bytes > max(MAX_CHUNK_BYTES, MAX_SHRINK * size_bytes)
    ):
        raise DamagedError(
            f"{where} declares {layout.dtype} {layout.shape} in chunks of {layout.chunk_rows} rows, and the group has {files} "
            f"files of {size_bytes} bytes: {FOREIGN}"
        )
    array = np.empty(layout.shape, layout.dtype)
    crc, read_chunk = _crc_of_head(array), _read_packed if layout.is_packed else _read_plain
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for rows in pool.map(lambda number: read_chunk(found, where, layout, number, array), range(layout.n_chunks)):
            crc = google_crc32c.extend(crc, _bytes_of(rows))  # while it is in the processor's cache
    return array, f"{crc:08x}"


def _layout(text: bytes) -> Layout:
    """What the metadata of an array declare; any exception where they are not as `write_array` writes them."""
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"{len(text)} bytes of metadata")
    metadata = json.loads(text)
    shape, chunk_shape = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_shape[0], *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    if different := [name for name, value in expected.items() if metadata[name] != value]:
        raise ValueError(f"{different[0]} {metadata[different[0]]}")
    if not all(type(size) is int and size >= 0 for size in shape) or not 1 <= len(shape) <= 2 or chunk_shape[0] < 1:
        raise ValueError(f"shape {shape}, chunks {chunk_shape}")
    if metadata["data_type"] not in DTYPES:
        raise ValueError(f"data type {metadata['data_type']}")
    codecs = [codec["name"] for codec in metadata["codecs"]]
    if (
        codecs not in (PACKED, PLAIN)
        or metadata["codecs"][0].get("configuration", {}).get("endian", "little") != "little"
    ):
        raise ValueError(f"packed by {', '.join(map(str, codecs))}")
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    return Layout(tuple(shape), dtype, int(chunk_shape[0]), is_packed=codecs == PACKED)


@contextmanager
def _chunk(where: str, layout: Layout, number: int) -> Iterator[str]:
    """The name of a chunk's file, which is named where it is lost."""
    name = "/".join(["c", str(number), *["0"] * (len(layout.shape) - 1)])
    try:
        yield name
    except FileNotFoundError:
        raise DamagedError(f"{where} has lost its chunk {name}") from None


def _read_plain(
    found: ArrayFiles, where: str, layout: Layout, number: int, array: Shaped[np.ndarray, "rows ..."]
) -> Shaped[np.ndarray, "chunk ..."]:
    """Read a chunk that is not packed into its rows of the array, which are returned.

    The checksum behind it is for other readers: the array's covers the same bytes, and their order.
    """
    rows = array[number * layout.chunk_rows :][: layout.chunk_rows]
    behind = np.empty(layout.chunk_bytes - rows.nbytes + CRC_BYTES, np.uint8)
    with _chunk(where, layout, number) as name:
        if not found.read_into(name, [_bytes_of(rows), behind]):
            raise DamagedError(f"{where}: chunk {name} is not of {layout.chunk_bytes} bytes and a checksum: {FOREIGN}")
    return rows


def _read_packed(
    found: ArrayFiles, where: str, layout: Layout, number: int, array: Shaped[np.ndarray, "rows ..."]
) -> Shaped[np.ndarray, "chunk ..."]:
    """Unpack a chunk into its rows of the array, which are returned."""
    rows = array[number * layout.chunk_rows :][: layout.chunk_rows]
    with _chunk(where, layout, number) as name:
        packed = found.read(name)
    if (declared := unpacked_bytes(packed)) != layout.chunk_bytes:
        raise DamagedError(
            f"{where}: chunk {name} of {layout.chunk_bytes} bytes would unpack to {declared or 'an unknown number'}: {FOREIGN}"
        )
    whole = rows if len(rows) == layout.chunk_rows else np.empty(layout.chunk_shape, layout.dtype)
    try:
        numcodecs.Zstd().decode(packed, whole)  # also compares the checksum, where the frame has one
    except (ValueError, RuntimeError) as error:
        raise DamagedError(f"{where}: chunk {name} cannot be unpacked ({error})") from None
    if whole is not rows:
        rows[...] = whole[: len(rows)]
    return rows


def unpacked_bytes(frame: bytes) -> int | None:
    """The length to which a Zstandard frame declares that it unpacks (RFC 8878, 3.1.1.1); None: it declares none."""
    if len(frame) < 5 or not frame.startswith(ZSTD_MAGIC):
        return None
    descriptor = frame[4]
    one_segment = bool(descriptor & 0x20)  # then there is no byte for the window
    width = (int(one_segment), 2, 4, 8)[descriptor >> 6]
    start = 5 + (not one_segment) + (0, 1, 2, 4)[descriptor & 3]  # behind the dictionary's number
    if width == 0 or len(frame) < start + width:
        return None
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
