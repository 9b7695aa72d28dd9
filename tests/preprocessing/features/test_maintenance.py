import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from preprocessing.features.groups import TEMPORARY
from preprocessing.features.maintenance import entries
from preprocessing.features.store import FeatureStore
from preprocessing.io.atomic import temporary_name


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


def test_what_a_process_that_has_ended_was_writing_is_abandoned_at_once(tmp_path):
    store = FeatureStore(tmp_path / "store")
    store.prepare()
    ended = subprocess.run(
        [sys.executable, "-c", "from preprocessing.io.atomic import temporary_name; print(temporary_name())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    living = temporary_name()
    for name in (ended, living):
        Path(store.place, TEMPORARY, name).mkdir(parents=True)
    states = {entry.key: entry.state for entry in entries(store, stale_hours=24)}
    assert states == {ended: "abandoned", living: "busy"}
