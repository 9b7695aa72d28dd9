import logging
import os
import re
import signal
import sys
import warnings
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from distributed import LocalCluster, get_worker

from pipeline.cluster.workers import Workers, choose_device, translate_dask_errors
from preprocessing.io.errors import InputError, RunError


def test_dasks_dashboard_is_reported(caplog):
    caplog.set_level(logging.INFO, "pipeline.cluster.workers")
    with Workers(0, "cpu") as workers:
        assert workers.client
        (message,) = (record.getMessage() for record in caplog.records if record.name == "pipeline.cluster.workers")
        link = re.fullmatch(r"Dask dashboard: (http://127\.0\.0\.1:\d+/status)", message)[1]
        with urlopen(link) as page:
            assert b"Dask" in page.read()


@pytest.mark.parametrize("name", ["distributed", "distributed.client"])
def test_dask_does_not_write_to_the_terminal_by_itself(monkeypatch, name):
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])  # as it does, save in a test
    monkeypatch.setattr(logger, "propagate", False)
    with Workers(0, "cpu") as workers:
        assert workers.client
        assert logger.handlers == []
        assert logger.propagate  # into the run's log


class TestDevice:
    @pytest.fixture(autouse=True)
    def device_files(self, monkeypatch, tmp_path):
        (tmp_path / "nvidia0").touch()
        monkeypatch.setattr("pipeline.cluster.gpus.DEVICES", tmp_path)
        return tmp_path

    def test_without_a_driver_torch_is_not_imported_to_find_that_out(self, monkeypatch, device_files):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        assert choose_device("auto") == "cuda"
        (device_files / "nvidia0").unlink()
        monkeypatch.setitem(sys.modules, "torch", None)
        assert choose_device("auto") == "cpu"
        with pytest.raises(ModuleNotFoundError):
            choose_device("cuda")

    @pytest.mark.parametrize(
        ("wanted", "there", "chosen"),
        [("cpu", True, "cpu"), ("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda")],
    )
    def test_follows_the_wish_and_the_machine(self, monkeypatch, wanted, there, chosen):
        monkeypatch.setattr("torch.cuda.is_available", lambda: there)
        assert choose_device(wanted) == chosen

    def test_asked_for_and_absent_is_refused(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        reason = "The NVIDIA driver on your system is too old (found version 11040)"

        def init():
            raise RuntimeError(f"{reason}. Please update your GPU driver by …")

        monkeypatch.setattr("torch.cuda.init", init)
        expected = f"--device cuda: torch sees no CUDA device here ({reason}); use --device cpu or auto"
        with pytest.raises(InputError, match=re.escape(expected)):
            choose_device("cuda")

    def test_a_driver_that_is_too_old_is_warned_of_where_the_cpu_takes_over(self, monkeypatch, caplog):
        def available():
            warnings.warn("CUDA initialization: The NVIDIA driver is too old", stacklevel=1)
            return False

        monkeypatch.setattr("torch.cuda.is_available", available)
        assert choose_device("auto") == "cpu"
        assert "no GPU is used: CUDA initialization: The NVIDIA driver is too old" in caplog.text


@pytest.fixture(scope="module")
def two():
    """Two worker processes."""
    with Workers(2, "cpu") as workers:
        yield workers


def test_worker_processes_leave_ctrl_c_to_the_main_one(two):
    assert two.client.submit(signal.getsignal, signal.SIGINT, pure=False).result() == signal.SIG_IGN
    assert "workflows.worker_server" not in sys.modules  # here, it still ends the run


def test_worker_processes_keep_no_record_that_grows_while_they_work(two):
    kept = two.client.run(lambda dask_worker: sorted(dask_worker.periodic_callbacks))
    assert len(kept) == 2
    assert all("heartbeat" in one and "profile" not in one for one in kept.values())


def test_a_worker_is_never_paused_for_its_memory():
    """It keeps what it freed, so it would stay so for ever."""
    with Workers(1, "cpu") as workers:
        fraction = workers.client.submit(lambda: get_worker().memory_manager.memory_pause_fraction, pure=False).result()
    assert fraction is False


def test_a_second_ctrl_c_does_not_interrupt_the_end_of_the_workers(monkeypatch):
    ended = []
    cluster = SimpleNamespace(close=lambda timeout: ended.append(signal.raise_signal(signal.SIGINT)))
    client = SimpleNamespace(cluster=cluster, close=lambda: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    workers = Workers(1, "cpu")
    monkeypatch.setitem(workers.__dict__, "client", client)
    workers.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert ended == [None]
    assert signal.getsignal(signal.SIGINT) is before


class TestScheduler:
    def test_that_is_there_is_used_and_left_running(self):
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
            for _ in range(2):
                with Workers(None, "cpu", cluster.scheduler_address) as workers:
                    assert workers.concurrency() == 1
                    assert workers.call(os.getpid) != os.getpid()
                    assert workers.device == "cpu"

    def test_that_does_not_answer_is_reported(self, monkeypatch):
        monkeypatch.setattr("pipeline.cluster.workers.CONNECT_SECONDS", 1)
        with pytest.raises(InputError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
            Workers(None, "cpu", "tcp://127.0.0.1:9").concurrency()

    def test_of_a_malformed_address_is_reported_at_once(self):
        with pytest.raises(InputError, match=r"--scheduler foo: no Dask scheduler answers there: missing port number"):
            Workers(None, "cpu", "foo").concurrency()

    def test_without_workers_is_reported(self):
        with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
            workers = Workers(None, "cpu", cluster.scheduler_address)
            with pytest.raises(InputError, match="it has no workers; start some with `dask worker tcp://"):
                workers.concurrency()


class TestOnCores:
    def test_workers_of_cores_are_their_own(self):
        with Workers(2, "cpu") as workers, workers.for_cpu() as cores:
            assert cores is workers

    def test_beside_gpu_workers_there_are_others_for_the_cores(self, monkeypatch):
        monkeypatch.setattr("pipeline.cluster.workers.may_have_gpu", lambda: True)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        with Workers(1, "auto") as workers, workers.for_cpu() as cores:
            assert (workers.device, cores.device, cores.count) == ("cuda", "cpu", None)


def test_a_worker_that_dies_while_it_starts_ends_the_run_with_the_reason(monkeypatch):
    def dies(**_):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("dask.distributed.LocalCluster", dies)
    with (
        Workers(2, "cpu") as workers,
        pytest.raises(RunError, match=r"a worker crashed while starting \(Nanny failed to start.\)"),
    ):
        workers.start(2)


def test_what_all_processes_share_is_counted_once_in_their_shares_of_the_memory(monkeypatch):
    monkeypatch.setattr("pipeline.cluster.workers.SHARED_BYTES", 400)
    assert [Workers(count, "cpu")._share(16_000) for count in (1, 4, 16)] == [16_000, 4_300, 1_375]


def test_errors_of_a_lost_scheduler_or_lost_workers_say_what_to_do_and_others_stay():
    from distributed.client import FutureCancelledError
    from distributed.scheduler import NoWorkerError

    with pytest.raises(RunError, match=r"no worker is left \(.*\): their jobs have ended"), translate_dask_errors():
        raise NoWorkerError("job", 9.0)
    with pytest.raises(RunError, match=r"the Dask scheduler is gone \(it was closed\)"), translate_dask_errors():
        raise FutureCancelledError("key", "it was closed")
    with pytest.raises(ZeroDivisionError), translate_dask_errors():
        _ = 1 / 0
