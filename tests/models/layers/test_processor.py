import pytest
import torch

from models.layers import processor
from models.layers.devices import computes_in_bfloat16
from models.layers.processor import cpu_computes_in_bfloat16


@pytest.fixture(autouse=True)
def forget():
    cpu_computes_in_bfloat16.cache_clear()
    yield
    cpu_computes_in_bfloat16.cache_clear()


def test_the_answer_for_this_processor_is_torchs():
    assert cpu_computes_in_bfloat16() == (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse2 avx2 avx512f", False),
        ("fpu avx512f avx512_bf16 amx", True),
        ("fpu amx_bf16 amx_tile amx_int8", True),
        ("fpu avx512_bf16x", False),
    ],
)
def test_it_is_read_from_the_flags_of_the_first_core(monkeypatch, tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n")
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    assert cpu_computes_in_bfloat16() == expected


@pytest.mark.parametrize(("avx512", "amx", "expected"), [(0, 0, False), (1, 0, True), (0, 1, True)])
def test_torch_is_consulted_where_there_are_no_flags(monkeypatch, tmp_path, avx512, amx, expected):
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert cpu_computes_in_bfloat16() is expected


def test_a_processor_that_does_not_multiply_in_bfloat16_is_known_as_such(monkeypatch):
    for known in (True, False):
        monkeypatch.setattr("models.layers.devices.cpu_computes_in_bfloat16", lambda known=known: known)
        assert computes_in_bfloat16("cpu") == known
