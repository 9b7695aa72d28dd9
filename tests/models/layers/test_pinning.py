from types import SimpleNamespace

import pytest
import torch

from models.layers import devices
from models.layers.devices import pin_in_place, unpin


class Runtime:
    """Stands in for CUDA's; `code` is the error that pinning ends with."""

    def __init__(self, code):
        self.code, self.calls = code, []

    def cudaHostRegister(self, address, size, flags):  # noqa: N802  # as the CUDA runtime names it
        self.calls.append((address, size, flags))
        return self.code

    def cudaHostUnregister(self, address):  # noqa: N802  # as the CUDA runtime names it
        self.calls.append(address)
        return 0

    def cudaGetErrorString(self, code):  # noqa: N802  # as the CUDA runtime names it
        return f"error {code}"


@pytest.fixture
def use(monkeypatch):
    devices._warn_unpinned.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def used(code):
        runtime = Runtime(code)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
        return runtime

    return used


def test_memory_is_pinned_in_place_and_unpinned(use):
    runtime, x = use(0), torch.zeros(3, 5)
    assert pin_in_place(x)
    unpin(x)
    assert runtime.calls == [(x.data_ptr(), 60, 0), x.data_ptr()]


def test_where_it_cannot_be_pinned_there_is_a_warning_and_cudas_error_is_cleared(use, caplog, monkeypatch):
    kernels = []

    def fails(*_, device):
        kernels.append(device)
        raise RuntimeError("CUDA error: out of memory")

    use(2)
    monkeypatch.setattr(devices, "torch", SimpleNamespace(cuda=torch.cuda, ones=fails))
    assert not pin_in_place(torch.zeros(3))
    assert kernels == ["cuda"]
    assert "no pinned memory (error 2): copies to the GPU go through ordinary memory" in caplog.text


def test_without_a_gpu_nothing_is_pinned(use, monkeypatch):
    runtime = use(0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not pin_in_place(torch.zeros(3))
    assert runtime.calls == []
