import ctypes
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.cluster.worker_processes import start_server
from preprocessing.io.errors import SlideError
from preprocessing.slides.isolated import Failure, map_in_threads, map_isolated

LIMIT = 0.05  # minutes


@pytest.fixture(scope="module", autouse=True)
def server():
    """As a run starts it."""
    start_server()


def work(word):
    """What a library may do with a file."""
    if word == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "leaves":
        os._exit(7)
    if word == "hangs":
        ctypes.PyDLL(None).sleep(60)  # and lets no other thread run
    if word == "refused":
        raise SlideError("no slide")
    if word == "slip":
        raise AttributeError(word)
    if word == "odd":
        raise KeyError(word)
    return word.upper(), os.getpid()


def crash_once(word, *, marks):
    try:
        (marks / word).touch(exist_ok=False)
    except FileExistsError:
        return word
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def hang_marked(mark):
    Path(mark).touch()
    ctypes.PyDLL(None).sleep(60)


def test_results_come_in_order_from_few_processes_that_are_others():
    words = [f"w{number}" for number in range(40)]
    results = map_isolated(work, words, at_once=3, minutes=LIMIT)
    assert [word for word, _ in results] == [word.upper() for word in words]
    processes = {process for _, process in results}
    assert os.getpid() not in processes
    assert len(processes) <= 3
    assert map_isolated(work, [], at_once=3, minutes=LIMIT) == []


def test_an_item_that_kills_its_process_fails_alone_with_the_cause():
    words = ["a", "crashes", "b", "leaves", "c", "d"]
    results = dict(zip(words, map_isolated(work, words, at_once=2, minutes=LIMIT), strict=True))
    reasons = {word: result.reason for word, result in results.items() if isinstance(result, Failure)}
    assert reasons == {
        "crashes": "opening it crashed the process (SIGSEGV), 2 times: damaged file, or too little memory",
        "leaves": "opening it crashed the process (exit code 7), 2 times: damaged file, or too little memory",
    }


def test_an_item_whose_process_is_killed_once_is_tried_in_another(tmp_path):
    assert map_isolated(partial(crash_once, marks=tmp_path), ["a", "b"], at_once=2, minutes=LIMIT) == ["a", "b"]


class Arriving:
    """Ends or stops the process that it arrives at, before its work is begun; only the first where there is a mark."""

    def __init__(self, sent, mark=None):
        self.sent, self.mark = sent, mark

    def __reduce__(self):
        return arrive, (self.sent, self.mark)


def arrive(sent, mark):
    if mark is None or not mark.exists():
        if mark is not None:
            mark.touch()
        os.kill(os.getpid(), sent)
        while sent == signal.SIGSTOP:  # the kernel continues the stopped processes of a shell that has ended
            os.kill(os.getpid(), sent)
    return "arrived"


def test_a_process_that_dies_before_its_work_begins_loses_no_item(tmp_path):
    items = ["a", Arriving(signal.SIGKILL, tmp_path / "mark"), "b"]
    results = map_isolated(work_of_any, items, at_once=1, minutes=LIMIT)
    assert results == ["a", "arrived", "b"]
    assert (tmp_path / "mark").exists()


def test_a_stopped_process_keeps_no_other_item_waiting():
    first, *others = map_isolated(work_of_any, [Arriving(signal.SIGSTOP), "b", "c"], at_once=2, minutes=LIMIT)
    assert first == Failure("opening took longer than 0.05 minutes; check that its disk is reachable")
    assert others == ["b", "c"]


def test_an_item_that_always_kills_its_process_fails_alone():
    failure, other = map_isolated(work_of_any, [Arriving(signal.SIGKILL), "b"], at_once=1, minutes=LIMIT)
    assert failure.reason.startswith("opening it crashed the process (SIGKILL), 2 times")
    assert other == "b"


def work_of_any(item):
    return item


def test_an_item_that_hangs_fails_alone_and_its_process_is_gone():
    start = time.monotonic()
    first, hung, last = map_isolated(work, ["a", "hangs", "b"], at_once=1, minutes=LIMIT)
    assert 60 * LIMIT <= time.monotonic() - start < 50
    assert hung == Failure("opening took longer than 0.05 minutes; check that its disk is reachable")
    assert (first[0], last[0]) == ("A", "B")
    with pytest.raises(ProcessLookupError):
        os.kill(first[1], 0)


@pytest.fixture
def ctrl_c():
    """As in the foreground of a terminal; in the background a process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_user_who_stops_the_run_does_not_wait_for_a_hanging_item(tmp_path):
    mark = tmp_path / "begun"

    def stop():
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        map_isolated(hang_marked, [mark, tmp_path / "never"], at_once=1, minutes=1)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "never").exists()


def interrupt_handler(word):
    return signal.getsignal(signal.SIGINT)


def test_processes_leave_ctrl_c_to_the_main_one():
    assert map_isolated(interrupt_handler, ["a"], at_once=1, minutes=LIMIT) == [signal.SIG_IGN]


@pytest.mark.parametrize("each", [map_in_threads, partial(map_isolated, minutes=LIMIT)])
def test_an_error_fails_its_item_alone_and_an_unexpected_one_leaves_its_traceback(each):
    refused, odd, fine = each(work, ["refused", "odd", "fine"], at_once=2)
    assert refused == Failure("no slide")
    assert odd.reason == "KeyError: 'odd'"
    assert odd.trace.endswith("KeyError: 'odd'\n")
    assert fine[0] == "FINE"


def test_a_fault_of_the_program_is_not_blamed_on_the_file():
    (failure,) = map_in_threads(work, ["slip"], at_once=1)
    assert failure.reason == "AttributeError: slip (a fault of the program: report it with run.log)"
    assert "in work" in failure.trace
