import threading

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline.cluster.arithmetic import settle_arithmetic


@pytest.fixture
def two_threads():
    """Torch and the linear algebra behind numpy with two threads, as where no variable says otherwise."""
    before = torch.get_num_threads()
    with threadpool_limits(2):
        torch.set_num_threads(2)
        yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_on_the_cpu_torch_and_linear_algebra_use_one_thread():
    settle_arithmetic("cpu")
    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}


@pytest.fixture
def rounding():
    """TF32 allowed in convolutions, as by default, and in products, as in some containers."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [one.allow_tf32 for one in backends]
    for one in backends:
        one.allow_tf32 = True
    yield
    for one, allowed in zip(backends, before, strict=True):
        one.allow_tf32 = allowed


@pytest.mark.usefixtures("two_threads", "rounding")
def test_on_a_gpu_convolutions_are_computed_in_float32_and_threads_stay_as_they_are():
    settle_arithmetic("cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads", "rounding")
def test_on_the_cpu_convolutions_of_a_gpu_stay_as_they_are():
    settle_arithmetic("cpu")
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("two_threads")
def test_a_limit_in_another_thread_does_not_count():
    other = threading.Thread(target=settle_arithmetic, args=("cpu",))
    other.start()
    other.join()
    assert torch.get_num_threads() == 2
    settle_arithmetic("cpu")
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_the_limit_holds_though_another_part_of_the_program_raised_it():
    settle_arithmetic("cpu")
    torch.set_num_threads(2)
    settle_arithmetic("cpu")
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_linear_algebra_is_limited_once_in_each_thread_also_where_torch_has_one_thread_already(monkeypatch):
    limits = []
    monkeypatch.setattr("threadpoolctl.threadpool_limits", limits.append)

    def calls():
        torch.set_num_threads(1)
        settle_arithmetic("cpu")
        settle_arithmetic("cpu")

    for _ in range(2):
        other = threading.Thread(target=calls)
        other.start()
        other.join()
    assert limits == [1, 1]
