import re

import pytest
import torch

from preprocessing.io.errors import RunError
from preprocessing.io.gpu import gpu_failures, is_memory_full

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    torch.AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be …"
    ),  # no room for the process itself
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
]
FAILED = [
    torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy or unavailable"),  # in exclusive mode
    torch.AcceleratorError("CUDA error: device-side assert triggered\nmore"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system."),
]
OTHERS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: out of memory"),
    RuntimeError(),
    ValueError("CUDA error"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_gpu_that_is_full_ends_the_run_with_what_to_do(error):
    assert is_memory_full(error)
    expected = (
        r"^fold 3: the GPU's memory is full \(.+\): end what else runs there, or choose another with --gpus; the same "
    )
    with pytest.raises(RunError, match=expected) as found, gpu_failures("fold 3"):
        raise error
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FULL[0],
            r"end what else runs there, or choose another with --gpus; --set folds_per_gpu=1 gives each fold a whole",
        ),
        (
            RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
            r"^fold 3: the GPU admits one process at a time \(CUDA error: .*\); --set folds_per_gpu=1 gives each fold a whole ",
        ),
    ],
)
def test_where_folds_share_a_gpu_one_may_have_it_alone(error, message, monkeypatch):
    monkeypatch.setenv("UMEML_PIPELINE_GPU_SHARING", "4")
    with pytest.raises(RunError, match=message), gpu_failures("fold 3"):
        raise error


@pytest.mark.parametrize("error", FAILED)
def test_a_gpu_that_fails_ends_the_run_with_what_to_do(error):
    assert not is_memory_full(error)
    expected = (
        r"^fold 3: the GPU failed \(.*(CUDA|cuDNN|NVIDIA).*\): see nvidia-smi and the system's log; the same command continues "
        r"from what is finished, if need be on another GPU \(--gpus\); to compute on the CPU: --device cpu, and another --out$"
    )
    with pytest.raises(RunError, match=expected), gpu_failures("fold 3"):
        raise error


def test_an_error_that_names_its_remedy_stays_what_it_is():
    """A case that does not fit, and what a stage makes of a failure in one of its jobs."""
    for message in (
        "case a does not fit (CUDA out of memory); set train.max_patches=5",
        "fold 3: the GPU failed (CUDA error)",
    ):
        with pytest.raises(RunError, match=f"^{re.escape(message)}$"), gpu_failures("training"):
            raise RunError(message)


@pytest.mark.parametrize("error", OTHERS)
def test_any_other_error_stays_what_it_is(error):
    with pytest.raises(type(error)) as found, gpu_failures("fold 3"):
        raise error
    assert found.value is error


def test_what_the_memory_holds_is_reported(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 30, 80 << 30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 3 << 20)
    with pytest.raises(RunError, match=r"\(1,024 of 81,920 MiB free; this process holds 3\)"), gpu_failures("fold 3"):
        raise FULL[0]
