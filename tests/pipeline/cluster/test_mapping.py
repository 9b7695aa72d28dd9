import ctypes
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distributed import KilledWorker

from pipeline.cluster import mapping
from pipeline.cluster.mapping import Outcome, free_slot, map_jobs, map_slides
from pipeline.cluster.workers import STARTED, UNLIMITED, Workers
from pipeline.terminal.logs import OnceFromWorkers
from preprocessing.io.errors import InputError, RunError, SlideError
from preprocessing.slides.slide import Slide

ROOT = Path(__file__).resolve().parents[3]


def make_slides(*names, sizes=None):
    """Slides of no file; the first is the largest by default."""
    sizes = sizes or range(1000, 1000 - len(names), -1)
    return [
        Slide(name, name, Path(f"{name}.svs"), (0.5, 0.5), "metadata", (size, 100), "f" * 32)
        for name, size in zip(names, sizes, strict=True)
    ]


def width(slide):
    return slide.size_px[0]


@pytest.fixture(scope="module")
def inside():
    """Workers inside this process."""
    with Workers(0, "cpu") as workers:
        assert workers.concurrency() == 1  # started once for all tests
        yield workers


class TestOutcome:
    def test_after_a_stage_the_times_add_up(self):
        later = Outcome("s", "failed", "why", 3, 2.0).after(Outcome("s", "done", "", 7, 1.5, tiles="s-1"))
        assert later == Outcome("s", "failed", "why", 3, 3.5, tiles="s-1")

    def test_beside_that_of_the_rest_of_the_slide_failures_win(self):
        good, bad = Outcome("s", "done", "", 7, 1.5), Outcome("s", "failed", "why", 0, 2.0)
        assert good.combined(None) == good
        assert good.combined(good) == Outcome("s", "done", "", 14, 3.0)
        assert good.combined(bad) == bad.combined(good) == Outcome("s", "failed", "why", 7, 3.5)

    def test_reports_the_columns_of_the_ledger(self):
        row = Outcome("s", "done", "", 7, 1.2345, tiles="s-1", trace="long").as_row()
        assert row == {"status": "done", "reason": "", "n_tiles": 7, "seconds": 1.23, "tiles": "s-1"}


class TestMapSlides:
    def test_each_slide_has_an_outcome_with_its_time(self, inside):
        def work(slide, *, factor):
            time.sleep(0.01)
            return Outcome(slide.slide_id, "done", n_tiles=factor * slide.size_px[0])

        outcomes = map_slides(inside, work, make_slides("a", "b"), stage="test", size=width, factor=2)
        assert {o.slide_id: (o.status, o.n_tiles) for o in outcomes} == {"a": ("done", 2000), "b": ("done", 1998)}
        assert all(0.01 <= outcome.seconds < 5 for outcome in outcomes)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (SlideError("no tissue found"), "no tissue found"),
            (InputError("wrong"), "InputError: wrong"),
            (ValueError("odd"), "ValueError: odd"),
            (KeyError("k"), "KeyError: 'k'"),
            (MemoryError("8 GiB"), "MemoryError: 8 GiB"),
            (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
            (NameError("x"), "NameError: x (a fault of the program: report it with run.log)"),
        ],
    )
    def test_any_error_fails_its_slide_alone(self, inside, error, reason):
        def work(slide):
            if slide.slide_id == "bad":
                raise error
            return Outcome(slide.slide_id, "done")

        outcomes = {
            o.slide_id: o for o in map_slides(inside, work, make_slides("a", "bad", "b"), stage="test", size=width)
        }
        assert {name: outcome.status for name, outcome in outcomes.items()} == {
            "a": "done",
            "bad": "failed",
            "b": "done",
        }
        assert outcomes["bad"].reason == reason
        assert outcomes["bad"].seconds > 0

    def test_only_what_is_not_expected_leaves_a_traceback_in_the_log(self, inside, caplog):
        def work(slide):
            raise SlideError("no tissue found") if slide.slide_id == "empty" else ZeroDivisionError("slip")

        with caplog.at_level(logging.DEBUG, "pipeline.cluster.mapping"):
            map_slides(inside, work, make_slides("empty", "odd"), stage="tiling", size=width)
        warnings = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
        assert warnings == {"tiling empty: failed no tissue found", "tiling odd: failed ZeroDivisionError: slip"}
        traces = [record.getMessage() for record in caplog.records if "Traceback" in record.getMessage()]
        assert len(traces) == 1
        assert "ZeroDivisionError: slip" in traces[0]

    def test_the_largest_slides_come_first(self, inside, tmp_path):
        def work(slide):
            with (tmp_path / "order.txt").open("a") as file:
                file.write(slide.slide_id)
            return Outcome(slide.slide_id, "done")

        map_slides(inside, work, make_slides("m", "s", "l", "x", sizes=[50, 10, 90, 100]), stage="test", size=width)
        assert (tmp_path / "order.txt").read_text() == "xlms"

    def test_no_slides_start_no_workers(self):
        workers = Workers(0, "cpu")
        assert map_slides(workers, print, [], stage="test", size=width) == []
        assert "client" not in workers.__dict__


def process(_):
    return os.getpid()


def test_a_single_job_is_done_in_this_process():
    with Workers(2, "cpu") as workers:
        assert map_jobs(workers, process, ["fold"], stage="test", in_process=True) == [os.getpid()]
        assert "client" not in workers.__dict__


def test_as_many_processes_start_as_there_is_work_for():
    """A job that opens slides is never done in this process, which a damaged slide could end."""
    with Workers(2, "cpu") as workers:
        assert map_jobs(workers, process, ["picture"], stage="test") != [os.getpid()]
        (limit,) = (one["memory_limit"] for one in workers.client.scheduler_info()["workers"].values())
        map_jobs(workers, process, ["a", "b", "c"], stage="test")
        workers.client.wait_for_workers(2, timeout=60)
        limits = [one["memory_limit"] for one in workers.client.scheduler_info()["workers"].values()]
    assert limits == [limit, limit]


class FakeWorkers:
    """Workers whose processes die in a given way: `deaths` is how often each slide is lost before it is done."""

    loop, slide_seconds = None, None

    def __init__(self, deaths):
        self.client, self.deaths, self.log = self, deaths, []

    def start(self, tasks):
        return self

    def submit(self, guarded, work, limit, slide):
        self.log.append(f"submit {slide.slide_id}")
        return FakeFuture(self, lambda: work(slide), slide.slide_id)

    def timeout_reason(self, key, *, alone=False):
        return ""


class FakeFuture:
    def __init__(self, workers, call, name):
        self.workers, self.call, self.name = workers, call, name
        self.key = name

    def result(self):
        if self.workers.deaths.get(self.name, 0):
            self.workers.deaths[self.name] -= 1
            raise KilledWorker(self.name, None, 1)
        self.workers.log.append(f"done {self.name}")
        return self.call()

    def release(self):
        pass


def test_slides_that_lost_their_worker_are_tried_again_each_alone_when_the_others_are_done(monkeypatch):
    monkeypatch.setattr("dask.distributed.as_completed", lambda futures, loop: futures)
    workers = FakeWorkers({"neighbour": 1, "culprit": 2})
    slides = make_slides("culprit", "neighbour", "other")
    outcomes = map_slides(workers, lambda slide: Outcome(slide.slide_id, "done"), slides, stage="test", size=width)
    assert {o.slide_id: o.status for o in outcomes} == {"culprit": "failed", "neighbour": "done", "other": "done"}
    assert workers.log[3:] == ["done other", "submit culprit", "submit neighbour", "done neighbour"]


class TestMapJobs:
    def test_results_keep_the_order_of_the_jobs(self, inside):
        assert map_jobs(inside, lambda job: job * 10, [3, 1, 2], stage="test") == [30, 10, 20]

    def test_the_first_error_ends_the_run(self, inside):
        def work(job):
            if job == 2:
                raise InputError("fold 2 has no events")
            return job

        with pytest.raises(InputError, match="fold 2 has no events"):
            map_jobs(inside, work, [1, 2, 3], stage="test")


def lethal(*names):
    """Work of 0.3 seconds that ends the whole worker process at these slides, as want of memory would."""

    def work(slide):
        time.sleep(0.3)
        if slide.slide_id in names:
            os._exit(1)
        return Outcome(slide.slide_id, "done", n_tiles=int(os.environ["OMP_NUM_THREADS"]))

    return work


def hang(slide):
    """A library that hangs at one slide and lets no other thread run."""
    time.sleep(0.1)  # it opens the file
    if slide.slide_id == "hangs":
        ctypes.PyDLL(None).sleep(60)
    return Outcome(slide.slide_id, "done")


def test_a_slide_that_hangs_fails_alone_and_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(
        "pipeline.cluster.workers.CLOSE_SECONDS", 1
    )  # for the worker that comes in the place of the one that was ended
    with Workers(2, "cpu", slide_seconds=3) as workers:
        outcomes = map_slides(workers, hang, make_slides("hangs", "a", "b", "c"), stage="test", size=width)
    assert {one.slide_id: one.status for one in outcomes} == {"hangs": "failed"} | dict.fromkeys("abc", "done")
    (reason,) = (one.reason for one in outcomes if one.status == "failed")
    assert reason == "took longer than 0.05 minutes; raise the limit with --set slide_minutes=0.1"


BROKEN = "CUDA error: device-side assert triggered"


@pytest.mark.parametrize(
    ("message", "expected"),
    [(BROKEN, rf"the GPU failed \({BROKEN}\)"), ("CUDA error: out of memory", "the GPU's memory is full")],
)
def test_a_gpu_that_fails_ends_the_run_with_the_slide_or_job_that_it_worked_at(inside, message, expected):

    def work(one):
        name = one if isinstance(one, str) else one.slide_id
        if name == "b":
            raise torch.AcceleratorError(message)
        return Outcome(name, "done")

    with pytest.raises(RunError, match=f"^slide b: {expected}.*; the same command continues from what is finished"):
        map_slides(inside, work, make_slides("a", "b", "c"), stage="embedding", size=width)
    with pytest.raises(RunError, match=f"^training b: {expected}.*; the same command continues from what is finished"):
        map_jobs(inside, work, ["a", "b", "c"], stage="training")


def test_a_gpu_that_fails_in_this_process_does_too(monkeypatch):
    def work(job):
        raise torch.AcceleratorError(BROKEN)

    monkeypatch.setattr(Workers, "can_be_spared", True)
    with Workers(0, "cpu") as workers, pytest.raises(RunError, match=r"^training one: the GPU failed"):
        map_jobs(workers, work, ["one"], stage="training", in_process=True)


def test_a_slide_that_frees_its_slot_ends_beside_the_next(inside, tmp_path):
    """There is one slot."""

    def work(slide):
        (tmp_path / slide.slide_id).touch()
        start = time.monotonic()
        if slide.slide_id == "first":
            free_slot()
        while not (tmp_path / "next").exists():
            assert time.monotonic() - start < 20
            time.sleep(0.01)
        return Outcome(slide.slide_id, "done")

    outcomes = map_slides(inside, work, make_slides("first", "next"), stage="test", size=width)
    assert {one.slide_id: one.reason for one in outcomes} == {"first": "", "next": ""}


def test_no_more_than_two_slides_are_in_work(inside, tmp_path):
    """Each frees its slot at once, and gives a third one time to begin before it ends."""

    def work(slide):
        (tmp_path / f"{slide.slide_id}.begun").touch()
        free_slot()
        most, start = 0, time.monotonic()
        while most <= 2 and time.monotonic() - start < 0.3:
            most = max(most, len(list(tmp_path.glob("*.begun"))))
            time.sleep(0.01)
        (tmp_path / f"{slide.slide_id}.begun").unlink()
        return Outcome(slide.slide_id, "done", str(most))

    outcomes = map_slides(inside, work, make_slides(*"abcdef"), stage="test", size=width)
    assert {one.reason for one in outcomes} <= {"1", "2"}
    assert "2" in {one.reason for one in outcomes}


@pytest.mark.slow
def test_a_slide_that_has_freed_its_slot_does_not_fail_with_the_next_that_hangs(monkeypatch):
    """Ten seconds: the limit passes, and the worker is started again."""

    def work(slide):
        if slide.slide_id == "hangs":
            return hang(slide)
        free_slot()
        time.sleep(1)
        return Outcome(slide.slide_id, "done")

    monkeypatch.setattr("pipeline.cluster.workers.CLOSE_SECONDS", 1)
    with Workers(1, "cpu", slide_seconds=3) as workers:
        outcomes = map_slides(workers, work, make_slides("a", "hangs", "b"), stage="test", size=width)
    assert {one.slide_id: one.status for one in outcomes} == {"hangs": "failed", "a": "done", "b": "done"}
    (reason,) = (one.reason for one in outcomes if one.status == "failed")
    assert reason.startswith("took longer than 0.05 minutes")


def test_the_time_limit_of_a_slide_ends_with_its_slot_and_that_of_the_next_stays(monkeypatch):
    calls, events = [], []
    worker = SimpleNamespace(nanny="one", log_event=lambda topic, key: events.append(topic), get_current_task=str)
    monkeypatch.setattr("dask.distributed.get_worker", lambda: worker)
    monkeypatch.setattr("dask.distributed.secede", lambda: calls.append("next"))
    monkeypatch.setattr(mapping.faulthandler, "dump_traceback_later", lambda seconds, exit: calls.append(seconds))
    monkeypatch.setattr(mapping.faulthandler, "cancel_dump_traceback_later", lambda: calls.append("cancelled"))
    with mapping._time_limit(5):
        pass
    assert calls == [5, "cancelled"]
    calls.clear()

    def next_slide():
        with mapping._time_limit(7):
            pass

    with mapping._time_limit(6):
        free_slot()
        thread = threading.Thread(target=next_slide)
        thread.start()
        thread.join()
    assert calls == [6, "cancelled", "next", 7, "cancelled"]
    assert events == [STARTED, STARTED, UNLIMITED, STARTED]


@pytest.mark.parametrize("hangs", [False, True])
def test_what_is_left_of_a_slide_that_has_freed_its_slot_has_a_time_limit_too(hangs, monkeypatch):
    worker = SimpleNamespace(nanny="one", log_event=lambda topic, key: None, get_current_task=str)
    monkeypatch.setattr("dask.distributed.get_worker", lambda: worker)
    monkeypatch.setattr("dask.distributed.secede", lambda: None)
    monkeypatch.setattr(mapping.faulthandler, "dump_traceback_later", lambda seconds, exit: None)
    ended = threading.Event()
    monkeypatch.setattr(mapping, "_end_process", ended.set)
    with mapping._time_limit(0.3):
        free_slot()
        if hangs:
            assert ended.wait(20)
    assert ended.wait(0.5) == hangs


def test_a_slide_whose_worker_is_ended_took_too_long_only_while_it_had_a_limit():
    workers = Workers(1, "cpu", slide_seconds=0)
    for task in ("ended", "freed"):
        workers._note_start((0.0, task))
    workers._note_unlimited((0.0, "freed"))
    workers._note_unlimited((0.0, "never started"))
    assert workers.timeout_reason("ended").startswith("took longer")
    assert workers.timeout_reason("freed") == ""
    assert workers.timeout_reason("freed", alone=True).startswith("took longer")
    assert workers.timeout_reason("never started", alone=True) == ""


def test_at_its_end_a_process_leaves_where_it_was():
    code = "from pipeline.cluster.mapping import _end_process; _end_process(); print('it goes on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "in _end_process" in done.stderr


def test_in_the_process_of_the_run_itself_nothing_is_ended(inside, monkeypatch):
    monkeypatch.setattr(inside, "slide_seconds", 0.05)
    (outcome,) = map_slides(inside, hang, make_slides("slow"), stage="test", size=width)
    assert outcome.status == "done"
    assert outcome.seconds > 0.05


@pytest.mark.slow
def test_a_slide_that_takes_all_memory_fails_alone(monkeypatch, caplog):
    """Ten seconds: it takes a gigabyte, twice."""

    def work(slide):
        taken = []
        while slide.slide_id == "greedy":
            taken.append(b"x" * (16 << 20))
            time.sleep(0.01)
        return Outcome(slide.slide_id, "done")

    monkeypatch.setattr(Workers, "_share", lambda self, memory: 1 << 30)
    with Workers(2, "cpu", slide_seconds=300) as workers, caplog.at_level(logging.WARNING):
        outcomes = map_slides(workers, work, make_slides("greedy", "a", "b", "c"), stage="test", size=width)
    assert {one.slide_id: one.status for one in outcomes} == {"greedy": "failed"} | dict.fromkeys("abc", "done")
    (reason,) = (one.reason for one in outcomes if one.status == "failed")
    assert reason.startswith("worker crashed again in isolation: out of memory")
    assert "exceeded 95% memory budget" in caplog.text  # for the run's log
    assert "test greedy: worker crashed; retrying in isolation" in caplog.text


@pytest.fixture(scope="module")
def two():
    """Two worker processes."""
    with Workers(2, "cpu") as workers:
        yield workers


class TestMapJobsInProcesses:
    def test_a_job_whose_worker_dies_once_is_done_again(self, two, tmp_path):
        def work(job):
            if job == 2 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return job * 10

        assert map_jobs(two, work, [1, 2, 3, 4], stage="training") == [10, 20, 30, 40]

    def test_a_job_that_kills_its_worker_when_alone_ends_the_run_with_its_name(self, two):
        def work(job):
            if job == "grade, umeml, fold_1":
                os._exit(1)
            return job

        message = "training grade, umeml, fold_1: worker crashed again in isolation: out of memory"
        with pytest.raises(RunError, match=message):
            map_jobs(two, work, ["grade, umeml, fold_0", "grade, umeml, fold_1"], stage="training")

    def test_what_no_slide_can_help_ends_the_run(self, two):
        def work(slide):
            raise RunError("the disk is full")

        with pytest.raises(RunError, match="the disk is full"):
            map_slides(two, work, make_slides("a", "b", "c"), stage="test", size=width)


def warn_twice(job):
    for _ in range(2):
        logging.getLogger("pipeline.clinical").warning("covariate %s is missing", "age")
    logging.getLogger("fontTools").warning("another's")
    return Outcome(job.slide_id, "done") if isinstance(job, Slide) else job


@pytest.mark.parametrize(("place", "times"), [("inside", 14), ("two", 1)])
def test_a_warning_of_every_slide_and_every_fold_is_reported_once(place, times, request, caplog, monkeypatch):
    """Inside the run's process the log has it from where it was said; what is gathered for the end has it once anyhow."""
    workers = request.getfixturevalue(place)
    monkeypatch.setattr(caplog.handler, "filters", [OnceFromWorkers()])  # as the handlers of a run have it
    map_slides(workers, warn_twice, make_slides("a", "b", "c"), stage="test", size=width)
    assert map_jobs(workers, warn_twice, [1, 2, 3, 4], stage="test") == [1, 2, 3, 4]
    said = [(one.name, one.getMessage()) for one in caplog.records if one.levelno == logging.WARNING]
    own = [one for one in said if one[0] != "fontTools"]
    assert own == times * [("pipeline.clinical", "covariate age is missing")]
    assert place == "inside" or own == said


class TestProcesses:
    def check(self, outcomes, dead):
        assert {outcome.slide_id for outcome in outcomes if outcome.status == "failed"} == dead
        for outcome in outcomes:
            if outcome.slide_id in dead:
                assert outcome.reason.startswith("worker crashed again in isolation: out of memory")
            else:
                assert (outcome.status, outcome.n_tiles) == ("done", 1)  # one thread a process

    def test_a_slide_that_kills_its_worker_fails_alone(self):
        with Workers(2, "cpu") as workers:
            outcomes = map_slides(workers, lethal("dead"), make_slides("a", "dead", "b", "c"), stage="test", size=width)
        assert len(outcomes) == 4
        self.check(outcomes, {"dead"})

    @pytest.mark.slow
    def test_several_such_slides_take_no_other_with_them_and_workers_come_back(self):
        """A dozen deaths, more than Dask by default lets its workers come back from."""
        slides = make_slides(*"abcdefgh")
        with Workers(2, "cpu") as workers:
            self.check(map_slides(workers, lethal("a", "b", "c"), slides, stage="test", size=width), {"a", "b", "c"})
            self.check(map_slides(workers, lethal(), slides, stage="test", size=width), set())
