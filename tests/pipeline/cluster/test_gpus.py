import os
from types import SimpleNamespace

import pytest
from distributed import LocalCluster

from pipeline.cluster.gpu_cluster import GPUCluster
from pipeline.cluster.gpus import (
    GPU_WORKERS,
    VISIBLE,
    folds_per_gpu,
    select_gpus,
    visible_gpus,
    why_no_cuda,
)
from pipeline.cluster.workers import Workers
from preprocessing.io.errors import InputError
from preprocessing.io.gpu import GPU_SHARING, gpu_sharing


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
        cluster.gpus = workers._gpus()[:5]
    numbers = iter(range(5))
    machine.setattr(LocalCluster, "new_worker_spec", lambda _: {next(numbers): {"options": {}}})
    found = [spec["options"]["env"] for _ in range(5) for spec in cluster.new_worker_spec().values()]
    assert [(one[VISIBLE], one[GPU_SHARING]) for one in found] == [
        ("0", "3"),
        ("1", "2"),
        ("0", "3"),
        ("1", "2"),
        ("0", "3"),
    ]
    assert {one[GPU_WORKERS] for one in found} == {"5"}
    assert gpu_sharing() == 1
    machine.setenv(GPU_SHARING, "3")
    assert gpu_sharing() == 3


@pytest.mark.parametrize(
    ("gib", "host_gib", "cores", "gpus", "processes"),
    [
        ((80,) * 4, 512, 64, 4, 8),
        ((80, 80, 16, 80), 512, 64, 4, 2),
        ((80, 80, 16, 80), 512, 64, 2, 8),  # those that the run does not use do not count
        ((80,) * 4, 512, 12, 4, 3),
        ((80,) * 4, 50, 64, 4, 2),
        ((80,) * 4, 50, 64, 1, 8),
        ((141,), 512, 64, 1, 8),
        ((6,) * 4, 8, 2, 4, 1),
    ],
)
def test_folds_share_a_gpu_as_memory_and_cores_allow(machine, gib, host_gib, cores, gpus, processes):
    machine.setattr("torch.cuda.get_device_properties", lambda number: SimpleNamespace(total_memory=gib[number] << 30))
    machine.setattr("dask.system.CPU_COUNT", cores)
    machine.setattr("distributed.system.MEMORY_LIMIT", host_gib << 30)
    assert folds_per_gpu(gpus) == processes
    with Workers(gpus, "cuda") as workers, workers.for_folds(on_cores=False, per_gpu=None) as for_folds:
        assert (for_folds.device, for_folds.expected_concurrency()) == ("cuda", gpus * processes)
        assert (for_folds is workers) == (processes == 1)


@pytest.mark.parametrize(
    ("device", "count", "on_cores", "chosen", "folds"),
    [
        ("auto", None, False, "cuda", 8),
        ("auto", None, True, "cpu", 6),
        ("auto", 2, True, "cpu", 2),
        ("auto", 2, False, "cuda", 4),
        ("cpu", None, False, "cpu", 6),
    ],
)
def test_folds_train_on_gpus_or_on_as_many_cores_as_were_requested(
    machine, device, count, on_cores, chosen, folds, caplog
):
    machine.setattr("pipeline.cluster.workers.may_have_gpu", lambda: True)
    machine.setattr("dask.system.CPU_COUNT", 6)
    caplog.set_level("INFO")
    with Workers(count, device) as workers, workers.for_folds(on_cores=on_cores, per_gpu=2) as for_folds:
        assert (for_folds.device, for_folds.expected_concurrency()) == (chosen, folds)
        assert (for_folds is workers) == (device == "cpu")
    assert ("genes alone" in caplog.text) == on_cores


@pytest.fixture
def clusters(machine):
    """The GPUs of each cluster that would be started; a client of it does nothing."""
    started = []

    def start(gpus, **options):
        started.append(list(gpus))
        if len(started) == 1 and "2" in gpus:
            raise RuntimeError("Nanny failed to start.")
        return SimpleNamespace(close=lambda timeout: closed.append(gpus))

    closed = []
    client = SimpleNamespace(
        close=lambda: None,
        cluster=SimpleNamespace(close=lambda timeout: closed.append("closed")),
        subscribe_topic=lambda *_: None,
        forward_logging=lambda *_, **__: None,
        scheduler_info=dict,
    )
    machine.setattr("pipeline.cluster.gpu_cluster.GPUCluster", start)
    machine.setattr("dask.distributed.Client", lambda cluster, **_: client)
    return SimpleNamespace(started=started, closed=closed)


def test_no_more_processes_share_the_gpus_than_there_are_folds_and_all_gpus_are_used_first(clusters):
    with Workers(2, "cuda", per_gpu=3) as workers:
        workers.start(3)
        workers.start(9)  # later jobs use the processes that are there
    with Workers(2, "cuda") as workers:
        workers.start(1)  # one on each GPU, for the slides that follow
    assert clusters.started == [["0", "1", "0"], ["0", "1"]]


def test_workers_that_embedded_end_before_others_train_and_stay_where_they_train_themselves(clusters):
    with Workers(2, "cuda") as workers:
        workers.start(1)
        assert workers.for_folds(on_cores=False, per_gpu=1).__enter__() is workers
        assert clusters.closed == []
        with workers.for_folds(on_cores=False, per_gpu=2) as for_folds:
            assert clusters.closed == ["closed"]
            for_folds.start(4)
        workers.start(1)  # again, where slides are embedded after training
    assert clusters.started == [["0", "1"], ["0", "1", "0", "1"], ["0", "1"]]


def test_workers_on_gpus_are_started_twice_before_the_run_ends(clusters, caplog):
    with Workers(3, "cuda") as workers:
        workers.start(1)
    assert clusters.started == [["0", "1", "2"]] * 2
    assert "a worker crashed while starting" in caplog.text


def test_fewer_workers_than_gpus_use_the_first(machine):
    assert Workers(2, "cuda").expected_concurrency() == 2
    assert Workers(1, "cuda").expected_concurrency() == 1


def test_why_there_is_no_cuda_is_known():
    assert why_no_cuda()
