import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.io.fingerprints import (
    SAMPLE_BYTES,
    SAMPLES,
    content_fingerprint,
    file_fingerprint,
    fingerprint,
    slide_fingerprint,
    weights_fingerprint,
)
from preprocessing.tables.identity import identity_scheme
from preprocessing.tiling.tiles import TileConfig


class TestFingerprint:
    def test_is_the_same_for_the_same_content(self):
        assert fingerprint({"b": 1, "a": (1, 2)}, "x") == fingerprint({"a": [1, 2], "b": 1}, "x")
        assert len(fingerprint(1)) == 32

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("ab", "c"), ("a", "bc")),
            ((1, 2), (2, 1)),
            (("1",), (1,)),
            ((None,), ("None",)),
            (({"a": 1},), ({"b": 1},)),
            ((0.1,), (0.1 + 1e-15,)),
            ((TileConfig(),), (TileConfig(tile_px=128),)),
            ((Path("a"),), (Path("b"),)),
        ],
    )
    def test_differs_for_different_content(self, one, other):
        assert fingerprint(*one) != fingerprint(*other)

    def test_what_has_no_plain_form_is_refused(self):
        with pytest.raises(TypeError, match="ndarray cannot be part of a fingerprint"):
            fingerprint(np.zeros(3))


class TestSlide:
    @pytest.fixture
    def large(self, tmp_path):
        path = tmp_path / "large.svs"
        path.write_bytes(np.random.default_rng(0).bytes(SAMPLES * SAMPLE_BYTES + 1_000_000))
        return path

    def test_moved_copied_or_touched_it_stays(self, large, tmp_path):
        before = slide_fingerprint(large)
        copy = tmp_path / "elsewhere" / "other-name.svs"
        copy.parent.mkdir()
        shutil.copy(large, copy)
        os.utime(copy, (0, 0))
        assert slide_fingerprint(copy) == before

    @pytest.mark.parametrize("position", [0, 20_000, 1_460_000, -1])
    def test_a_changed_byte_changes_it_where_a_sample_is_taken(self, large, position):
        before = slide_fingerprint(large)
        data = bytearray(large.read_bytes())
        data[position] ^= 1
        large.write_bytes(data)
        changed = slide_fingerprint(large) != before
        assert changed == (position != 20_000)  # which lies between the first two samples

    def test_another_scan_of_the_same_length_changes_it(self, large):
        before = slide_fingerprint(large)
        large.write_bytes(np.random.default_rng(1).bytes(large.stat().st_size))
        assert slide_fingerprint(large) != before

    def test_every_byte_counts_where_all_are_hashed(self, large):
        between = SAMPLE_BYTES + 1
        before = slide_fingerprint(large), slide_fingerprint(large, "full")
        with large.open("r+b") as file:
            file.seek(between)
            byte = file.read(1)
            file.seek(between)
            file.write(bytes([byte[0] ^ 1]))
        assert slide_fingerprint(large) == before[0]
        assert slide_fingerprint(large, "full") not in before

    def test_a_cut_off_or_lengthened_file_changes_it(self, large):
        before = slide_fingerprint(large)
        data = large.read_bytes()
        large.write_bytes(data[:-1])
        shorter = slide_fingerprint(large)
        large.write_bytes(data + b"\0")
        assert len({before, shorter, slide_fingerprint(large)}) == 3

    @pytest.mark.parametrize("length", [10, SAMPLE_BYTES, SAMPLE_BYTES + 7, 30 * SAMPLE_BYTES])
    def test_every_byte_of_a_small_file_counts(self, tmp_path, length):
        path = tmp_path / "small.svs"
        data = bytearray(np.random.default_rng(0).bytes(length))
        path.write_bytes(data)
        before = slide_fingerprint(path)
        for position in {0, length // 3, length // 2, length - 1}:
            data[position] ^= 1
            path.write_bytes(data)
            assert slide_fingerprint(path) != before, position
            data[position] ^= 1

    @pytest.mark.parametrize("hashed", ["sampled", "full"])
    @pytest.mark.parametrize(
        ("name", "companion"),
        [("a.mrxs", "a/Data0001.dat"), ("a.dcm", "b.dcm"), ("A.DCM", "B.DCM"), ("a.vms", "a.opt")],
    )
    def test_what_lies_beside_the_file_counts(self, tmp_path, name, companion, hashed):
        path, other = tmp_path / name, tmp_path / companion
        other.parent.mkdir(exist_ok=True)
        path.write_bytes(b"slide")
        alone = slide_fingerprint(path, hashed)
        other.write_bytes(b"12345")
        with_it = slide_fingerprint(path, hashed)
        other.write_bytes(b"123456")
        longer = slide_fingerprint(path, hashed)
        assert len({alone, with_it, longer}) == 3
        other.write_bytes(b"123457")
        assert (slide_fingerprint(path, hashed) != longer) is (hashed == "full")

    def test_of_two_files_of_zeros_the_longer_one_is_another(self, tmp_path):
        for name, length in (("a", 1_000_000), ("b", 1_000_001)):
            (tmp_path / f"{name}.svs").write_bytes(bytes(length))
        assert slide_fingerprint(tmp_path / "a.svs") != slide_fingerprint(tmp_path / "b.svs")

    def test_neighbours_of_a_single_file_slide_do_not_count(self, tmp_path):
        path = tmp_path / "a.svs"
        path.write_bytes(b"slide")
        before = slide_fingerprint(path)
        (tmp_path / "b.svs").write_bytes(b"another")
        assert slide_fingerprint(path) == before


def test_file_fingerprint_reads_every_byte(tmp_path):
    path = tmp_path / "table.csv"
    data = bytearray(3_000_000)
    path.write_bytes(data)
    before = file_fingerprint(path)
    data[1_500_000] = 1
    path.write_bytes(data)
    assert file_fingerprint(path) != before


STATE = {"a": torch.arange(4.0), "b": torch.tensor(3)}


class TestWeights:
    def test_order_and_device_layout_do_not_count(self):
        transposed = {"w": torch.arange(6.0).view(2, 3).T.contiguous().T}
        assert weights_fingerprint(transposed) == weights_fingerprint({"w": torch.arange(6.0).view(2, 3)})
        assert weights_fingerprint(dict(reversed(STATE.items()))) == weights_fingerprint(STATE)

    @pytest.mark.parametrize(
        "changed",
        [
            {"a": torch.tensor([0.0, 1.0, 2.0, 3.0 + 1e-6]), "b": torch.tensor(3)},
            {"a": torch.arange(4.0).view(2, 2), "b": torch.tensor(3)},
            {"a": torch.arange(4.0), "b": torch.tensor(3, dtype=torch.int32)},
            {"a": torch.arange(4.0), "c": torch.tensor(3)},
            {"a": torch.arange(4.0)},
        ],
    )
    def test_names_shapes_dtypes_and_values_count(self, changed):
        assert weights_fingerprint(changed) != weights_fingerprint(STATE)

    def test_short_floats_are_taken_as_they_are(self):
        state = {"a": torch.arange(4, dtype=torch.bfloat16)}
        assert weights_fingerprint(state) != weights_fingerprint({"a": state["a"].half()})

    def test_the_dtype_counts_where_the_bytes_are_the_same(self):
        zeros = [torch.zeros(2, dtype=dtype) for dtype in (torch.float32, torch.int32, torch.uint32)]
        assert len({weights_fingerprint({"a": one}) for one in zeros}) == len(zeros)


def test_identity_schemes_differ_in_their_patterns_however_long_these_are():
    """What `re` prints of a pattern ends after 200 characters."""
    long = "x" * 300
    schemes = [identity_scheme(), *(identity_scheme(pattern) for pattern in (long + "a", long + "b"))]
    sheets = [identity_scheme().with_samples({"S-1": (case, None)}) for case in ("P1", "P2")]
    assert len({content_fingerprint(one) for one in (*schemes, *sheets)}) == 5
    patterns = [re.compile("a"), re.compile("a", re.IGNORECASE), slice(1, 2), slice(1, 3)]
    assert len({content_fingerprint(one) for one in patterns}) == 4


def test_fingerprints_stay_what_they_are_so_that_what_earlier_versions_finished_is_recognised():
    assert fingerprint("a", {"c": 2, "b": Path("p")}) == hashlib.sha256(b'["a", {"b": "p", "c": 2}]').hexdigest()[:32]
    parts = [b"sequence of 2", b"'a'", b"3"]
    content = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert content_fingerprint(["a", 3]) == content_fingerprint(("a", 3)) == hashlib.sha256(content).hexdigest()
    array = np.array([1, 2], np.int16)
    parts = [b"int16 (2,)", array.tobytes()]
    content = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert content_fingerprint(array) == hashlib.sha256(content).hexdigest()
