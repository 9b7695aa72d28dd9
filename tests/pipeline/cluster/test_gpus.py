import os
from types import SimpleNamespace

import pytest
from distributed import LocalCluster

from pipeline.cluster.gpu_cluster import GPUCluster
from pipeline.cluster.gpus import (
    GPU_SHARING,
    GPU_WORKERS,
    VISIBLE,
    folds_per_gpu,
    free_gpu_memory,
    gpu_sharing,
    select_gpus,
    visible_gpus,
    why_no_cuda,
)
from pipeline.cluster.workers import Workers
from preprocessing.encoders.config import EncoderConfig
from preprocessing.encoders.encoder import load_encoder
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


def test_processes_that_share_a_gpu_know_how_many_they_are(machine):
    with Workers(2, "cuda", per_gpu=3) as workers:
        assert workers.expected_concurrency() == 6
        cluster = object.__new__(GPUCluster)
        cluster.gpus = workers._gpus()
    numbers = iter(range(6))
    machine.setattr(LocalCluster, "new_worker_spec", lambda _: {next(numbers): {"options": {}}})
    found = [spec["options"]["env"] for _ in range(6) for spec in cluster.new_worker_spec().values()]
    assert [one[VISIBLE] for one in found] == ["0", "1"] * 3  # the first processes are spread over the GPUs
    assert {(one[GPU_SHARING], one[GPU_WORKERS]) for one in found} == {("3", "6")}
    assert gpu_sharing() == 1
    machine.setenv(GPU_SHARING, "3")
    assert gpu_sharing() == 3


@pytest.mark.parametrize(
    ("gib", "cores", "processes"), [((80,) * 4, 64, 4), ((80, 80, 16, 80), 64, 2), ((80,) * 4, 12, 3), ((6,) * 4, 2, 1)]
)
def test_folds_share_a_gpu_as_memory_and_cores_allow(machine, gib, cores, processes):
    machine.setattr("torch.cuda.get_device_properties", lambda number: SimpleNamespace(total_memory=gib[number] << 30))
    machine.setattr("dask.system.CPU_COUNT", cores)
    assert folds_per_gpu() == processes
    with Workers(None, "cuda").for_folds(read_slides=True, per_gpu=None) as workers:
        assert (workers.device, workers.expected_concurrency()) == ("cuda", 4 * processes)


@pytest.mark.parametrize(
    ("device", "read_slides", "chosen", "folds"),
    [("auto", True, "cuda", 8), ("auto", False, "cpu", 6), ("cuda", False, "cuda", 8), ("cpu", True, "cpu", 6)],
)
def test_genes_alone_train_on_the_cores_unless_the_gpu_was_requested(
    machine, device, read_slides, chosen, folds, caplog
):
    machine.setattr("pipeline.cluster.workers.may_have_gpu", lambda: True)
    machine.setattr("dask.system.CPU_COUNT", 6)
    caplog.set_level("INFO")
    with Workers(None, device) as workers, workers.for_folds(read_slides=read_slides, per_gpu=2) as for_folds:
        assert (for_folds.device, for_folds.expected_concurrency()) == (chosen, folds)
        assert (for_folds is workers) == (device == "cpu")
    assert ("genes alone" in caplog.text) == (device == "auto" and not read_slides)


def test_workers_that_embedded_give_their_memory_back_before_others_train(machine):
    called = []
    with Workers(None, "cuda") as workers:
        workers.for_folds(read_slides=True, per_gpu=2)  # none has started
        machine.setitem(workers.__dict__, "client", SimpleNamespace(run=called.append))
        workers.for_folds(read_slides=True, per_gpu=2)
        del workers.__dict__["client"]
    assert called == [free_gpu_memory]


def test_memory_that_is_given_back_is_that_of_the_encoder():
    load_encoder(EncoderConfig())
    assert load_encoder.cache_info().currsize
    free_gpu_memory()
    assert not load_encoder.cache_info().currsize


def test_fewer_workers_than_gpus_use_the_first(machine):
    assert Workers(2, "cuda").expected_concurrency() == 2


def test_why_there_is_no_cuda_is_known():
    assert why_no_cuda()
