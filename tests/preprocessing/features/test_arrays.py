import json

import numcodecs
import numpy as np
import pytest
import zarr

from preprocessing.features.arrays import PACKED_LEVEL, DamagedError, read_array, write_array

ROWS, DIM = 3_000, 1_024
rng = np.random.default_rng(0)
DENSE = rng.standard_normal((ROWS, DIM), np.float32).astype(np.float16)
ARRAYS = {
    "dense": DENSE,
    "half of it zeros": np.where(rng.random((ROWS, DIM)) < 0.6, np.float16(0), DENSE),
    "few rows": DENSE[:3],
    "no rows": DENSE[:0],
    "cells": np.column_stack([np.arange(ROWS) % 60, np.arange(ROWS) // 60]).astype(np.int32),
    "mask": rng.random((50, 70)) < 0.5,
}


def written(place, array):
    files = write_array(str(place), array)
    return files, sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def read(place, files, size):
    return read_array(lambda name: (place / name).read_bytes(), "the array", files=files, size_bytes=size)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_it_was_written_and_takes_little_more_room_than_packed(tmp_path, name):
    array = ARRAYS[name]
    files, size = written(tmp_path / "features", array)
    found = read(tmp_path / "features", files, size)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    packed = sum(len(numcodecs.Zstd(PACKED_LEVEL).encode(part.tobytes())) for part in np.array_split(array, 2))
    assert size < 1.1 * packed + 2_000  # metadata


def test_what_shrinks_little_is_not_packed_and_what_shrinks_is(tmp_path):
    _, dense = written(tmp_path / "dense", DENSE)
    _, sparse = written(tmp_path / "sparse", ARRAYS["half of it zeros"])
    assert DENSE.nbytes <= dense < 1.07 * DENSE.nbytes  # its last chunk is filled up with zeros, which are packed
    assert sparse < 0.55 * DENSE.nbytes


def test_a_flipped_bit_in_bytes_that_are_not_packed_is_noticed(tmp_path):
    files, size = written(tmp_path / "features", DENSE)
    chunk = tmp_path / "features" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DamagedError, match="chunk c/0/0 cannot be unpacked"):
        read(tmp_path / "features", files, size)


def test_arrays_of_earlier_versions_are_read(tmp_path):
    """All were packed at level 3."""
    codec = zarr.codecs.ZstdCodec(level=3, checksum=True)
    array = zarr.create_array(
        str(tmp_path / "old"), shape=DENSE.shape, dtype=DENSE.dtype, chunks=(512, DIM), compressors=codec
    )
    array[...] = DENSE
    np.testing.assert_array_equal(read(tmp_path / "old", array.nchunks + 1, DENSE.nbytes), DENSE)
    assert [one["name"] for one in json.loads((tmp_path / "old" / "zarr.json").read_text())["codecs"]] == [
        "bytes",
        "zstd",
    ]
