import os
import time
from pathlib import Path

import numpy as np
import pytest

from preprocessing.features.maintenance import entries
from preprocessing.features.store import FeatureStore


@pytest.mark.parametrize(("hours", "state"), [(1.5, "busy"), (2.5, "abandoned")])
def test_a_part_that_was_not_touched_for_so_many_hours_is_abandoned(tmp_path, hours, state):
    store = FeatureStore(tmp_path / "store")
    store.prepare()
    store.write_part("A-k", range(3), np.zeros((3, 4), np.float32))
    then = time.time() - 3600 * hours
    for path in Path(store.place, "parts").rglob("*"):
        os.utime(path, (then, then))
    assert [(entry.kind, entry.state) for entry in entries(store, stale_hours=2)] == [("parts", state)]


def test_a_part_of_which_one_file_was_touched_just_now_is_busy(tmp_path):
    store = FeatureStore(tmp_path / "store")
    store.prepare()
    store.write_part("A-k", range(3), np.zeros((3, 4), np.float32))
    then = time.time() - 36_000
    files = [path for path in Path(store.place, "parts", "A-k").glob("*/**/*") if path.is_file()]
    for path in files[1:]:
        os.utime(path, (then, then))
    assert [entry.state for entry in entries(store, stale_hours=2)] == ["busy"]
