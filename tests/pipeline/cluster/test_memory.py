import sys
from types import SimpleNamespace

import psutil
import pytest
from distributed.system import MEMORY_LIMIT

from pipeline.cluster.memory import memory_left
from pipeline.cluster.workers import Workers

USED = 300 << 20


@pytest.fixture(autouse=True)
def used(monkeypatch):
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=USED))


def test_a_worker_may_use_its_limit_and_this_process_what_there_is_less_what_is_used():
    assert memory_left() == MEMORY_LIMIT - USED
    with Workers(0, "cpu") as workers:
        (limit,) = (one["memory_limit"] for one in workers.client.scheduler_info()["workers"].values())
        assert workers.submit(memory_left).result() == limit - USED


def test_without_dask_it_is_not_imported_to_find_out(monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed")
    assert memory_left() == psutil.virtual_memory().total - USED
    assert "distributed" not in sys.modules


def test_a_process_that_uses_more_than_it_may_has_nothing_left(monkeypatch):
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=1 << 60))
    assert memory_left() == 0
