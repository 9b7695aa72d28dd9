import sys

import psutil
from distributed.system import MEMORY_LIMIT

from pipeline.cluster.memory import memory_share
from pipeline.cluster.workers import Workers


def test_a_worker_has_the_share_beyond_which_it_is_ended_and_this_process_what_there_is():
    assert memory_share() == MEMORY_LIMIT <= psutil.virtual_memory().total
    with Workers(0, "cpu") as workers:
        (limit,) = (one["memory_limit"] for one in workers.client.scheduler_info()["workers"].values())
        assert workers.submit(memory_share).result() == limit


def test_without_dask_it_is_not_imported_to_find_out(monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed")
    assert memory_share() == psutil.virtual_memory().total
    assert "distributed" not in sys.modules
