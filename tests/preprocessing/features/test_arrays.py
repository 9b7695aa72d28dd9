import json

import fsspec
import numcodecs
import numpy as np
import pytest
import zarr

from preprocessing.features.arrays import PACKED_LEVEL, ArrayFiles, DamagedError, checksum, read_array, write_array

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
    """The array in a folder, and its checksum."""
    return read_array(ArrayFiles(fsspec.filesystem("file"), str(place)), "the array", files=files, size_bytes=size)


def codecs(place):
    return [codec["name"] for codec in json.loads((place / "zarr.json").read_text())["codecs"]]


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_it_was_written_and_takes_little_more_room_than_packed(tmp_path, name):
    array = ARRAYS[name]
    files, size = written(tmp_path / "features", array)
    found, crc = read(tmp_path / "features", files, size)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, crc) == (array.dtype, checksum(array))
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "features"))[...], array)  # as any reader sees it
    packed = sum(len(numcodecs.Zstd(PACKED_LEVEL).encode(part.tobytes())) for part in np.array_split(array, 2))
    assert size < 1.1 * packed + 2_000  # metadata


def test_what_shrinks_little_is_not_packed_and_what_shrinks_is(tmp_path):
    _, dense = written(tmp_path / "dense", DENSE)
    _, sparse = written(tmp_path / "sparse", ARRAYS["half of it zeros"])
    assert codecs(tmp_path / "dense") == ["bytes", "crc32c"]
    assert DENSE.nbytes <= dense < DENSE.nbytes + 5_000  # metadata
    assert codecs(tmp_path / "sparse") == ["bytes", "zstd"]
    assert sparse < 0.55 * DENSE.nbytes


def test_an_array_at_a_url_is_read_as_it_was_written():
    files = write_array("memory://quick/features", DENSE)
    found = ArrayFiles(fsspec.filesystem("memory"), "/quick/features")
    array, crc = read_array(found, "the array", files=files, size_bytes=DENSE.nbytes)
    np.testing.assert_array_equal(array, DENSE)
    assert crc == checksum(DENSE)


def test_a_flipped_bit_in_a_packed_chunk_is_noticed(tmp_path):
    files, size = written(tmp_path / "features", ARRAYS["half of it zeros"])
    flip_bit(tmp_path / "features" / "c" / "0" / "0")
    with pytest.raises(DamagedError, match="chunk c/0/0 cannot be unpacked"):
        read(tmp_path / "features", files, size)


def test_a_flipped_bit_in_bytes_that_are_not_packed_changes_the_checksum_and_other_readers_notice_it(tmp_path):
    files, size = written(tmp_path / "features", DENSE)
    flip_bit(tmp_path / "features" / "c" / "0" / "0")
    assert read(tmp_path / "features", files, size)[1] != checksum(DENSE)
    with pytest.raises(ValueError, match="checksum do not match"):
        zarr.open_array(str(tmp_path / "features"))[...]


def test_chunks_in_another_order_change_the_checksum(tmp_path):
    files, size = written(tmp_path / "features", DENSE)
    one, other = (tmp_path / "features" / "c" / str(number) / "0" for number in (0, 1))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    assert read(tmp_path / "features", files, size)[1] != checksum(DENSE)


@pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: content + b"x", lambda content: b""])
def test_a_chunk_of_another_length_is_refused(tmp_path, harm):
    files, size = written(tmp_path / "features", DENSE)
    chunk = tmp_path / "features" / "c" / "0" / "0"
    chunk.write_bytes(harm(chunk.read_bytes()))
    with pytest.raises(DamagedError, match="chunk c/0/0 is not of 3072000 bytes and a checksum"):
        read(tmp_path / "features", files, size)


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_arrays_of_earlier_versions_are_read(tmp_path):
    """All were packed at level 3."""
    codec = zarr.codecs.ZstdCodec(level=3, checksum=True)
    array = zarr.create_array(
        str(tmp_path / "old"), shape=DENSE.shape, dtype=DENSE.dtype, chunks=(512, DIM), compressors=codec
    )
    array[...] = DENSE
    np.testing.assert_array_equal(read(tmp_path / "old", array.nchunks + 1, DENSE.nbytes)[0], DENSE)
    assert codecs(tmp_path / "old") == ["bytes", "zstd"]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("features", ("tile", "feature")),
        ("coords", ("tile", "xy")),
        ("cells", ("tile", "column_row")),
        ("mask", ("y", "x")),
    ],
)
def test_the_axes_of_an_array_are_named_in_their_order(tmp_path, name, axes):
    write_array(str(tmp_path / name), np.zeros((3, 2), np.float32))
    assert zarr.open_array(str(tmp_path / name)).metadata.dimension_names == axes
