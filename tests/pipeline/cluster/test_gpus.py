import os

import pytest
from distributed import LocalCluster

from pipeline.cluster.gpu_cluster import GPUCluster
from pipeline.cluster.gpus import GPU_WORKERS, VISIBLE, select_gpus, visible_gpus, why_no_cuda
from pipeline.cluster.workers import Workers
from preprocessing.io.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """A machine with four GPUs."""

    def count() -> int:
        visible = os.environ.get(VISIBLE)
        return 4 if visible is None else sum(not name.isdigit() or int(name) < 4 for name in visible.split(","))

    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setattr("torch.cuda.device_count", count)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    return monkeypatch


def test_all_gpus_are_used_unless_some_are_selected(machine):
    select_gpus(None, device="auto")
    assert VISIBLE not in os.environ
    assert visible_gpus() == ["0", "1", "2", "3"]
    select_gpus((2, 0), device="cuda")
    assert visible_gpus() == ["2", "0"]


def test_numbers_count_among_those_that_are_visible(machine):
    machine.setenv(VISIBLE, "GPU-a1,GPU-b2")
    select_gpus((1,), device="auto")
    assert visible_gpus() == ["GPU-b2"]


def test_gpus_that_there_are_not_are_refused(machine):
    with pytest.raises(InputError, match=r"--gpus 0,7: CUDA finds 1 of them; see nvidia-smi"):
        select_gpus((0, 7), device="auto")
    machine.setenv(VISIBLE, "3")
    with pytest.raises(InputError, match=r"--gpus 1: CUDA_VISIBLE_DEVICES=3 leaves 1, numbered from 0"):
        select_gpus((1,), device="auto")
    with pytest.raises(InputError, match="--gpus 0 and --device cpu: give one of them"):
        select_gpus((0,), device="cpu")


@pytest.mark.slow
def test_each_gpu_has_a_process_that_sees_no_other(machine):
    select_gpus((0, 2, 3), device="cuda")
    with Workers(None, "cuda") as workers:
        assert workers.expected_concurrency() == 3
        found = workers.client.run(lambda: (os.environ[VISIBLE], os.environ[GPU_WORKERS]))
        assert sorted(found.values()) == [("0", "3"), ("2", "3"), ("3", "3")]
        assert isinstance(workers.client.cluster, GPUCluster)


def test_each_worker_has_the_next_gpu_in_its_environment(monkeypatch):
    numbers = iter(range(3))
    plain = lambda _: {next(numbers): {"options": {"nthreads": 1}}}  # noqa: E731  # stands for a method
    monkeypatch.setattr(LocalCluster, "new_worker_spec", plain)
    cluster = object.__new__(GPUCluster)
    cluster.gpus = ["0", "GPU-b2", "5"]
    options = [spec["options"] for _ in range(3) for spec in cluster.new_worker_spec().values()]
    assert [one["env"][VISIBLE] for one in options] == ["0", "GPU-b2", "5"]
    assert all(one["env"][GPU_WORKERS] == "3" and one["nthreads"] == 1 for one in options)


def test_fewer_workers_than_gpus_use_the_first(machine):
    assert Workers(2, "cuda").expected_concurrency() == 2


def test_why_there_is_no_cuda_is_known():
    assert why_no_cuda()
