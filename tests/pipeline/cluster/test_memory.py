import sys
from types import SimpleNamespace

import psutil
import pytest
from distributed.system import MEMORY_LIMIT

from pipeline.cluster import memory
from pipeline.cluster.memory import memory_left
from pipeline.cluster.workers import Workers


@pytest.fixture
def use(monkeypatch):
    """Makes this process use so many bytes."""

    def use(used):
        process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=used))
        fake = SimpleNamespace(virtual_memory=psutil.virtual_memory, Process=lambda: process)
        monkeypatch.setattr(memory, "psutil", fake)

    return use


def test_a_worker_may_use_its_limit_and_this_process_what_there_is_less_what_is_used(use):
    use(300 << 20)
    assert memory_left() == MEMORY_LIMIT - (300 << 20)
    with Workers(0, "cpu") as workers:
        (limit,) = (one["memory_limit"] for one in workers.client.scheduler_info()["workers"].values())
        assert workers.submit(memory_left).result() == limit - (300 << 20)


def test_without_dask_it_is_not_imported_to_find_out(use, monkeypatch):
    use(5)
    monkeypatch.delitem(sys.modules, "distributed")
    assert memory_left() == psutil.virtual_memory().total - 5
    assert "distributed" not in sys.modules


def test_a_process_that_uses_more_than_it_may_has_nothing_left(use):
    use(1 << 60)
    assert memory_left() == 0
