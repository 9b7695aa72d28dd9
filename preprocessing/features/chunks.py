"""The arrays of a group of the store, read without believing what they say of themselves: the store may be a stranger's.

Memory is set aside for what is there. A chunk is a file, and none is a giant; it unpacks to the length of a chunk, or is not
unpacked; and an array that is large is not mostly air.
"""

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BytesCodec, ZstdCodec

from preprocessing.io.errors import SlideError

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

MAX_CHUNK_BYTES = 256 << 20  # twice what is ever written
MAX_SHRINK = 100  # of an array beyond that, which can only be features: they shrink by a tenth, not to a hundredth
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
OURS = "it was not written by this program; remove the group, and it is made anew"


def read_array(group: zarr.Group, name: str, *, files: int, size_bytes: int) -> np.ndarray:
    """An array of a group whose files have been counted.

    Args:
        group: a group of the store.
        name: of the array.
        files: how many the arrays of the group have.
        size_bytes: of these.

    Raises:
        SlideError: it is no such array as this program writes.
    """
    where = f"store: {group.store_path}/{name}"
    try:
        array = group[name]
    except (ValueError, TypeError, LookupError, RecursionError) as error:  # of zarr, from what the description says
        raise SlideError(f"{where} cannot be understood ({error}): {OURS}") from None
    if not isinstance(array, zarr.Array):
        raise SlideError(f"{where} is not an array: {OURS}")
    _require_sound(array, where, files=files, size_bytes=size_bytes)
    metadata: Any = array.metadata
    checked = replace(metadata, codecs=(metadata.codecs[0], CheckedZstd()))
    return np.asarray(zarr.Array(zarr.AsyncArray(checked, array.async_array.store_path))[...])


def _require_sound(array: zarr.Array, where: str, *, files: int, size_bytes: int) -> None:
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    total_bytes = math.prod(array.shape) * array.dtype.itemsize
    if (
        array.dtype.kind not in "fib"
        or chunk_bytes > MAX_CHUNK_BYTES
        or array.nchunks > files
        or total_bytes > max(MAX_CHUNK_BYTES, MAX_SHRINK * size_bytes)
    ):
        raise SlideError(
            f"{where} says that it has {array.dtype} {array.shape} in chunks of {array.chunks}, and the group has {files} files "
            f"of {size_bytes} bytes: {OURS}"
        )
    metadata: Any = array.metadata
    codecs = [type(codec) for codec in metadata.codecs]
    if codecs != [BytesCodec, ZstdCodec]:
        raise SlideError(f"{where} is packed by {', '.join(codec.__name__ for codec in codecs)}: {OURS}")


class CheckedZstd(ZstdCodec):
    """Zstd that unpacks a chunk only if that will give what a chunk has, into room for no more."""

    async def _decode_single(self, chunk_bytes: "Buffer", chunk_spec: "ArraySpec") -> "Buffer":
        expected = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
        packed = chunk_bytes.as_numpy_array()
        told = unpacked_bytes(packed[:18].tobytes())
        if told != expected:
            raise SlideError(
                f"store: a chunk of {expected} bytes would unpack to {told or 'nobody knows how many'}: {OURS}"
            )
        room = np.empty(expected, np.uint8)  # more frames may follow, which the head does not tell
        try:
            await asyncio.to_thread(numcodecs.Zstd().decode, packed, room)
        except (ValueError, RuntimeError) as error:
            raise SlideError(f"store: a chunk of {expected} bytes cannot be unpacked ({error}): {OURS}") from None
        return chunk_spec.prototype.buffer.from_array_like(room)


def unpacked_bytes(head: bytes) -> int | None:
    """The length that the head of a Zstandard frame tells, which its decoder sets aside (RFC 8878, 3.1.1.1); None: none."""
    if len(head) < 5 or not head.startswith(ZSTD_MAGIC):
        return None
    descriptor = head[4]
    one_segment = bool(descriptor & 0x20)  # then there is no byte that tells the window
    width = (int(one_segment), 2, 4, 8)[descriptor >> 6]
    start = 5 + (not one_segment) + (0, 1, 2, 4)[descriptor & 3]  # behind the dictionary's number
    if width == 0 or len(head) < start + width:
        return None
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)
